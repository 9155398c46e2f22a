"""The ledger of promotions, read."""

from robert_pipeline.config import Warehouse
from robert_pipeline.storage.promotions import Promotion, read_ledger, standing
from robert_pipeline.storage.warehouse import open_warehouse


def promotions(warehouse: Warehouse) -> tuple[list[Promotion], Promotion | None]:
    """Every entry of the ledger, the first one first, and the one that made the current head. Raises WarehouseError."""
    ledger = read_ledger(open_warehouse(warehouse))
    promoted = standing(ledger)
    return ledger, promoted[-1] if promoted else None
