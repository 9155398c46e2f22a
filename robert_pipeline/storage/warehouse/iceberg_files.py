"""Data files of an Iceberg table: checked batches enter, Parquet files and their Iceberg descriptions leave.

Never commits: until a snapshot names them, the files are nobody's.
"""

import re
import uuid
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import (
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table import Table
from pyiceberg.typedef import Record

from robert_pipeline.storage.warehouse.iceberg_schema import file_schema
from robert_pipeline.storage.warehouse.sink import row_groups
from schemas import Contract

FILE_BYTES = 256 << 20
"""A new file is begun after this many bytes on disk."""

LONGEST_SLUG = 60


def write_files(
    table: Table,
    contract: Contract,
    partition: str,
    batches: Iterable[pa.RecordBatch],
    *,
    file_bytes: int = FILE_BYTES,
) -> list[DataFile]:
    """Write the batches as Parquet files of about `file_bytes`; on any error, remove the files again."""
    schema = file_schema(contract, table.schema())
    groups = row_groups(batches)
    written: list[DataFile] = []
    begun: list[str] = []
    # A name of its own for every attempt: two writers of one commit key must not touch each other's files.
    attempt = uuid.uuid4().hex
    try:
        for group in groups:
            path = table.location_provider().new_data_location(
                f"{_slug(partition)}-{attempt}-{len(written):05d}.parquet"
            )
            begun.append(path)
            written.append(_write_file(table, schema, partition, path, group, groups, file_bytes))
    except BaseException:
        remove_files(table.io, begun)
        raise
    return written


def _write_file(
    table: Table,
    schema: pa.Schema,
    partition: str,
    path: str,
    first: pa.Table,
    rest: Iterator[pa.Table],
    file_bytes: int,
) -> DataFile:
    output = table.io.new_output(path)
    with output.create(overwrite=False) as stream:
        # Page checksums: most bit flips in a Parquet file otherwise give wrong values without a word.
        with pq.ParquetWriter(stream, schema, compression="zstd", write_page_checksum=True) as writer:
            writer.write_table(first.cast(schema), row_group_size=first.num_rows)
            while stream.tell() < file_bytes:
                group = next(rest, None)
                if group is None:
                    break
                writer.write_table(group.cast(schema), row_group_size=group.num_rows)
        metadata = writer.writer.metadata
    statistics = data_file_statistics_from_parquet_metadata(
        parquet_metadata=metadata,
        stats_columns=compute_statistics_plan(table.schema(), table.properties),
        parquet_column_mapping=parquet_path_to_id_mapping(table.schema()),
    )
    return DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=path,
        file_format=FileFormat.PARQUET,
        partition=Record(partition),
        file_size_in_bytes=len(output),
        sort_order_id=None,
        spec_id=table.metadata.default_spec_id,
        equality_ids=None,
        key_metadata=None,
        **statistics.to_serialized_dict(),
    )


def remove_files(io: FileIO, paths: Iterable[str]) -> None:
    """Remove files that no snapshot names; one that cannot be removed is left for `robert table maintain`."""
    for path in paths:
        try:
            io.delete(path)
        except OSError:
            continue


def _slug(partition: str) -> str:
    """What a person can recognise of the partition, in characters that every file system and URI allows."""
    return re.sub(r"[^A-Za-z0-9=._-]+", "_", partition)[:LONGEST_SLUG]
