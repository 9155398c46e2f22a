"""The published tables. A configuration enters, a sink leaves; its library is imported only then."""

from robert_pipeline.config import Warehouse
from robert_pipeline.storage.warehouse.extras import require
from robert_pipeline.storage.warehouse.sink import TABLES, Commit, Sink, TableName

__all__ = ["TABLES", "Commit", "Sink", "TableName", "open_warehouse"]


def open_warehouse(config: Warehouse) -> Sink:
    """The sink of `config`. Opens, creates and checks nothing yet: `Sink.check` does, before any work.

    Raises WarehouseError for an address that the sink cannot have, and where its library is not installed, naming the
    extra that brings it.
    """
    match config.sink:
        case "delta":
            require("deltalake", extra="delta", what="warehouse.sink 'delta'")
            from robert_pipeline.storage.warehouse.delta import DeltaSink

            return DeltaSink(config)
        case "parquet":
            from robert_pipeline.storage.warehouse.parquet import ParquetSink

            return ParquetSink(config)
        case "postgres":
            require("adbc_driver_postgresql", extra="postgres", what="warehouse.sink 'postgres'")
            from robert_pipeline.storage.warehouse.postgres import PostgresSink

            return PostgresSink(config)
        case "duckdb":
            from robert_pipeline.storage.warehouse.duckdb_file import DuckdbSink

            return DuckdbSink(config)
        case "bigquery":
            require("google.cloud.bigquery", extra="bigquery", what="warehouse.sink 'bigquery'")
            from robert_pipeline.storage.warehouse.bigquery import BigQuerySink

            return BigQuerySink(config)
        case "iceberg":
            from robert_pipeline.storage.warehouse.iceberg import IcebergSink

            return IcebergSink(config)
