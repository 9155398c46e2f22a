"""Data files of an Iceberg table: checked batches enter, Parquet files and their Iceberg descriptions leave.

Never commits: until a snapshot names them, the files are nobody's.
"""

from collections.abc import Iterable, Iterator

import pyarrow as pa
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import (
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table import Table
from pyiceberg.typedef import Record

from robert_pipeline.storage.warehouse.data_files import FILE_BYTES, file_name, new_attempt, write_groups
from robert_pipeline.storage.warehouse.iceberg_schema import file_schema
from robert_pipeline.storage.warehouse.rows import row_groups
from schemas import Contract


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
    attempt = new_attempt()
    try:
        for group in groups:
            path = table.location_provider().new_data_location(file_name(partition, len(written), attempt))
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
        metadata = write_groups(stream, schema, first, rest, file_bytes=file_bytes)
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
