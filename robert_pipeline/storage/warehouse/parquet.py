"""The published tables as plain Parquet files in a folder for each partition, and manifests that say which count.

Rows of a partition enter; data files and, in one step, the manifest that names them leave. Needs no library, no server
and no lock. Removes no file that a manifest names: only `maintain` does, once the manifest is gone.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.dataset as ds

from robert_pipeline.config import Warehouse
from robert_pipeline.errors import RobertError, WarehouseError
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.store import partition_folder
from robert_pipeline.storage.warehouse.addresses import local_folder
from robert_pipeline.storage.warehouse.columns import missing_columns, someone_elses
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
from robert_pipeline.storage.warehouse.manifests import (
    DATA_FOLDER,
    MANIFEST_FOLDER,
    TEMPORARY_SUFFIX,
    HeldPartition,
    Manifest,
    NumberTaken,
    columns_of,
    current_manifest,
    expire_manifest,
    later_than,
    manifest_numbers,
    read_manifest,
    remove_expired,
    write_manifest,
)
from robert_pipeline.storage.warehouse.patience import persist
from robert_pipeline.storage.warehouse.rows import RowsFailed, check_names, checked, one_line, source_errors_unchanged
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

T = TypeVar("T")


class ParquetSink:
    """Published tables in one folder. Usable from many threads and many processes."""

    def __init__(self, config: Warehouse, *, patience_seconds: float = 120.0) -> None:
        folder = local_folder(
            config.uri, "parquet", "manifests need a file system with links; on S3 use iceberg or delta"
        )
        self._folder = folder / config.namespace
        self._uri = config.uri
        self._patience_seconds = patience_seconds

    def check(self) -> None:
        """Refuse tables with other columns than their contract, and folders of somebody else."""
        for name in TABLES:
            with self._clear_errors(name):
                self._find(contract_of(name))

    def replace_partition(
        self,
        table: TableName,
        partition: str,
        rows: Iterable[pa.RecordBatch],
        commit_key: str,
        *,
        only_new: bool = False,
    ) -> Commit:
        """New files, then a manifest that names them instead of the old ones; see Sink."""
        contract = contract_of(table)
        check_names(partition, commit_key)
        with source_errors_unchanged(), self._clear_errors(table):
            if _is_committed(self._find(contract), partition, commit_key, only_new=only_new):
                return Commit.ALREADY_COMMITTED
            files = self._write(contract, partition, checked(rows, contract, partition))

            def commit() -> Commit:
                current = self._find(contract)
                if _is_committed(current, partition, commit_key, only_new=only_new):
                    self._remove(table, files)
                    return Commit.ALREADY_COMMITTED
                self._replace(contract, current, partition, HeldPartition(commit_key=commit_key, files=tuple(files)))
                return Commit.COMMITTED

            try:
                return self._persist(commit)
            except PartitionExists:
                self._remove(table, files)
                raise

    def _write(self, contract: Contract, partition: str, rows: Iterable[pa.RecordBatch]) -> list[DataFile]:
        folder, attempt = f"{DATA_FOLDER}/{partition_folder(partition)}", new_attempt()
        files = self._files(contract.name)
        return write_files(files, contract.schema, rows, lambda n: f"{folder}/{file_name(partition, n, attempt)}")

    def _replace(self, contract: Contract, current: Manifest | None, partition: str, held: HeldPartition) -> None:
        kept = {} if current is None else current.partitions
        others = {} if current is None else current.columns
        manifest = Manifest(
            number=0 if current is None else current.number + 1,
            committed_at=later_than(current),
            columns={**others, **columns_of(contract)},
            partitions={**kept, partition: held},
            changed=partition,
        )
        write_manifest(self._folder / contract.name, manifest)

    def _remove(self, table: str, files: Iterable[DataFile]) -> None:
        for file in files:
            self._files(table).delete(file.path)

    def commit_keys(self, table: TableName) -> dict[str, str]:
        """The ledger, from the current manifest; see Sink."""
        with self._clear_errors(table):
            current = self._find(contract_of(table))
            return {} if current is None else {name: held.commit_key for name, held in current.partitions.items()}

    def read(
        self,
        table: TableName,
        partition: str | None = None,
        *,
        doc_id: str | None = None,
        as_of: AsOf | None = None,
    ) -> pa.RecordBatchReader:
        """The rows of the files of the current manifest, or an earlier one; see Sink."""
        schema = contract_of(table).schema
        dataset = self.dataset(table, partition, as_of=as_of)

        def stream() -> Iterator[pa.RecordBatch]:
            with self._clear_errors(table):
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
        with self._clear_errors(table):
            manifest = self._existing(contract)
            if as_of is not None:
                chosen = version_as_of(self.history(table), as_of, where=self._where(table))
                manifest = read_manifest(self._folder / table, int(chosen.id))
            files = self._files(table)
            paths = [
                files.full_path(file.path)
                for name, held in manifest.partitions.items()
                if partition in (None, name)
                for file in held.files
            ]
            return parquet_dataset(files.filesystem, schema_of(contract, columns), paths)

    def history(self, table: TableName) -> list[Version]:
        """The manifests; see Sink."""
        with self._clear_errors(table):
            self._existing(contract_of(table))
            return [_version(manifest) for manifest in self._manifests(table)]

    def location(self, table: TableName) -> str:
        """The table's folder."""
        contract_of(table)
        return f"{self._folder / table} (Parquet; manifests/ says which files count)"

    def maintain(self, table: TableName, upkeep: Upkeep, *, dry_run: bool) -> UpkeepReport:
        """Compact, drop manifests that are no longer wanted, then files that no manifest names; see Sink."""
        contract = contract_of(table)
        with self._clear_errors(table):
            if self._find(contract) is None:
                return UpkeepReport(table=table)
            report = self._compact(contract, upkeep, dry_run=dry_run)
            cutoff = datetime.now(UTC) - timedelta(days=upkeep.keep_days)
            expired: set[int] = set()
            named_then: set[str] = set()
            for manifest, successor in pairwise(self._manifests(table)):
                # A version that was current at the cutoff is still wanted by a reader of that moment.
                if successor.committed_at < cutoff:
                    expired.add(manifest.number)
                    named_then |= manifest.file_paths()
            if not dry_run:
                for number in sorted(expired):
                    expire_manifest(self._folder / table, number)
                remove_expired(self._folder / table)
            # Read anew: what was committed meanwhile counts, and it names no file of an expired version only.
            named: set[str] = set()
            for manifest in self._manifests(table):
                if manifest.number not in expired:
                    named |= manifest.file_paths()
            doomed = self._doomed(table, named, named_then, datetime.now(UTC) - timedelta(hours=upkeep.stray_hours))
            if not dry_run:
                for path, _ in doomed:
                    path.unlink(missing_ok=True)
        return replace(
            report,
            expired_versions=len(expired),
            deleted_files=len(doomed),
            deleted_bytes=sum(size for _, size in doomed),
        )

    def _doomed(self, table: str, named: set[str], named_then: set[str], old: datetime) -> list[tuple[Path, int]]:
        """Data files to remove, and what killed writers left half-written, with their sizes."""
        root = self._folder / table
        files = self._files(table).filesystem
        found = found_files(files, str(root / DATA_FOLDER), DATA_ENDINGS)
        found += found_files(files, str(root / MANIFEST_FOLDER), (TEMPORARY_SUFFIX,))
        doomed: list[tuple[Path, int]] = []
        for file in found:
            name = Path(file.path).relative_to(root).as_posix()
            if name not in named and (name in named_then or file.modified < old):
                doomed.append((Path(file.path), file.size_bytes))
        return doomed

    def _compact(self, contract: Contract, upkeep: Upkeep, *, dry_run: bool) -> UpkeepReport:
        partitions = files = 0
        for partition, held in self._existing(contract).partitions.items():
            if small_files(held.files, upkeep.small_file_bytes) and (
                dry_run or self._rewrite(contract, partition, held)
            ):
                partitions += 1
                files += len(held.files)
        return UpkeepReport(table=contract.name, compacted_partitions=partitions, compacted_files=files)

    def _rewrite(self, contract: Contract, partition: str, held: HeldPartition) -> bool:
        """Write the partition's rows into new files; False where somebody replaced it meanwhile, whose rows stay."""
        folder = self._files(contract.name)
        dataset = parquet_dataset(folder.filesystem, contract.schema, [folder.full_path(f.path) for f in held.files])
        files = self._write(contract, partition, scan(dataset, contract.schema))

        def commit() -> bool:
            current = self._existing(contract)
            if current.partitions.get(partition) != held:
                self._remove(contract.name, files)
                return False
            self._replace(contract, current, partition, replace(held, files=tuple(files)))
            return True

        return self._persist(commit)

    def _manifests(self, table: str) -> Iterator[Manifest]:
        """One at a time: each names every partition."""
        for number in manifest_numbers(self._folder / table):
            try:
                manifest = read_manifest(self._folder / table, number)
            except FileNotFoundError:
                continue  # expired by another process meanwhile
            yield manifest

    def _find(self, contract: Contract) -> Manifest | None:
        current = current_manifest(self._folder / contract.name)
        if current is not None:
            fix = someone_elses("warehouse.uri or warehouse.namespace")
            missing_columns(contract, columns_of(contract), current.columns, where=self._where(contract.name), fix=fix)
        return current

    def _existing(self, contract: Contract) -> Manifest:
        current = self._find(contract)
        if current is None:
            raise WarehouseError(f"there is no table '{contract.name}' in {self._uri}", fix="Publish a partition first")
        return current

    def _files(self, table: str) -> Files:
        return Files(str(self._folder / table))

    def _persist(self, commit: Callable[[], T]) -> T:
        return persist(
            commit,
            transient=lambda error: isinstance(error, NumberTaken),
            patience_seconds=self._patience_seconds,
        )

    def _where(self, table: str) -> str:
        return f"table '{table}' in {self._uri}"

    @contextmanager
    def _clear_errors(self, table: str) -> Iterator[None]:
        try:
            yield
        except (RobertError, RowsFailed):
            raise
        except NumberTaken as error:
            raise WarehouseError(
                f"{self._where(table)}: other writers kept changing it for {self._patience_seconds:.0f} s",
                fix="Run it again; what was committed stays",
                transient=True,
            ) from error
        except (OSError, pa.ArrowException) as error:
            raise WarehouseError(
                f"{self._where(table)}: {one_line(error)}",
                fix="See that the folder can be read and written",
                transient=isinstance(error, OSError),
            ) from error


def _is_committed(current: Manifest | None, partition: str, commit_key: str, *, only_new: bool) -> bool:
    held = None if current is None else current.partitions.get(partition)
    if held is None:
        return False
    if only_new and held.commit_key != commit_key:
        raise PartitionExists(f"partition '{partition}' exists", fix="Try again")
    return held.commit_key == commit_key


def _version(manifest: Manifest) -> Version:
    held = manifest.partitions.get(manifest.changed) if manifest.changed is not None else None
    return Version(
        id=str(manifest.number),
        at=manifest.committed_at,
        partition=manifest.changed,
        commit_key=None if held is None else held.commit_key,
        is_first=manifest.number == 0,
    )
