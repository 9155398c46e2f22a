"""Iceberg tables of one catalog: found, made, given the columns of a later contract version.

A contract enters, its table leaves; what the libraries raise leaves as one WarehouseError. Never touches rows.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import pyarrow as pa
from pydantic import ValidationError
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NamespaceAlreadyExistsError,
    NoSuchTableError,
    RESTError,
    ServiceUnavailableError,
    TableAlreadyExistsError,
)
from pyiceberg.exceptions import ValidationException as ChangedMeanwhile
from pyiceberg.table import Table
from requests import RequestException
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError, SQLAlchemyError

from robert_pipeline.config import Warehouse
from robert_pipeline.errors import RobertError, WarehouseError
from robert_pipeline.storage.warehouse.iceberg_catalogs import catalog_place
from robert_pipeline.storage.warehouse.iceberg_schema import compare, iceberg_schema, partition_spec
from robert_pipeline.storage.warehouse.patience import persist
from robert_pipeline.storage.warehouse.rows import RowsFailed, one_line
from schemas import Contract

T = TypeVar("T")

TABLE_PROPERTIES = {
    # Ours is the retry: it looks into the ledger again before every attempt.
    "commit.retry.num-retries": "0",
    # Each commit writes the whole metadata anew; keep a hundred for readers that are about to open one.
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "100",
    "write.parquet.compression-codec": "zstd",
}


class IcebergTables:
    """The tables of one namespace. Opens nothing until it is used; usable from many threads."""

    def __init__(self, config: Warehouse, *, patience_seconds: float) -> None:
        self.place = catalog_place(config)
        self._namespace = tuple(config.namespace.split("."))
        self._uri = config.uri
        self._patience_seconds = patience_seconds
        self._opened: dict[bool, Catalog] = {}
        self._lock = threading.Lock()

    def where(self, table: str) -> str:
        """A table, for messages."""
        return f"table '{table}' in {self._uri}"

    def location(self, table: str) -> str | None:
        """The address of the table's files; None where the catalog decides it."""
        return None if self.place.root is None else "/".join((self.place.root, ".".join(self._namespace), table))

    def load(self, contract: Contract) -> Table:
        """The table as it is now. Raises NoSuchTableError."""
        return self._catalog().load_table((*self._namespace, contract.name))

    def find(self, contract: Contract) -> Table | None:
        """The table where it exists and has the contract's columns; None where it does not exist."""
        if not self.place.may_exist():
            return None
        try:
            found = self.persist(lambda: self.load(contract))
        except NoSuchTableError:
            return None
        except DBAPIError as error:
            if self._never_used(error):
                return None
            raise
        compare(contract, found.schema(), found.spec(), where=self.where(contract.name))
        return found

    def find_or_create(self, contract: Contract) -> Table:
        """The table, with every column of the contract."""
        found = self.find(contract)
        if found is None:
            self.persist(lambda: self._create(contract))
            found = self.find(contract)
        if found is None:
            raise WarehouseError(f"{self.where(contract.name)} vanished while it was made", fix="Try again")
        return self.persist(lambda: self._evolved(contract))

    def _create(self, contract: Contract) -> None:
        catalog = self._catalog(create=True)
        # Suppressed is what another process made between the look and the making.
        with suppress(NamespaceAlreadyExistsError, IntegrityError):
            catalog.create_namespace_if_not_exists(self._namespace)
        schema = iceberg_schema(contract)
        with suppress(TableAlreadyExistsError):
            catalog.create_table(
                (*self._namespace, contract.name),
                schema=schema,
                location=self.location(contract.name),
                partition_spec=partition_spec(schema),
                properties={
                    **TABLE_PROPERTIES,
                    "comment": contract.description,
                    "robert.contract-version": str(contract.version),
                },
            )

    def _evolved(self, contract: Contract) -> Table:
        table = self.load(contract)
        missing = compare(contract, table.schema(), table.spec(), where=self.where(contract.name))
        if not missing:
            return table
        wanted = {field.name: field for field in iceberg_schema(contract).fields}
        with table.transaction() as transaction:
            with transaction.update_schema() as update:
                for name in missing:
                    update.add_column(name, wanted[name].field_type, doc=wanted[name].doc)
            transaction.set_properties({"robert.contract-version": str(contract.version)})
        return self.load(contract)

    def _catalog(self, *, create: bool = False) -> Catalog:
        with self._lock:
            if create not in self._opened:
                self._opened[create] = self.place.open(create=create)
            return self._opened[create]

    def _never_used(self, error: DBAPIError) -> bool:
        """Whether a SQL catalog has no tables of its own yet, which is no error: there are no Iceberg tables."""
        reason = str(error.orig).lower()
        return "iceberg_tables" in reason and ("does not exist" in reason or "no such table" in reason)

    def persist(self, attempt: Callable[[], T]) -> T:
        """Try again while a race was lost, or the catalog was locked or away."""
        return persist(attempt, transient=_transient, patience_seconds=self._patience_seconds)

    @contextmanager
    def clear_errors(self, table: str) -> Iterator[None]:
        """Turn what the libraries raise into one WarehouseError; errors raised on purpose pass."""
        where = self.where(table)
        try:
            yield
        except (RobertError, RowsFailed):
            raise
        except (CommitFailedException, ChangedMeanwhile, CommitStateUnknownException) as error:
            raise WarehouseError(
                f"{where}: other writers kept changing it for {self._patience_seconds:.0f} s "
                f"({self._shown(error, 120)})",
                fix="Run it again; what was committed stays",
                transient=True,
            ) from error
        except SQLAlchemyError as error:
            reason = self._shown(error.orig if isinstance(error, DBAPIError) and error.orig else error)
            raise WarehouseError(
                f"{where}: the catalog {self.place.shown} cannot be used ({reason})",
                fix="See that no other program holds it locked, and that it can be reached and written",
                transient=isinstance(error, OperationalError | InterfaceError),
            ) from error
        except (RESTError, RequestException, ServiceUnavailableError, ValidationError) as error:
            raise WarehouseError(
                f"{where}: the catalog {self.place.shown} cannot be used ({self._shown(error)})",
                fix="See that it can be reached and that its credentials are right",
                transient=isinstance(error, RequestException | ServiceUnavailableError),
            ) from error
        except (OSError, pa.ArrowException, ValueError) as error:
            raise WarehouseError(
                f"{where}: {self._shown(error)}",
                fix="See that the warehouse can be reached, read and written",
                transient=isinstance(error, OSError),
            ) from error

    def _shown(self, error: BaseException, limit: int = 300) -> str:
        return self.place.address.hide(one_line(error, limit))


def _transient(error: Exception) -> bool:
    """True where another attempt can succeed."""
    if isinstance(error, CommitFailedException | ChangedMeanwhile | CommitStateUnknownException):
        return True
    if isinstance(error, FileNotFoundError):
        return False
    if isinstance(error, DBAPIError):
        reason = str(error.orig).lower()
        return error.connection_invalidated or "locked" in reason or "busy" in reason or "already exists" in reason
    return isinstance(error, ServiceUnavailableError)
