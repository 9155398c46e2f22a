"""The published tables as Iceberg tables, the default sink.

Rows of a partition enter; a snapshot that holds them, and the ledger entry in the table's properties, leave in one
commit. Removes no file that a snapshot may name: that is `robert_pipeline.storage.warehouse.iceberg_upkeep`.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
from pyiceberg.expressions import EqualTo, Reference
from pyiceberg.expressions.literals import literal
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.manifest import DataFile
from pyiceberg.table import FileScanTask, Table

from robert_pipeline.config import Warehouse
from robert_pipeline.errors import WarehouseError
from robert_pipeline.storage.warehouse.data_files import parquet_dataset, scan
from robert_pipeline.storage.warehouse.iceberg_files import remove_files, write_files
from robert_pipeline.storage.warehouse.iceberg_tables import IcebergTables
from robert_pipeline.storage.warehouse.rows import check_names, checked, source_errors_unchanged
from robert_pipeline.storage.warehouse.sink import (
    AsOf,
    Commit,
    PartitionExists,
    TableName,
    Upkeep,
    UpkeepReport,
    Version,
    contract_of,
    schema_of,
    version_as_of,
)
from schemas import Contract

LEDGER_PREFIX = "robert.commit-key."
PARTITION_SUMMARY = "robert.partition"
KEY_SUMMARY = "robert.commit-key"


class IcebergSink:
    """Published tables in one Iceberg catalog. Opens nothing until it is used; usable from many threads."""

    def __init__(self, config: Warehouse, *, patience_seconds: float = 120.0) -> None:
        self._tables = IcebergTables(config, patience_seconds=patience_seconds)
        self._uri = config.uri

    def check(self) -> None:
        """Refuse tables that exist and have other columns than their contract. Creates nothing."""
        for name in ("predictions", "rejects", "promotions"):
            with self._tables.clear_errors(name):
                self._tables.find(contract_of(name))

    def replace_partition(
        self,
        table: TableName,
        partition: str,
        rows: Iterable[pa.RecordBatch],
        commit_key: str,
        *,
        only_new: bool = False,
    ) -> Commit:
        """One snapshot drops the partition's files, adds the new ones and writes the ledger; see Sink."""
        contract = contract_of(table)
        check_names(partition, commit_key)
        with source_errors_unchanged(), self._tables.clear_errors(table):
            target = self._tables.find_or_create(contract)
            if self._is_committed(target, partition, commit_key, only_new=only_new):
                return Commit.ALREADY_COMMITTED
            files = write_files(target, contract, partition, checked(rows, contract, partition))
            return self._commit(contract, partition, files, commit_key, only_new=only_new)

    def _is_committed(self, target: Table, partition: str, commit_key: str, *, only_new: bool) -> bool:
        last = ledger(target).get(partition)
        if only_new and last not in (None, commit_key):
            raise PartitionExists(f"partition '{partition}' of {'.'.join(target.name())} exists", fix="Try again")
        return last == commit_key

    def _commit(
        self, contract: Contract, partition: str, files: list[DataFile], commit_key: str, *, only_new: bool
    ) -> Commit:
        ours: set[int] = set()

        def attempt() -> Commit:
            target = self._tables.load(contract)
            if any(target.metadata.snapshot_by_id(snapshot_id) for snapshot_id in ours):
                return Commit.COMMITTED  # an attempt that reported failure had succeeded
            try:
                already = self._is_committed(target, partition, commit_key, only_new=only_new)
            except PartitionExists:
                remove_files(target.io, [file.file_path for file in files])
                raise
            if already:
                # Another writer of the same key was first, so no snapshot names these files.
                remove_files(target.io, [file.file_path for file in files])
                return Commit.ALREADY_COMMITTED
            with target.transaction() as transaction:
                update = transaction.update_snapshot(
                    snapshot_properties={PARTITION_SUMMARY: partition, KEY_SUMMARY: commit_key}
                )
                with update.overwrite() as snapshot:
                    ours.add(snapshot.snapshot_id)
                    for task in tasks(target, partition):
                        snapshot.delete_data_file(task.file)
                    for file in files:
                        snapshot.append_data_file(file)
                transaction.set_properties({_ledger_key(partition): commit_key})
            return Commit.COMMITTED

        return self._tables.persist(attempt)

    def commit_keys(self, table: TableName) -> dict[str, str]:
        """The ledger, from the table's properties; see Sink."""
        with self._tables.clear_errors(table):
            target = self._tables.find(contract_of(table))
            return {} if target is None else ledger(target)

    def read(
        self,
        table: TableName,
        partition: str | None = None,
        *,
        doc_id: str | None = None,
        as_of: AsOf | None = None,
    ) -> pa.RecordBatchReader:
        """The rows of the snapshot that is current now, or was then; see Sink."""
        schema = contract_of(table).schema
        dataset = self.dataset(table, partition, as_of=as_of)

        def stream() -> Iterator[pa.RecordBatch]:
            with self._tables.clear_errors(table):
                yield from scan(dataset, schema, doc_id)

        return pa.RecordBatchReader.from_batches(schema, stream())

    def dataset(
        self,
        table: TableName,
        partition: str | None = None,
        *,
        columns: Sequence[str] | None = None,
        limit: int | None = None,  # noqa: ARG002 - nothing is read yet
        as_of: AsOf | None = None,
    ) -> ds.Dataset:
        """The data files of the snapshot that is current now, or was then; see Sink."""
        contract = contract_of(table)
        with self._tables.clear_errors(table):
            target = self._existing(contract)
            snapshot = (
                None if as_of is None else int(version_as_of(versions(target), as_of, where=self._where(table)).id)
            )
            found = tasks(target, partition, snapshot)
            if any(task.delete_files for task in found):
                raise WarehouseError(
                    f"{self._where(table)} holds delete files of another engine",
                    fix="Compact the table with that engine",
                )
            filesystem, paths = resolve(target, [task.file.file_path for task in found])
            return parquet_dataset(filesystem, schema_of(contract, columns), paths)

    def history(self, table: TableName) -> list[Version]:
        """The snapshots; see Sink."""
        with self._tables.clear_errors(table):
            return versions(self._existing(contract_of(table)))

    def maintain(self, table: TableName, upkeep: Upkeep, *, dry_run: bool) -> UpkeepReport:
        """Compact, expire, and remove the files of expired snapshots and strays; see Sink."""
        from robert_pipeline.storage.warehouse.iceberg_upkeep import maintain

        contract = contract_of(table)
        with self._tables.clear_errors(table):
            if self._tables.find(contract) is None:
                return UpkeepReport(table=table)
            return maintain(self._tables, contract, upkeep, dry_run=dry_run)

    def location(self, table: TableName) -> str:
        """The table's folder and the catalog that names it."""
        contract_of(table)
        return f"{self._tables.location(table) or table} (Iceberg, catalog {self._tables.place.shown})"

    def _where(self, table: TableName) -> str:
        return self._tables.where(table)

    def _existing(self, contract: Contract) -> Table:
        target = self._tables.find(contract)
        if target is None:
            raise WarehouseError(f"there is no table '{contract.name}' in {self._uri}", fix="Publish a partition first")
        return target


def versions(table: Table) -> list[Version]:
    """The snapshots of a table, the oldest first."""
    return [
        Version(
            id=str(snapshot.snapshot_id),
            at=datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC),
            partition=snapshot.summary.get(PARTITION_SUMMARY) if snapshot.summary else None,
            commit_key=snapshot.summary.get(KEY_SUMMARY) if snapshot.summary else None,
            # Not by its parent, of which it forgets when that expires.
            is_first=snapshot.sequence_number == 1,
        )
        for snapshot in sorted(table.snapshots(), key=lambda snapshot: snapshot.sequence_number or 0)
    ]


def _ledger_key(partition: str) -> str:
    return LEDGER_PREFIX + quote(partition, safe="=")


def ledger(table: Table) -> dict[str, str]:
    """The key of the last commit of every partition."""
    return {
        unquote(name.removeprefix(LEDGER_PREFIX)): value
        for name, value in table.properties.items()
        if name.startswith(LEDGER_PREFIX)
    }


def tasks(table: Table, partition: str | None, snapshot_id: int | None = None) -> list[FileScanTask]:
    """The data files of a partition, or of all, in the current snapshot or the one named."""
    if partition is None:
        return list(table.scan(snapshot_id=snapshot_id).plan_files())
    row_filter = EqualTo(term=Reference("partition"), value=literal(partition))
    return list(table.scan(row_filter=row_filter, snapshot_id=snapshot_id).plan_files())


def resolve(table: Table, paths: list[str]) -> tuple[pafs.FileSystem, list[str]]:
    """The file system that holds the table's files, and the files as that file system names them."""
    io = table.io
    if not isinstance(io, PyArrowFileIO):
        raise WarehouseError(
            f"tables read through {type(io).__name__} cannot be queried", fix="Set py-io-impl to PyArrow's"
        )
    places = [PyArrowFileIO.parse_location(path, io.properties) for path in [*paths, table.location()]]
    scheme, host, _ = places[-1]
    return io.fs_by_scheme(scheme, host), [path for _, _, path in places[:-1]]
