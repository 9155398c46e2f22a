"""The ledger of promotions, a published table: which head was the current one since when.

An entry is a partition of its own under the next number, and a partition that exists is never replaced, so of two who
decide at the same moment one is told that the other was faster. Entries are added and never changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import pyarrow as pa

from robert_pipeline import __version__
from robert_pipeline.config import fingerprint
from robert_pipeline.errors import GateError
from robert_pipeline.storage.warehouse import Sink
from robert_pipeline.storage.warehouse.sink import PartitionExists
from schemas import PROMOTIONS

Action = Literal["promote", "rollback"]
Measures = tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Promotion:
    """One change of the current head; see the promotions contract."""

    number: int
    action: Action
    head_fingerprint: str
    previous_head_fingerprint: str | None
    encoder_fingerprint: str
    chunking_fingerprint: str
    model: str
    decided_by: str
    decided_at: datetime
    reason: str | None = None
    compared_partitions: tuple[str, ...] = ()
    documents: int = 0
    flips: int = 0
    measured: Measures = ()
    limits: Measures = ()
    code_version: str = __version__
    run_id: str


def read_ledger(sink: Sink) -> list[Promotion]:
    """Every entry, the first one first. Raises WarehouseError."""
    if not sink.commit_keys("promotions"):
        return []
    rows = sink.read("promotions").read_all().sort_by("partition").to_pylist()
    return [
        Promotion(
            number=int(row.pop("partition")),
            compared_partitions=tuple(row.pop("compared_partitions")),
            measured=tuple(row.pop("measured")),
            limits=tuple(row.pop("limits")),
            **row,
        )
        for row in rows
    ]


def add_entry(sink: Sink, entry: Promotion) -> None:
    """Add an entry to the ledger. Raises GateError where another one has its number."""
    row = {name: getattr(entry, name) for name in PROMOTIONS.schema.names if name != "partition"}
    row |= {"partition": f"{entry.number:06d}", "measured": list(entry.measured), "limits": list(entry.limits)}
    row["compared_partitions"] = list(entry.compared_partitions)
    rows = pa.RecordBatch.from_pylist([row], schema=PROMOTIONS.schema)
    key = fingerprint(
        "promotion/1",
        {"number": entry.number, "head": entry.head_fingerprint, "run": entry.run_id, "action": entry.action},
    )
    try:
        sink.replace_partition("promotions", row["partition"], [rows], key, only_new=True)
    except PartitionExists as error:
        raise GateError(
            f"another head was promoted or rolled back at the same moment (entry {row['partition']})",
            fix="Compare again: the current head is another one now",
        ) from error


def standing(ledger: Sequence[Promotion]) -> list[Promotion]:
    """Promotions not rolled back: the last of them names the current head, the one before it the previous."""
    stack: list[Promotion] = []
    for entry in ledger:
        if entry.action == "promote":
            stack.append(entry)
        elif stack:
            stack.pop()
    return stack
