"""The published tables in one DuckDB file.

Rows of a partition enter; one transaction that deletes the old rows, inserts the new ones and writes the ledger leaves.
DuckDB lets one process at a time into a file that is written: the file is opened for as short as can be, rows are
gathered in a temporary file before and after, and who finds it taken waits.
"""

import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from robert_pipeline.config import Warehouse
from robert_pipeline.errors import RobertError, WarehouseError
from robert_pipeline.storage.warehouse.addresses import local_folder
from robert_pipeline.storage.warehouse.columns import TableColumn, missing_columns, someone_elses
from robert_pipeline.storage.warehouse.data_files import READ_ROWS, scan, spooled, write_spool
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
    no_history,
    schema_of,
)
from schemas import Contract
from schemas.render import identifier, sql_columns, sql_statements, text_literal

T = TypeVar("T")

LEDGER = "robert_commits"
SETTINGS = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
}
_writing = threading.Lock()
"""Keeps the threads of this process apart; the lock on the file keeps apart processes only."""

COLUMNS_SQL = """
SELECT column_name, data_type, NOT is_nullable AND column_default IS NULL
FROM duckdb_columns() WHERE schema_name = $1 AND table_name = $2
"""


class DuckdbSink:
    """Published tables in one schema of one file. Usable from many threads and many processes."""

    def __init__(self, config: Warehouse, *, patience_seconds: float = 120.0) -> None:
        self._file: Path = local_folder(config.uri, "duckdb", "a file, for example warehouse.duckdb")
        self._uri = config.uri
        self._schema = config.namespace
        self._ledger = _quoted(config.namespace, LEDGER)
        self._patience_seconds = patience_seconds

    def check(self) -> None:
        """Refuse a file that is no database, and tables with other columns than their contract."""
        for name in TABLES:
            with self._clear_errors(name):
                self._look(partial(self._columns, contract=contract_of(name)))

    def replace_partition(
        self,
        table: TableName,
        partition: str,
        rows: Iterable[pa.RecordBatch],
        commit_key: str,
        *,
        only_new: bool = False,
    ) -> Commit:
        """One transaction replaces the rows and writes the ledger; see Sink."""
        contract = contract_of(table)
        check_names(partition, commit_key)
        with source_errors_unchanged(), self._clear_errors(table):
            found = self._look(partial(self._columns, contract=contract))
            if found is not None and self._look(
                lambda connection: self._is_committed(connection, table, partition, commit_key, only_new=only_new)
            ):
                return Commit.ALREADY_COMMITTED
            with tempfile.TemporaryDirectory(prefix="robert-rows-") as folder:
                spool = Path(folder) / "rows.parquet"
                with spool.open("wb") as stream:
                    write_spool(stream, checked(rows, contract, partition), contract.schema)

                def commit() -> Commit:
                    with _writing, self._opened(read_only=False) as connection, _transaction(connection):
                        self._ensure(connection, contract)
                        if self._is_committed(connection, table, partition, commit_key, only_new=only_new):
                            return Commit.ALREADY_COMMITTED
                        self._swap(connection, table, partition, str(spool))
                        connection.execute(
                            f"INSERT INTO {self._ledger} BY NAME SELECT nextval('{self._sequence}') AS id, "
                            "$1 AS table_name, $2 AS partition, $3 AS commit_key, now() AS committed_at",
                            [table, partition, commit_key],
                        )
                    return Commit.COMMITTED

                self._file.parent.mkdir(parents=True, exist_ok=True)
                return self._persist(commit)

    def _swap(self, connection: duckdb.DuckDBPyConnection, table: str, partition: str, spool: str) -> None:
        target = _quoted(self._schema, table)
        connection.execute(f"DELETE FROM {target} WHERE partition = $1", [partition])
        connection.execute(f"INSERT INTO {target} BY NAME SELECT * FROM read_parquet($1)", [spool])

    def _ensure(self, connection: duckdb.DuckDBPyConnection, contract: Contract) -> None:
        """Make the schema, the ledger and the table where they are missing, or the table's new columns."""
        missing = self._columns(connection, contract)
        table = _quoted(self._schema, contract.name)
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {_quoted(self._schema)}")
        connection.execute(f"CREATE SEQUENCE IF NOT EXISTS {self._sequence}")
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {self._ledger} (id BIGINT NOT NULL, table_name VARCHAR NOT NULL, "
            "partition VARCHAR NOT NULL, commit_key VARCHAR NOT NULL, "
            "committed_at TIMESTAMP WITH TIME ZONE NOT NULL)"
        )
        if missing is None:
            # What was committed to a table that somebody has dropped is gone with it.
            connection.execute(f"DELETE FROM {self._ledger} WHERE table_name = $1", [contract.name])
            for statement in sql_statements(contract, "duckdb", table):
                connection.execute(statement)
        for column in sql_columns(contract, "duckdb"):
            if column.name in (missing or ()):
                name = _quoted(column.name)
                about = text_literal(column.description, "duckdb")
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {name} {column.sql_type}")
                connection.execute(f"COMMENT ON COLUMN {table}.{name} IS {about}")

    def _columns(self, connection: duckdb.DuckDBPyConnection, contract: Contract) -> list[str] | None:
        """Columns that the table still has to be given; None where there is no table. Refuses a foreign one."""
        rows = connection.execute(COLUMNS_SQL, [self._schema, contract.name]).fetchall()
        if not rows:
            return None
        found = {name: TableColumn(shape=shape, required=required) for name, shape, required in rows}
        wanted = {
            column.name: TableColumn(shape=column.sql_type, required=not column.nullable)
            for column in sql_columns(contract, "duckdb")
        }
        fix = someone_elses("warehouse.namespace")
        return missing_columns(contract, wanted, found, where=self._where(contract.name), fix=fix)

    def _is_committed(
        self, connection: duckdb.DuckDBPyConnection, table: str, partition: str, commit_key: str, *, only_new: bool
    ) -> bool:
        if not self._has_ledger(connection):
            return False
        query = (
            f"SELECT commit_key FROM {self._ledger} WHERE table_name = $1 AND partition = $2 ORDER BY id DESC LIMIT 1"
        )
        last = [key for (key,) in connection.execute(query, [table, partition]).fetchall()]
        if only_new and last and last != [commit_key]:
            raise PartitionExists(f"partition '{partition}' of table '{table}' exists", fix="Try again")
        return last == [commit_key]

    def _has_ledger(self, connection: duckdb.DuckDBPyConnection) -> bool:
        """Whether anything was ever committed: a table may also have been made by hand."""
        return bool(connection.execute(COLUMNS_SQL, [self._schema, LEDGER]).fetchall())

    def commit_keys(self, table: TableName) -> dict[str, str]:
        """The ledger, from the table of commits; see Sink."""
        contract = contract_of(table)

        def look(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
            if self._columns(connection, contract) is None or not self._has_ledger(connection):
                return {}
            query = (
                f"SELECT partition, arg_max(commit_key, id) FROM {self._ledger} "
                "WHERE table_name = $1 GROUP BY partition"
            )
            return dict(connection.execute(query, [table]).fetchall())

        with self._clear_errors(table):
            return self._look(look) or {}

    def read(
        self,
        table: TableName,
        partition: str | None = None,
        *,
        doc_id: str | None = None,
        as_of: AsOf | None = None,
    ) -> pa.RecordBatchReader:
        """A copy of the rows, so that the file is free again; see Sink."""
        schema = contract_of(table).schema
        dataset = self._copy(table, {"partition": partition, "doc_id": doc_id}, as_of)

        def stream() -> Iterator[pa.RecordBatch]:
            with self._clear_errors(table):
                yield from scan(dataset, schema)

        return pa.RecordBatchReader.from_batches(schema, stream())

    def dataset(
        self,
        table: TableName,
        partition: str | None = None,
        *,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
        as_of: AsOf | None = None,
    ) -> ds.Dataset:
        """A copy of the rows in a temporary file; see Sink."""
        return self._copy(table, {"partition": partition}, as_of, columns=columns, limit=limit)

    def _copy(
        self,
        table: TableName,
        chosen: dict[str, str | None],
        as_of: AsOf | None,
        *,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> ds.Dataset:
        contract = contract_of(table)
        schema = schema_of(contract, columns)
        if as_of is not None:
            raise no_history(self._where(table))

        def look(connection: duckdb.DuckDBPyConnection) -> ds.Dataset | None:
            missing = self._columns(connection, contract)
            if missing is None:
                return None
            # A table of an earlier contract version may have none of these columns, but rows all the same.
            names = [_quoted(name) for name in schema.names if name not in missing] or ["partition"]
            given = {name: value for name, value in chosen.items() if value is not None}
            conditions = " AND ".join([f"{name} = ${number}" for number, name in enumerate(given, start=1)]) or "true"
            query = f"SELECT {', '.join(names)} FROM {_quoted(self._schema, table)} WHERE {conditions}"
            query += "" if limit is None else f" LIMIT {limit:d}"
            reader = connection.sql(query, params=list(given.values())).to_arrow_reader(READ_ROWS)
            return spooled(_padded(reader, schema), schema)

        with self._clear_errors(table):
            copy = self._look(look)
            if copy is None:
                raise WarehouseError(
                    f"there is no table '{contract.name}' in {self._uri}", fix="Publish a partition first"
                )
            return copy

    def history(self, table: TableName) -> list[Version]:
        """There is none: raises WarehouseError."""
        contract_of(table)
        raise no_history(self._where(table))

    def maintain(self, table: TableName, upkeep: Upkeep, *, dry_run: bool) -> UpkeepReport:  # noqa: ARG002 - the protocol's
        """CHECKPOINT, which lets new rows take the space of replaced ones; DuckDB keeps no versions."""
        contract = contract_of(table)
        with self._clear_errors(table):
            if self._look(partial(self._columns, contract=contract)) is None:
                return UpkeepReport(table=table)

            def checkpoint() -> None:
                with self._opened(read_only=False) as connection:
                    connection.execute("CHECKPOINT")

            if not dry_run:
                self._persist(checkpoint)
        return UpkeepReport(table=table, note="to be checkpointed" if dry_run else "checkpointed")

    def location(self, table: TableName) -> str:
        """The table's qualified name and the file."""
        contract_of(table)
        return f"{self._schema}.{table} (DuckDB, {self._file})"

    def _look(self, look: Callable[[duckdb.DuckDBPyConnection], T]) -> T | None:
        """What `look` finds in the file, opened for reading; None where there is no file."""

        def attempt() -> T | None:
            if not self._file.exists():
                return None
            with self._opened(read_only=True) as connection:
                return look(connection)

        return self._persist(attempt)

    @contextmanager
    def _opened(self, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        connection = duckdb.connect(str(self._file), read_only=read_only, config=SETTINGS)
        try:
            yield connection
        finally:
            connection.close()

    def _persist(self, attempt: Callable[[], T]) -> T:
        return persist(attempt, transient=_taken, patience_seconds=self._patience_seconds)

    def _where(self, table: str) -> str:
        return f"table '{self._schema}.{table}' in {self._uri}"

    @property
    def _sequence(self) -> str:
        return _quoted(self._schema, "robert_commits_id")

    @contextmanager
    def _clear_errors(self, table: str) -> Iterator[None]:
        where = self._where(table)
        try:
            yield
        except (RobertError, RowsFailed):
            raise
        except duckdb.Error as error:
            fix = "See that the file is a DuckDB database that can be read and written"
            if _taken(error):
                fix = f"Another program kept it open for {self._patience_seconds:.0f} s: close it there and run again"
            raise WarehouseError(f"{where}: {one_line(error)}", fix=fix, transient=_taken(error)) from error
        except (OSError, pa.ArrowException) as error:
            raise WarehouseError(
                f"{where}: {one_line(error)}",
                fix="See that the file can be read and written",
                transient=isinstance(error, OSError),
            ) from error


@contextmanager
def _transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    connection.execute("BEGIN")
    yield
    connection.execute("COMMIT")


def _padded(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The batches with nulls for the columns that the table does not have yet."""
    for batch in batches:
        columns = [
            batch.column(field.name) if field.name in batch.schema.names else pa.nulls(batch.num_rows, field.type)
            for field in schema
        ]
        bare = pa.table(dict(zip(schema.names, columns, strict=True)))
        yield from bare.cast(schema).to_batches()


def _quoted(*names: str) -> str:
    return ".".join(identifier(name, "duckdb") for name in names)


def _taken(error: Exception) -> bool:
    """Whether the file is open elsewhere, in another process or in another way in this one.

    A file that opens while its writer closes it can lose its write-ahead log between the look and the read.
    """
    if isinstance(error, duckdb.ConnectionException):
        return "different configuration" in str(error)
    if isinstance(error, duckdb.IOException):
        return "Could not set lock" in str(error) or ".wal" in str(error)
    return isinstance(error, duckdb.TransactionException)
