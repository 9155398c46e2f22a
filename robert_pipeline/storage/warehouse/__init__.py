"""The published tables. A configuration enters, a sink leaves; its library is imported only then."""

from robert_pipeline.config import Warehouse
from robert_pipeline.storage.warehouse.sink import TABLES, Commit, Sink, TableName

__all__ = ["TABLES", "Commit", "Sink", "TableName", "open_warehouse"]


def open_warehouse(config: Warehouse) -> Sink:
    """The sink at `config.uri`. Opens, creates and checks nothing yet: `Sink.check` does, before any work."""
    from robert_pipeline.storage.warehouse.iceberg import IcebergSink

    return IcebergSink(config)
