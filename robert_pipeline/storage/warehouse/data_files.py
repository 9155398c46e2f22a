"""Data files of published tables: checked batches enter, Parquet files leave, and the other way round.

Never commits: until a version of a table names them, files are nobody's.
"""

import re
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from shutil import rmtree
from typing import BinaryIO, Protocol
from weakref import finalize

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from robert_pipeline.errors import StoreError, WarehouseError
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.warehouse.rows import row_groups

FILE_BYTES = 256 << 20
"""A new file is begun after this many bytes on disk."""

DATA_ENDINGS = (".parquet", ".tmp")
"""Endings of what writers leave in a data folder; maintenance removes no file with another one."""

READ_ROWS = 16_384
LONGEST_SLUG = 60


class Output(Protocol):
    """Where a file's bytes go."""

    def tell(self) -> int:
        """Bytes written so far."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFile:
    """A Parquet file of one partition. `path` is relative to the table's folder."""

    path: str
    rows: int
    size_bytes: int


def file_name(partition: str, number: int, attempt: str) -> str:
    """A name that nobody else uses, in which a person recognises the partition."""
    return f"{slug(partition)}-{attempt}-{number:05d}.parquet"


def new_attempt() -> str:
    """A mark for the files of one attempt: two writers of one commit key must not touch each other's files."""
    return uuid.uuid4().hex


def slug(partition: str) -> str:
    """What a person can recognise of the partition, in characters that every file system and URI allows."""
    return re.sub(r"[^A-Za-z0-9=._-]+", "_", partition)[:LONGEST_SLUG]


def write_groups(
    stream: Output, schema: pa.Schema, first: pa.Table, rest: Iterator[pa.Table], *, file_bytes: int = FILE_BYTES
) -> pq.FileMetaData:
    """One Parquet file of `first` and as many of `rest` as fit into about `file_bytes`."""
    # Page checksums: most bit flips in a Parquet file otherwise give wrong values without a word.
    with pq.ParquetWriter(stream, schema, compression="zstd", write_page_checksum=True) as writer:
        writer.write_table(first.cast(schema), row_group_size=max(1, first.num_rows))
        while stream.tell() < file_bytes:
            group = next(rest, None)
            if group is None:
                break
            writer.write_table(group.cast(schema), row_group_size=group.num_rows)
    return writer.writer.metadata


def write_files(
    files: Files,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    place: Callable[[int], str],
    *,
    file_bytes: int = FILE_BYTES,
    even_if_empty: bool = False,
) -> list[DataFile]:
    """Write the batches to `place(0)`, `place(1)` …, each file whole and synced; on any error remove them again.

    With `even_if_empty` there is at least one file. Raises WarehouseError where the disk is full or cannot be written.
    """
    groups = row_groups(batches)
    written: list[DataFile] = []
    try:
        group = next(groups, schema.empty_table() if even_if_empty else None)
        while group is not None:
            path = place(len(written))
            with files.writing(path) as temporary, temporary.open("wb") as stream:
                metadata = write_groups(stream, schema, group, groups, file_bytes=file_bytes)
            size = files.entry(path).size_bytes
            written.append(DataFile(path=path, rows=metadata.num_rows, size_bytes=size))
            group = next(groups, None)
    except BaseException as error:
        for file in written:
            files.delete(file.path)
        if isinstance(error, StoreError):
            raise WarehouseError(error.problem, fix=error.fix) from error
        raise
    return written


def parquet_dataset(
    filesystem: pafs.FileSystem, schema: pa.Schema, paths: Iterable[str] | Iterable[tuple[str, str]]
) -> ds.Dataset:
    """The rows of these files in `schema`; columns that a file lacks are null. Page checksums are checked.

    A path may come with its partition, where the files do not hold that column.
    """
    options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    file_format = ds.ParquetFileFormat(default_fragment_scan_options=options)
    fragments = []
    for path in paths:
        if isinstance(path, str):
            fragments.append(file_format.make_fragment(path, filesystem))
        else:
            held = pc.field("partition") == path[1]
            fragments.append(file_format.make_fragment(path[0], filesystem, partition_expression=held))
    return ds.FileSystemDataset(fragments, schema, file_format, filesystem)


def scan(dataset: ds.Dataset, schema: pa.Schema, doc_id: str | None = None) -> Iterator[pa.RecordBatch]:
    """The dataset's rows (of one document) in the exact `schema`, some thousand at a time."""
    chosen = None if doc_id is None else pc.field("doc_id") == doc_id
    for batch in dataset.scanner(columns=schema.names, filter=chosen, batch_size=READ_ROWS).to_batches():
        yield from pa.Table.from_batches([batch]).cast(schema).to_batches()


def spooled(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> ds.Dataset:
    """Rows that can be read once, as a dataset that can be scanned again: a temporary file, gone with the dataset."""
    folder = Path(tempfile.mkdtemp(prefix="robert-rows-"))
    try:
        path = folder / "rows.parquet"
        with path.open("wb") as stream:
            write_spool(stream, batches, schema)
        dataset = parquet_dataset(pafs.LocalFileSystem(), schema, [str(path)])
    except BaseException:
        rmtree(folder, ignore_errors=True)
        raise
    finalize(dataset, rmtree, folder, ignore_errors=True)
    return dataset


def write_spool(stream: BinaryIO, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> None:
    """One quick Parquet file of the batches."""
    with pq.ParquetWriter(stream, schema, compression="zstd", compression_level=1) as writer:
        for group in row_groups(batches):
            writer.write_table(group.cast(schema), row_group_size=max(1, group.num_rows))


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A file on disk, as its file system names it."""

    path: str
    size_bytes: int
    modified: datetime


def found_files(filesystem: pafs.FileSystem, root: str, endings: tuple[str, ...]) -> list[Found]:
    """The files below a folder with one of these endings, half-written ones too; none where there is no folder."""
    selector = pafs.FileSelector(root, recursive=True, allow_not_found=True)
    return [
        Found(path=info.path, size_bytes=info.size, modified=info.mtime)
        for info in filesystem.get_file_info(selector)
        if info.type == pafs.FileType.File and info.base_name.endswith(endings)
    ]


def small_files(files: Sequence[DataFile], small_file_bytes: int) -> bool:
    """Whether a partition's files are worth writing anew: at least two of them are small enough to share one."""
    return sum(file.size_bytes < small_file_bytes / 2 for file in files) >= 2
