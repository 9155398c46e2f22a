"""Look after the published tables: what versions there are, and what may go."""

from typing import cast

from robert_pipeline.config import Warehouse
from robert_pipeline.storage.warehouse import TABLES, TableName, open_warehouse
from robert_pipeline.storage.warehouse.sink import Upkeep, UpkeepReport, Version, contract_of
from robert_pipeline.telemetry.watch import observed


@observed("maintain")
def maintain(warehouse: Warehouse, upkeep: Upkeep, *, dry_run: bool) -> tuple[UpkeepReport, ...]:
    """Maintain every published table; with `dry_run`, only say what would be done. Raises WarehouseError."""
    sink = open_warehouse(warehouse)
    return tuple(sink.maintain(table, upkeep, dry_run=dry_run) for table in TABLES)


def history(warehouse: Warehouse, table: str) -> list[Version]:
    """Versions of a table that can be read, the oldest first. Raises WarehouseError where the sink keeps none."""
    name = cast(TableName, table)
    contract_of(name)
    return open_warehouse(warehouse).history(name)
