"""Parquet files under a seal: a checksum of every byte of the file, in the file itself.

Page checksums leave page headers and the footer open, where a flipped bit can put another page's bytes in place of the
right ones. The seal is the CRC-32 of the whole file with the seal's own digits zeroed, kept in the footer's metadata:
it finds any single flipped bit and any damage of up to 32 bits in a row, and all but one in four billion of the rest.
For every other reader the file is Parquet like any other.
"""

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from robert_pipeline.storage.files import Files

SEAL_KEY = "robert.seal"
NAME_KEY = "robert.path"
_OPEN = b"00000000"
_MARK = b"\x18\x0b" + SEAL_KEY.encode() + b"\x18\x08"  # key and value as Thrift's compact protocol writes them
_PIECE_BYTES = 1 << 20
_END_BYTES = 8  # length of the footer, and PAR1
_FOOTER_BYTES = 1 << 16  # most are smaller: one request


class SealError(ValueError):
    """A file is not what its writer sealed."""


class SealedWriter:
    """Writes one Parquet file, page checksums on, and seals it when it is closed.

    `name` is the path that the file will have and be opened by; `close` may be told instead. `options` are
    ParquetWriter's.
    """

    def __init__(self, place: Path, schema: pa.Schema, *, name: str = "", **options: Any) -> None:
        self._place = place
        self._name = name
        self._writer = pq.ParquetWriter(place, schema, write_page_checksum=True, **options)
        self._is_open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.close()
        elif self._is_open:
            self._writer.close()

    def write_table(self, rows: pa.Table, row_group_size: int | None = None) -> None:
        """Append rows."""
        self._writer.write_table(rows, row_group_size=row_group_size)

    def close(self, metadata: Mapping[str, str | bytes] | None = None) -> None:
        """Finish the file and seal it; `metadata` goes into its footer. A second call does nothing."""
        if self._is_open:
            self._is_open = False
            self._writer.add_key_value_metadata({NAME_KEY: self._name, **(metadata or {}), SEAL_KEY: _OPEN})
            self._writer.close()
            _seal(self._place)


def open_sealed(files: Files, path: str, *, check_pages: bool = False) -> pq.ParquetFile:
    """Read a file whole, in one request, and check its seal and that it was written under this path.

    `check_pages` checks the page checksums as well. Raises FileNotFoundError, StoreError where the place cannot be
    reached, SealError, or what pyarrow raises for bytes that are not Parquet: OSError too, with nothing left to read.
    """
    content = files.read_buffer(path)
    _check_seal(content)
    file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=check_pages)
    name = (file.metadata.metadata or {}).get(NAME_KEY.encode(), b"").decode()
    if name != path:
        raise SealError(f"it was written as {name}")
    return file


def open_footer(files: Files, path: str) -> pq.ParquetFile:
    """Read a file's footer only, unchecked by its seal: metadata and schema are there, rows are not.

    Raises what `open_sealed` raises, but SealError.
    """
    end = files.read_end(path, _FOOTER_BYTES)
    size = int.from_bytes(end[-_END_BYTES:-4], "little") + _END_BYTES
    if size > len(end):
        end = files.read_end(path, size)
    return pq.ParquetFile(pa.BufferReader(end))


def _seal(place: Path) -> None:
    checksum = 0
    with place.open("r+b") as file:  # still under its temporary name: nobody reads it
        while piece := file.read(_PIECE_BYTES):
            checksum = zlib.crc32(piece, checksum)
        size = file.tell()
        file.seek(-_END_BYTES, os.SEEK_END)
        footer_start = size - _END_BYTES - int.from_bytes(file.read(4), "little")
        file.seek(footer_start)
        at = _digits(file.read(), footer_start)
        file.seek(at)
        file.write(f"{checksum:08x}".encode())


def _check_seal(content: pa.Buffer) -> None:
    view = memoryview(content)
    footer_start = max(0, len(view) - _END_BYTES - int.from_bytes(view[-_END_BYTES:-4], "little"))
    at = _digits(bytes(view[footer_start:]), footer_start)
    checksum = zlib.crc32(view[:at])
    checksum = zlib.crc32(_OPEN, checksum)
    checksum = zlib.crc32(view[at + len(_OPEN) :], checksum)
    if bytes(view[at : at + len(_OPEN)]) != f"{checksum:08x}".encode():
        raise SealError("its bytes are not those that were written")


def _digits(footer: bytes, footer_start: int) -> int:
    """Where in the file the seal's digits are."""
    at = footer.find(_MARK)
    if at < 0:
        raise SealError("it has no seal")
    return footer_start + at + len(_MARK)
