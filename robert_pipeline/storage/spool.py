"""Rows that are made in steps and wanted as one table, most of them on disk meanwhile.

Tables enter, one table of all their rows leaves. The file has no name: nothing is left of it, whatever happens.
"""

import mmap
import tempfile
from pathlib import Path
from typing import IO

import pyarrow as pa


class RowSpool:
    """Takes tables of one schema. A single one stays in memory; from the second on all lie in a file in `folder`.

    What `rows` gives outlives the spool.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._folder = folder
        self._schema = schema
        self._held: pa.Table | None = None
        self._file: IO[bytes] | None = None
        self._writer: pa.ipc.RecordBatchFileWriter | None = None

    def add(self, rows: pa.Table) -> None:
        """Append rows."""
        if self._held is None:
            self._held = rows
            return
        if self._writer is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by `rows`, or with the spool
            self._writer = pa.ipc.new_file(self._file, self._schema)
            self._writer.write_table(self._held)
        self._writer.write_table(rows)

    def rows(self) -> pa.Table:
        """All rows, memory-mapped where there is a file. Nothing can be added any more."""
        if self._writer is None or self._file is None:
            return self._schema.empty_table() if self._held is None else self._held
        with self._file:
            self._writer.close()
            self._file.flush()
            mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped))).read_all()
