"""The published tables as Delta Lake tables: delta-rs, on a disk or an object store.

Rows of a partition enter; a version of the table that holds them leaves in one commit. The ledger is the log itself:
the path of every data file names its commit key. Files hold the partition column too, which some readers need.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from math import ceil

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
from deltalake import DeltaTable

from robert_pipeline.config import Warehouse
from robert_pipeline.errors import WarehouseError
from robert_pipeline.storage.warehouse import delta_tables as dt
from robert_pipeline.storage.warehouse.data_files import (
    DATA_ENDINGS,
    DataFile,
    file_name,
    found_files,
    new_attempt,
    parquet_dataset,
    scan,
    small_files,
    write_files,
)
from robert_pipeline.storage.warehouse.rows import check_names, checked, source_errors_unchanged
from robert_pipeline.storage.warehouse.sink import (
    TABLES,
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


class DeltaSink:
    """Published tables in one folder. Usable from many threads and many processes."""

    def __init__(self, config: Warehouse, *, patience_seconds: float = 120.0) -> None:
        self._tables = dt.DeltaTables(config, patience_seconds=patience_seconds)

    def check(self) -> None:
        """Refuse tables with other columns than their contract, and folders of somebody else."""
        for name in TABLES:
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
        """New files, then a version that has them instead of the old ones; see Sink."""
        contract = contract_of(table)
        check_names(partition, commit_key)
        with source_errors_unchanged(), self._tables.clear_errors(table):
            target = self._tables.find_or_create(contract)
            if _is_committed(dt.held_files(target), partition, commit_key, only_new=only_new):
                return Commit.ALREADY_COMMITTED
            files = self._write(contract, partition, checked(rows, contract, partition), commit_key)

            def commit() -> Commit:
                now = self._tables.existing(contract)
                held = dt.held_files(now)
                if _is_committed(held, partition, commit_key, only_new=only_new):
                    self._remove(table, files)
                    return Commit.ALREADY_COMMITTED
                dt.commit_files(
                    now,
                    partition=partition,
                    added=files,
                    removed=[file for file in held if file.partition == partition],
                    info={dt.PARTITION_INFO: partition, dt.KEY_INFO: commit_key},
                    data_change=True,
                )
                return Commit.COMMITTED

            try:
                return self._tables.persist(commit)
            except PartitionExists:
                self._remove(table, files)
                raise

    def _write(
        self, contract: Contract, partition: str, rows: Iterable[pa.RecordBatch], commit_key: str
    ) -> list[DataFile]:
        folder, attempt = dt.key_folder(commit_key), new_attempt()
        # At least one file, even of no rows: its path is the partition's entry in the ledger.
        return write_files(
            self._tables.files(contract.name),
            contract.schema,
            rows,
            lambda number: f"{folder}/{file_name(partition, number, attempt).replace('=', '-')}",
            even_if_empty=True,
        )

    def _remove(self, table: str, files: Iterable[DataFile]) -> None:
        for file in files:
            self._tables.files(table).delete(file.path)

    def commit_keys(self, table: TableName) -> dict[str, str]:
        """The ledger, from the paths of the active files; see Sink."""
        with self._tables.clear_errors(table):
            target = self._tables.find(contract_of(table))
            held = [] if target is None else dt.held_files(target)
            return {file.partition: file.commit_key for file in held if file.commit_key is not None}

    def read(
        self,
        table: TableName,
        partition: str | None = None,
        *,
        doc_id: str | None = None,
        as_of: AsOf | None = None,
    ) -> pa.RecordBatchReader:
        """The rows of the current version, or an earlier one; see Sink."""
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
        """The same as a dataset; see Sink."""
        contract = contract_of(table)
        with self._tables.clear_errors(table):
            target = self._tables.existing(contract)
            if as_of is not None:
                chosen = version_as_of(_versions(target), as_of, where=self._tables.where(table))
                target.load_as_version(int(chosen.id))
            files = self._tables.files(table)
            places = [
                (files.full_path(held.file.path), held.partition)
                for held in dt.held_files(target)
                if partition in (None, held.partition)
            ]
            if as_of is not None:
                self._refuse_cleaned_up(files.filesystem, [path for path, _ in places], table, target.version())
            return parquet_dataset(files.filesystem, schema_of(contract, columns), places)

    def _refuse_cleaned_up(self, filesystem: pafs.FileSystem, paths: list[str], table: str, version: int) -> None:
        """The log outlives the files of old versions."""
        gone = [info.path for info in filesystem.get_file_info(paths) if info.type == pafs.FileType.NotFound]
        if gone:
            raise WarehouseError(
                f"{self._tables.where(table)}: {len(gone)} files of version {version} were removed by maintenance",
                fix="Give a later version or time: see `robert table history`",
            )

    def history(self, table: TableName) -> list[Version]:
        """The versions in the log; see Sink."""
        with self._tables.clear_errors(table):
            return _versions(self._tables.existing(contract_of(table)))

    def location(self, table: TableName) -> str:
        """The table's folder."""
        contract_of(table)
        return f"{self._tables.location(table)} (Delta Lake)"

    def maintain(self, table: TableName, upkeep: Upkeep, *, dry_run: bool) -> UpkeepReport:
        """Compact, then vacuum: files of versions that are no longer wanted, and strays; see Sink."""
        contract = contract_of(table)
        with self._tables.clear_errors(table):
            target = self._tables.find(contract)
            if target is None:
                return UpkeepReport(table=table)
            report = self._compact(contract, upkeep, dry_run=dry_run)
            hours = ceil(upkeep.keep_days * 24)
            replaced = self._vacuum(contract, hours, dry_run=dry_run)
            strays = self._remove_strays(contract, max(hours, ceil(upkeep.stray_hours)), dry_run=dry_run)
        removed = replaced | strays
        return replace(report, deleted_files=len(removed), deleted_bytes=sum(removed.values()))

    def _vacuum(self, contract: Contract, hours: int, *, dry_run: bool) -> dict[str, int]:
        """Remove what the log says was replaced so long ago; gives paths and sizes."""
        sizes = self._sizes(contract.name)
        # The log names removed files for a month, those among them that are long gone too.
        doomed = {path: sizes[path] for path in self._vacuumable(contract, hours, full=False) if path in sizes}
        if doomed and not dry_run:
            self._tables.persist(
                lambda: self._tables.existing(contract).vacuum(
                    hours, dry_run=False, enforce_retention_duration=False, full=False
                )
            )
        return doomed

    def _remove_strays(self, contract: Contract, hours: int, *, dry_run: bool) -> dict[str, int]:
        """Remove what the log never named, once it is so old: a writer may still be at it.

        Not by vacuum, which would take files of any kind.
        """
        sizes = self._sizes(contract.name)
        doomed = {path: sizes[path] for path in self._vacuumable(contract, hours, full=True) if path in sizes}
        if not dry_run:
            for path in doomed:
                self._tables.files(contract.name).delete(path)
        return doomed

    def _vacuumable(self, contract: Contract, hours: int, *, full: bool) -> list[str]:
        table = self._tables.existing(contract)
        return table.vacuum(hours, dry_run=True, enforce_retention_duration=False, full=full)

    def _sizes(self, table: str) -> dict[str, int]:
        files = self._tables.files(table)
        found = found_files(files.filesystem, files.full_path("data"), DATA_ENDINGS)
        return {file.path[len(files.root) :].lstrip("/"): file.size_bytes for file in found}

    def _compact(self, contract: Contract, upkeep: Upkeep, *, dry_run: bool) -> UpkeepReport:
        by_partition: dict[str, list[dt.HeldFile]] = {}
        for held in dt.held_files(self._tables.existing(contract)):
            by_partition.setdefault(held.partition, []).append(held)
        partitions = files = 0
        for partition, held_files in by_partition.items():
            if small_files([held.file for held in held_files], upkeep.small_file_bytes) and (
                dry_run or self._rewrite(contract, partition, held_files)
            ):
                partitions += 1
                files += len(held_files)
        return UpkeepReport(table=contract.name, compacted_partitions=partitions, compacted_files=files)

    def _rewrite(self, contract: Contract, partition: str, read: list[dt.HeldFile]) -> bool:
        """Write the partition's rows into new files; False where somebody replaced it meanwhile, whose rows stay."""
        key = read[0].commit_key
        if key is None:
            return False
        folder = self._tables.files(contract.name)
        places = [(folder.full_path(held.file.path), partition) for held in read]
        rows = scan(parquet_dataset(folder.filesystem, contract.schema, places), contract.schema)
        files = self._write(contract, partition, rows, key)

        def commit() -> bool:
            now = self._tables.existing(contract)
            held = [file for file in dt.held_files(now) if file.partition == partition]
            if {file.file.path for file in held} != {file.file.path for file in read}:
                self._remove(contract.name, files)
                return False
            info = {dt.PARTITION_INFO: partition, dt.KEY_INFO: key}
            dt.commit_files(now, partition=partition, added=files, removed=held, info=info, data_change=False)
            return True

        return self._tables.persist(commit)


def _is_committed(held: Iterable[dt.HeldFile], partition: str, commit_key: str, *, only_new: bool) -> bool:
    keys = {file.commit_key for file in held if file.partition == partition}
    if only_new and keys - {commit_key}:
        raise PartitionExists(f"partition '{partition}' exists", fix="Try again")
    return keys == {commit_key}


def _versions(table: DeltaTable) -> list[Version]:
    return [
        Version(
            id=str(entry["version"]),
            at=datetime.fromtimestamp(entry["timestamp"] / 1000, UTC),
            partition=entry.get(dt.PARTITION_INFO),
            commit_key=entry.get(dt.KEY_INFO),
            is_first=int(entry["version"]) == 0,
        )
        for entry in sorted(table.history(), key=lambda entry: int(entry["version"]))
    ]
