"""Query results as files for other programs: an Arrow table enters, CSV or Parquet leaves.

CSV is opened in spreadsheets, which run what looks like a formula: a text that does gets an apostrophe in front, as
OWASP's "CSV Injection" page advises. Parquet keeps every value as it is.
"""

import csv
import json
from datetime import date
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from robert_pipeline.errors import ConfigError
from robert_pipeline.storage.files import Files

FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
CONTROL_STARTS = ("\t", "\r", "\n")


def write_csv(rows: pa.Table, stream: TextIO) -> None:
    """Nulls are empty, lists and maps JSON, times ISO 8601, texts that look like formulas marked as texts."""
    writer = csv.writer(_UnixLines(stream))
    writer.writerow([plain_text(name) for name in rows.column_names])
    for batch in rows.to_batches(max_chunksize=10_000):
        for row in batch.to_pylist(maps_as_pydicts="strict"):
            writer.writerow([_cell(value) for value in row.values()])


class _UnixLines:
    """Ends lines with a line feed. The writer has to believe in CR LF, or it leaves a CR in a text unquoted."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> int:
        return self._stream.write(line.removesuffix("\r\n") + "\n")


def plain_text(text: str) -> str:
    """The text with an apostrophe in front where a spreadsheet would take it for a formula."""
    dangerous = text.startswith(CONTROL_STARTS) or text.lstrip().startswith(FORMULA_STARTS)
    return f"'{text}" if dangerous else text


def _cell(value: object) -> object:
    if isinstance(value, dict | list):
        return plain_text(json.dumps(value, ensure_ascii=False, default=str))
    if isinstance(value, date):
        return value.isoformat()
    return plain_text(value) if isinstance(value, str) else value


def export(rows: pa.Table, path: str) -> None:
    """Put a .csv or .parquet file in place, whole. Raises ConfigError for another ending, StoreError if it cannot."""
    place = Path(path).expanduser()
    if place.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"--out is '{path}'", fix="Give a file name that ends in .csv or .parquet")
    with Files(str(place.absolute().parent)).writing(place.name) as temporary:
        if place.suffix == ".parquet":
            pq.write_table(rows, temporary, compression="zstd", write_page_checksum=True)
        else:
            with temporary.open("w", encoding="utf-8", newline="") as stream:
                write_csv(rows, stream)
