"""The published tables as PostgreSQL tables: rows travel by COPY, through ADBC.

Rows of a partition enter a temporary table; one transaction, under an advisory lock of that partition, takes them
over in the place of the old ones and writes the ledger. Keeps no connection open.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import pyarrow as pa
import pyarrow.dataset as ds
from adbc_driver_postgresql import dbapi

from robert_pipeline.config import Warehouse
from robert_pipeline.errors import RobertError, WarehouseError
from robert_pipeline.storage.warehouse import postgres_rows as sql
from robert_pipeline.storage.warehouse.addresses import read_address
from robert_pipeline.storage.warehouse.columns import TableColumn, missing_columns, someone_elses
from robert_pipeline.storage.warehouse.data_files import spooled
from robert_pipeline.storage.warehouse.patience import persist
from robert_pipeline.storage.warehouse.rows import (
    RowsFailed,
    check_names,
    checked,
    one_line,
    row_groups,
    source_errors_unchanged,
)
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
from schemas.render import sql_columns, text_literal

T = TypeVar("T")

STAGE = "robert_stage"
LOCKED = "55P03"
CONNECT_WAIT_SECONDS = 10
COLUMNS_SQL = """
SELECT attname, format_type(atttypid, atttypmod) AS sql_type, attnotnull AND NOT atthasdef AND attidentity = ''
FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
"""


class PostgresSink:
    """Published tables in one schema of one database. Usable from many threads and many processes."""

    def __init__(self, config: Warehouse, *, patience_seconds: float = 120.0) -> None:
        self._address = read_address("warehouse.uri", config.uri)
        if not self._address.used.startswith(("postgresql://", "postgres://")):
            raise WarehouseError(
                f"warehouse.uri {config.uri} is not a PostgreSQL address",
                fix="Give postgresql://user@host/database, the password in PGPASSWORD",
            )
        self._schema = config.namespace
        self._ledger = sql.quoted(config.namespace, "robert_commits")
        self._patience_seconds = patience_seconds

    def check(self) -> None:
        """Refuse a database out of reach, and tables with other columns than their contract."""
        for name in TABLES:
            with self._clear_errors(name), self._connected() as cursor:
                self._columns(cursor, contract_of(name))

    def replace_partition(
        self,
        table: TableName,
        partition: str,
        rows: Iterable[pa.RecordBatch],
        commit_key: str,
        *,
        only_new: bool = False,
    ) -> Commit:
        """One transaction deletes the old rows, inserts the new ones and writes the ledger; see Sink."""
        contract = contract_of(table)
        check_names(partition, commit_key, forbid_nul=True)
        with source_errors_unchanged(), self._clear_errors(table), self._connected() as cursor:
            self._ensure(cursor, contract)
            if self._is_committed(cursor, table, partition, commit_key, only_new=only_new):
                return Commit.ALREADY_COMMITTED
            cursor.connection.commit()
            staged = self._stage(cursor, checked(rows, contract, partition, forbid_nul=True))
            # Only now: a source that is slow must not keep others waiting, neither writers nor VACUUM.
            cursor.connection.commit()
            self._lock(cursor, f"{table}:{partition}")
            if self._is_committed(cursor, table, partition, commit_key, only_new=only_new):
                return Commit.ALREADY_COMMITTED
            target = sql.quoted(self._schema, table)
            cursor.execute(f"DELETE FROM {target} WHERE partition = $1", (partition,))
            if staged:
                cursor.execute(sql.insert_select(contract, self._schema, STAGE))
            cursor.execute(
                f"INSERT INTO {self._ledger} (table_name, partition, commit_key, row_count) VALUES ($1, $2, $3, $4)",
                (table, partition, commit_key, staged),
            )
            cursor.connection.commit()
            return Commit.COMMITTED

    def _stage(self, cursor: dbapi.Cursor, batches: Iterable[pa.RecordBatch]) -> int:
        """Copy the rows into a table that only this connection sees; gives their number."""
        staged = 0
        for group in row_groups(batches):
            mode = "append" if staged else "create"
            cursor.adbc_ingest(STAGE, sql.staged_batch(group), mode=mode, temporary=True)
            staged += group.num_rows
        return staged

    def _lock(self, cursor: dbapi.Cursor, what: str) -> None:
        """Wait until no other writer holds this lock; it is given back with the transaction, which it begins.

        Every statement after it sees what others have committed, whatever the server's default.
        """
        cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        cursor.execute(f"SET LOCAL lock_timeout = '{max(1, int(self._patience_seconds * 1000))}ms'")
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", (f"robert:{self._schema}:{what}",))
        cursor.fetchall()

    def _is_committed(
        self, cursor: dbapi.Cursor, table: str, partition: str, commit_key: str, *, only_new: bool
    ) -> bool:
        cursor.execute(
            f"SELECT commit_key FROM {self._ledger} WHERE table_name = $1 AND partition = $2 ORDER BY id DESC LIMIT 1",
            (table, partition),
        )
        last = [str(key) for (key,) in cursor.fetchall()]
        if only_new and last and last != [commit_key]:
            raise PartitionExists(f"partition '{partition}' of table '{table}' exists", fix="Try again")
        return last == [commit_key]

    def _ensure(self, cursor: dbapi.Cursor, contract: Contract) -> None:
        """Make the schema, the ledger and the table where they are missing, or the table's new columns."""
        missing = self._columns(cursor, contract)
        if missing != [] or not self._has_ledger(cursor):
            cursor.connection.rollback()
            # One at a time: IF NOT EXISTS alone does not keep two from making the same thing.
            self._lock(cursor, "definitions")
            missing = self._columns(cursor, contract)
            cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {sql.quoted(self._schema)}")
            for statement in sql.ledger_statements(self._ledger):
                cursor.execute(statement)
            if missing is None:
                # What was committed to a table that somebody has dropped is gone with it.
                cursor.execute(f"DELETE FROM {self._ledger} WHERE table_name = $1", (contract.name,))
                for statement in sql.create_statements(contract, self._schema):
                    cursor.execute(statement)
            table = sql.quoted(self._schema, contract.name)
            for column in sql_columns(contract, "postgres"):
                if column.name in (missing or ()):
                    name = sql.quoted(column.name)
                    about = text_literal(column.description, "postgres")
                    cursor.execute(f"ALTER TABLE {table} ADD COLUMN {name} {column.sql_type}")
                    cursor.execute(f"COMMENT ON COLUMN {table}.{name} IS {about}")
            cursor.connection.commit()

    def _columns(self, cursor: dbapi.Cursor, contract: Contract) -> list[str] | None:
        """Columns that the table still has to be given; None where there is no table. Refuses a foreign one."""
        cursor.execute(COLUMNS_SQL, (sql.quoted(self._schema, contract.name),))
        found = {str(n): TableColumn(shape=str(t), required=bool(required)) for n, t, required in cursor.fetchall()}
        if not found:
            return None
        wanted = {
            column.name: TableColumn(shape=column.sql_type, required=not column.nullable)
            for column in sql_columns(contract, "postgres")
        }
        fix = someone_elses("warehouse.namespace")
        return missing_columns(contract, wanted, found, where=self._where(contract.name), fix=fix)

    def _has_ledger(self, cursor: dbapi.Cursor) -> bool:
        """Whether anything was ever committed: a table may also have been made by hand."""
        cursor.execute("SELECT to_regclass($1) IS NOT NULL", (self._ledger,))
        ((found,),) = cursor.fetchall()
        return bool(found)

    def commit_keys(self, table: TableName) -> dict[str, str]:
        """The ledger, from the table of commits; see Sink."""
        contract = contract_of(table)
        with self._clear_errors(table), self._connected() as cursor:
            if self._columns(cursor, contract) is None or not self._has_ledger(cursor):
                return {}
            cursor.execute(
                f"SELECT DISTINCT ON (partition) partition, commit_key FROM {self._ledger} "
                "WHERE table_name = $1 ORDER BY partition, id DESC",
                (table,),
            )
            return {str(partition): str(key) for partition, key in cursor.fetchall()}

    def read(
        self,
        table: TableName,
        partition: str | None = None,
        *,
        doc_id: str | None = None,
        as_of: AsOf | None = None,
    ) -> pa.RecordBatchReader:
        """The rows that are committed when the reading begins; see Sink."""
        return self._reader(table, {"partition": partition, "doc_id": doc_id}, as_of)

    def _reader(
        self,
        table: TableName,
        chosen: dict[str, str | None],
        as_of: AsOf | None,
        *,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> pa.RecordBatchReader:
        contract = contract_of(table)
        if as_of is not None:
            raise no_history(self._where(table))
        schema = schema_of(contract, columns)
        return pa.RecordBatchReader.from_batches(schema, self._begun(self._batches(contract, schema, chosen, limit)))

    def _batches(
        self, contract: Contract, schema: pa.Schema, chosen: dict[str, str | None], limit: int | None
    ) -> Iterator[pa.RecordBatch | None]:
        """Nothing once the query has begun, which fixes what is read; then the rows."""
        with self._clear_errors(contract.name), self._connected() as cursor:
            missing = self._columns(cursor, contract)
            if missing is None:
                raise self._no_table(contract)
            given = {name: value for name, value in chosen.items() if value is not None}
            conditions = [f"{name} = ${number}" for number, name in enumerate(given, start=1)]
            query = sql.select(contract, self._schema, [n for n in schema.names if n not in missing])
            query += f" WHERE {' AND '.join(conditions)}" if conditions else ""
            query += "" if limit is None else f" LIMIT {limit:d}"
            cursor.execute(query, tuple(given.values()) or None)
            reader = cursor.fetch_record_batch()
            yield None
            for batch in reader:
                yield from sql.contract_batches(batch, schema)

    def _begun(self, batches: Iterator[pa.RecordBatch | None]) -> Iterator[pa.RecordBatch]:
        next(batches)
        return (batch for batch in batches if batch is not None)

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
        reader = self._reader(table, {"partition": partition}, as_of, columns=columns, limit=limit)
        with self._clear_errors(table):
            return spooled(reader, reader.schema)

    def history(self, table: TableName) -> list[Version]:
        """There is none: raises WarehouseError."""
        contract_of(table)
        raise no_history(self._where(table))

    def maintain(self, table: TableName, upkeep: Upkeep, *, dry_run: bool) -> UpkeepReport:  # noqa: ARG002 - the protocol's
        """VACUUM, which frees the space of replaced rows; PostgreSQL keeps no versions and no files of its own."""
        contract = contract_of(table)
        with self._clear_errors(table):
            with self._connected() as cursor:
                if self._columns(cursor, contract) is None:
                    return UpkeepReport(table=table)
            if not dry_run:
                with self._connected(autocommit=True) as cursor:
                    cursor.execute(f"VACUUM (ANALYZE) {sql.quoted(self._schema, table)}")
        return UpkeepReport(table=table, note="to be vacuumed" if dry_run else "vacuumed")

    def location(self, table: TableName) -> str:
        """The table's qualified name and the database."""
        contract_of(table)
        return f"{self._schema}.{table} (PostgreSQL, {self._address.shown})"

    def _where(self, table: str) -> str:
        return f"table '{self._schema}.{table}' in {self._address.shown}"

    def _no_table(self, contract: Contract) -> WarehouseError:
        return WarehouseError(
            f"there is no table '{contract.name}' in {self._address.shown}", fix="Publish a partition first"
        )

    @contextmanager
    def _connected(self, *, autocommit: bool = False) -> Iterator[dbapi.Cursor]:
        """A cursor in a transaction of its own, which is undone unless it is committed."""
        mark = "&" if "?" in self._address.used else "?"
        uri = f"{self._address.used}{mark}connect_timeout={CONNECT_WAIT_SECONDS}"
        connecting = self._persist(lambda: dbapi.connect(uri, autocommit=autocommit))
        with connecting as connection, connection.cursor() as cursor:
            yield cursor

    def _persist(self, attempt: Callable[[], T]) -> T:
        return persist(attempt, transient=_busy, patience_seconds=self._patience_seconds)

    @contextmanager
    def _clear_errors(self, table: str) -> Iterator[None]:
        where = self._where(table)
        try:
            yield
        except (RobertError, RowsFailed):
            raise
        except dbapi.Error as error:
            if error.sqlstate == LOCKED:
                raise WarehouseError(
                    f"{where}: another writer held its lock for {self._patience_seconds:.0f} s",
                    fix="Run it again; what was committed stays",
                    transient=True,
                ) from error
            raise WarehouseError(
                f"{where}: {self._reason(error)}",
                fix="See that the database can be reached, read and written",
                transient=_is_away(error),
            ) from None
        except (OSError, pa.ArrowException, ValueError) as error:
            raise WarehouseError(
                f"{where}: {self._address.hide(one_line(error))}",
                fix="See that the database can be reached",
                transient=isinstance(error, OSError),
            ) from None

    def _reason(self, error: dbapi.Error) -> str:
        """The server's words, without the query and without what could hold a part of a password."""
        text = str(error).split("\n\nQuery was:")[0]
        if "Failed to connect" in text and "connection to server" not in text and "host name" not in text:
            return "it is not an address that PostgreSQL understands"
        return self._address.hide(one_line(Exception(text)))


def _is_away(error: dbapi.Error) -> bool:
    """Whether the server cannot be reached, or has gone away or is going: it may be restarted at this moment."""
    # Without a code: the connection failed. Classes 08 and 57P: connection exceptions, and a server that shuts down.
    return not error.sqlstate or error.sqlstate.startswith(("08", "57P", "53"))


def _busy(error: Exception) -> bool:
    """Whether the server may take a connection a moment later: it is starting, or all its places are taken."""
    reason = str(error)
    return isinstance(error, dbapi.Error) and (
        "starting up" in reason or "too many clients" in reason or "remaining connection slots" in reason
    )
