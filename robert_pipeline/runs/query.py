"""SQL over the published tables: a statement enters, an Arrow table leaves. Never changes a table."""

from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from robert_pipeline.config import Warehouse
from robert_pipeline.errors import WarehouseError
from robert_pipeline.storage.warehouse import TABLES, Sink, open_warehouse
from robert_pipeline.storage.warehouse.rows import one_line
from robert_pipeline.storage.warehouse.sink import contract_of

if TYPE_CHECKING:
    import duckdb


def query(warehouse: Warehouse, sql: str, *, as_of: datetime | None = None) -> pa.Table:
    """What `sql` (DuckDB's dialect) gives over the views `predictions`, `rejects` and `promotions`, as they were then.

    Only the columns and rows that the statement needs are read. The statement can reach these three views and
    nothing else: no file, no network, no extension, no secret. Raises WarehouseError, in one line, for a
    statement that cannot run and for a warehouse without tables.
    """
    import duckdb

    connection = _connection()
    try:
        _register(connection, open_warehouse(warehouse), warehouse.uri, as_of)
        connection.execute("SET TimeZone = 'UTC'")
        # Locked before the statement runs, so that the statement cannot loosen it.
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        result = connection.sql(sql)
        return pa.table({}) if result is None else result.to_arrow_table()
    except (duckdb.Error, pa.ArrowException) as error:
        raise WarehouseError(f"the query cannot run: {_reason(error)}", fix="Correct the SQL") from error
    finally:
        connection.close()


def _reason(error: Exception) -> str:
    """DuckDB's message without its drawing of where in the statement the error is."""
    return one_line(Exception(str(error).split("\n\nLINE ")[0]))


def _connection() -> "duckdb.DuckDBPyConnection":
    import duckdb

    return duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "allow_persistent_secrets": "false",
            "python_enable_replacements": "false",
        },
    )


def _register(connection: "duckdb.DuckDBPyConnection", sink: Sink, uri: str, as_of: datetime | None) -> None:
    published = [table for table in TABLES if sink.commit_keys(table)]
    if not published:
        raise WarehouseError(
            f"nothing is published in {uri} yet", fix="Run 'robert publish', or give another warehouse"
        )
    if as_of is not None:
        # A table that is younger than that moment was empty then; all of them cannot be. One that has lost its first
        # versions is not known to be younger.
        oldest = {table: sink.history(table)[0] for table in published}
        existing = [table for table in published if oldest[table].at <= as_of or not oldest[table].is_first]
        published = existing or published
    for table in TABLES:
        empty = contract_of(table).schema.empty_table()
        connection.register(table, sink.dataset(table, as_of=as_of) if table in published else empty)
