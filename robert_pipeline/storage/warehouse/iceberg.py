"""The published tables as Iceberg tables, the default sink: PyIceberg, a SQLite catalog in the folder.

Rows of a partition enter; a snapshot that holds them, and the ledger entry in the table's properties,
leave in one commit. Never removes a file that a snapshot may name: that is maintenance.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.dataset as ds
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NamespaceAlreadyExistsError,
    NoSuchTableError,
    RESTError,
    ServiceUnavailableError,
    TableAlreadyExistsError,
    ValidationException,
)
from pyiceberg.expressions import EqualTo, Reference
from pyiceberg.expressions.literals import literal
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.manifest import DataFile
from pyiceberg.table import FileScanTask, Table
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from robert_pipeline.config import Warehouse
from robert_pipeline.errors import RobertError, WarehouseError
from robert_pipeline.storage.warehouse.iceberg_files import remove_files, write_files
from robert_pipeline.storage.warehouse.iceberg_schema import iceberg_schema, partition_spec, refuse_foreign
from robert_pipeline.storage.warehouse.patience import persist
from robert_pipeline.storage.warehouse.places import local_path
from robert_pipeline.storage.warehouse.sink import (
    Commit,
    RowsFailed,
    TableName,
    check_names,
    checked,
    contract_of,
    one_line,
    source_errors_unchanged,
)
from schemas import Contract

T = TypeVar("T")

LEDGER_PREFIX = "robert.commit-key."
CATALOG_FILE = "catalog.db"
CATALOG_NAME = "robert"
SQLITE_WAIT_SECONDS = 1

TABLE_PROPERTIES = {
    # Ours is the retry: it looks into the ledger again before every attempt.
    "commit.retry.num-retries": "0",
    # Each commit writes the whole metadata anew; keep a hundred for readers that are about to open one.
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "100",
    "write.parquet.compression-codec": "zstd",
}


class IcebergSink:
    """Published tables in one Iceberg catalog. Opens nothing until it is used; usable from many threads."""

    def __init__(self, config: Warehouse, *, patience_seconds: float = 120.0) -> None:
        self._namespace = config.namespace
        self._uri = config.uri
        self._patience_seconds = patience_seconds
        folder = local_path(config.uri)
        if folder is None:
            raise WarehouseError(
                f"warehouse.uri {config.uri} is not a local folder",
                fix="Give a folder: the embedded Iceberg catalog is a SQLite file in it",
            )
        self._folder: Path = folder
        self._opened: Catalog | None = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """Refuse tables that exist and have other columns than their contract. Creates nothing."""
        for name in ("predictions", "rejects"):
            with self._clear_errors(name):
                self._find(contract_of(name))

    def replace_partition(
        self, table: TableName, partition: str, rows: Iterable[pa.RecordBatch], commit_key: str
    ) -> Commit:
        """One snapshot drops the partition's files, adds the new ones and writes the ledger; see Sink."""
        contract = contract_of(table)
        check_names(partition, commit_key)
        with source_errors_unchanged(), self._clear_errors(table):
            target = self._find_or_create(contract)
            if _ledger(target).get(partition) == commit_key:
                return Commit.ALREADY_COMMITTED
            files = write_files(target, contract, partition, checked(rows, contract, partition))
            return self._commit(contract, partition, files, commit_key)

    def _commit(self, contract: Contract, partition: str, files: list[DataFile], commit_key: str) -> Commit:
        ours: set[int] = set()

        def attempt() -> Commit:
            target = self._catalog().load_table(self._identifier(contract))
            if any(target.metadata.snapshot_by_id(snapshot_id) for snapshot_id in ours):
                return Commit.COMMITTED  # an attempt that reported failure had succeeded
            if _ledger(target).get(partition) == commit_key:
                # Another writer of the same key was first, so no snapshot names these files.
                remove_files(target.io, [file.file_path for file in files])
                return Commit.ALREADY_COMMITTED
            with target.transaction() as transaction:
                update = transaction.update_snapshot(
                    snapshot_properties={"robert.partition": partition, "robert.commit-key": commit_key}
                )
                with update.overwrite() as snapshot:
                    ours.add(snapshot.snapshot_id)
                    for task in _tasks(target, partition):
                        snapshot.delete_data_file(task.file)
                    for file in files:
                        snapshot.append_data_file(file)
                transaction.set_properties({_ledger_key(partition): commit_key})
            return Commit.COMMITTED

        return self._persist(attempt)

    def commit_keys(self, table: TableName) -> dict[str, str]:
        """The ledger, from the table's properties; see Sink."""
        with self._clear_errors(table):
            target = self._find(contract_of(table))
            return {} if target is None else _ledger(target)

    def read(self, table: TableName, partition: str | None = None) -> pa.RecordBatchReader:
        """The rows of the snapshot that is current now; see Sink."""
        schema = contract_of(table).schema
        scanner = self.dataset(table, partition).scanner(columns=schema.names, batch_size=16_384)
        return pa.RecordBatchReader.from_batches(schema, self._stream(table, schema, scanner))

    def _stream(self, table: TableName, schema: pa.Schema, scanner: ds.Scanner) -> Iterator[pa.RecordBatch]:
        with self._clear_errors(table):
            for batch in scanner.to_batches():
                yield from pa.Table.from_batches([batch]).cast(schema).to_batches()

    def dataset(self, table: TableName, partition: str | None = None) -> ds.Dataset:
        """The data files of the snapshot that is current now; see Sink."""
        contract = contract_of(table)
        with self._clear_errors(table):
            target = self._find(contract)
            if target is None:
                raise WarehouseError(f"there is no table '{table}' in {self._uri}", fix="Publish a partition first")
            tasks = _tasks(target, partition)
            if any(task.delete_files for task in tasks):
                raise WarehouseError(
                    f"table '{table}' in {self._uri} holds delete files of another engine",
                    fix="Compact the table with that engine",
                )
            return _files_dataset(target, contract.schema, [task.file.file_path for task in tasks])

    def location(self, table: TableName) -> str:
        """The table's folder and the catalog that names it."""
        contract_of(table)
        return f"{self._folder / self._namespace / table} (Iceberg, catalog {self._folder / CATALOG_FILE})"

    def _identifier(self, contract: Contract) -> tuple[str, ...]:
        return (*self._namespace.split("."), contract.name)

    def _catalog(self) -> Catalog:
        with self._lock:
            if self._opened is None:
                self._opened = _sqlite_catalog(self._folder)
            return self._opened

    def _find(self, contract: Contract) -> Table | None:
        """The table where it exists and has the contract's columns; None where it does not exist."""
        if not (self._folder / CATALOG_FILE).is_file():
            return None
        try:
            found = self._persist(lambda: self._catalog().load_table(self._identifier(contract)))
        except NoSuchTableError:
            return None
        where = f"table '{contract.name}' in {self._uri}"
        refuse_foreign(contract, found.schema(), found.spec(), where=where)
        return found

    def _find_or_create(self, contract: Contract) -> Table:
        found = self._find(contract)
        if found is not None:
            return found
        self._folder.mkdir(parents=True, exist_ok=True)

        def create() -> None:
            catalog = self._catalog()
            identifier = self._identifier(contract)
            # Suppressed is what another process made between the look and the making.
            with suppress(NamespaceAlreadyExistsError, IntegrityError):
                catalog.create_namespace_if_not_exists(identifier[:-1])
            schema = iceberg_schema(contract)
            with suppress(TableAlreadyExistsError):
                catalog.create_table(
                    identifier,
                    schema=schema,
                    location=str(self._folder / self._namespace / contract.name),
                    partition_spec=partition_spec(schema),
                    properties={
                        **TABLE_PROPERTIES,
                        "comment": contract.description,
                        "robert.contract-version": str(contract.version),
                    },
                )

        self._persist(create)
        made = self._find(contract)
        if made is None:
            raise WarehouseError(f"table '{contract.name}' in {self._uri} vanished while it was made", fix="Try again")
        return made

    def _persist(self, attempt: Callable[[], T]) -> T:
        return persist(attempt, transient=_transient, patience_seconds=self._patience_seconds)

    @contextmanager
    def _clear_errors(self, table: str) -> Iterator[None]:
        """Turn what the libraries raise into one WarehouseError; errors raised on purpose pass."""
        where = f"table '{table}' in {self._uri}"
        try:
            yield
        except (RobertError, RowsFailed):
            raise
        except (CommitFailedException, ValidationException, CommitStateUnknownException) as error:
            reason = one_line(error, 120)
            raise WarehouseError(
                f"{where}: other writers kept changing it for {self._patience_seconds:.0f} s ({reason})",
                fix="Run it again; what was committed stays",
            ) from error
        except SQLAlchemyError as error:
            reason = one_line(error.orig if isinstance(error, DBAPIError) and error.orig else error)
            raise WarehouseError(
                f"{where}: the catalog {CATALOG_FILE} cannot be used ({reason})",
                fix="See that no other program holds it locked, and that the folder may be written",
            ) from error
        except (OSError, pa.ArrowException, RESTError, ServiceUnavailableError, ValueError) as error:
            raise WarehouseError(
                f"{where}: {one_line(error)}", fix="See that the warehouse can be reached, read and written"
            ) from error


def _sqlite_catalog(folder: Path) -> Catalog:
    from pyiceberg.catalog.sql import SqlCatalog

    # As a file: URI, so that a folder's ?, # and % are not taken for syntax.
    database = f"file:{quote(str(folder / CATALOG_FILE))}"
    return SqlCatalog(
        CATALOG_NAME,
        uri=f"sqlite:///{database}?uri=true&timeout={SQLITE_WAIT_SECONDS}",
        warehouse=str(folder),
    )


def _transient(error: Exception) -> bool:
    """True where another attempt can succeed: a race was lost, or the catalog was locked or away."""
    if isinstance(error, CommitFailedException | ValidationException | CommitStateUnknownException):
        return True
    if isinstance(error, FileNotFoundError):
        return False
    if isinstance(error, DBAPIError):
        reason = str(error.orig).lower()
        return error.connection_invalidated or "locked" in reason or "busy" in reason or "already exists" in reason
    return isinstance(error, ServiceUnavailableError)


def _ledger_key(partition: str) -> str:
    return LEDGER_PREFIX + quote(partition, safe="=")


def _ledger(table: Table) -> dict[str, str]:
    return {
        unquote(name.removeprefix(LEDGER_PREFIX)): value
        for name, value in table.properties.items()
        if name.startswith(LEDGER_PREFIX)
    }


def _tasks(table: Table, partition: str | None) -> list[FileScanTask]:
    scan = (
        table.scan()
        if partition is None
        else table.scan(row_filter=EqualTo(term=Reference("partition"), value=literal(partition)))
    )
    return list(scan.plan_files())


def _files_dataset(table: Table, schema: pa.Schema, paths: list[str]) -> ds.Dataset:
    options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    file_format = ds.ParquetFileFormat(default_fragment_scan_options=options)
    io = table.io
    if not isinstance(io, PyArrowFileIO):
        raise WarehouseError(
            f"tables read through {type(io).__name__} cannot be queried", fix="Set py-io-impl to PyArrow's"
        )
    places = [PyArrowFileIO.parse_location(path, io.properties) for path in paths]
    scheme, host = (places[0][0], places[0][1]) if places else ("file", "")
    return ds.FileSystemDataset.from_paths(
        [path for _, _, path in places],
        schema=schema,
        format=file_format,
        filesystem=io.fs_by_scheme(scheme, host),
    )
