"""The ledger of promotions, a published table, and the registry of promoted heads: which head is the current one.

An entry is a partition of its own under the next number, and a partition that exists is never replaced, so of two who
decide at the same moment one is told that the other was faster. Entries are added and never changed. The registry is a
folder with a head under each fingerprint, put there before the entry that names it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

import pyarrow as pa

from robert_pipeline import __version__
from robert_pipeline.config import Settings, fingerprint
from robert_pipeline.core.examples import Integers
from robert_pipeline.core.model import TrainedHead
from robert_pipeline.errors import GateError, ModelError
from robert_pipeline.storage.files import Files, copy_folder
from robert_pipeline.storage.heads import has_head, load_head, save_head
from robert_pipeline.storage.warehouse import Sink, open_warehouse
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


@dataclass(frozen=True, kw_only=True, slots=True)
class CurrentHead:
    """The folder of the head that labels, and the entry that made it the current one; None where `model` names it."""

    model: str
    promotion: Promotion | None


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


def current_head(settings: Settings) -> CurrentHead:
    """The head that labels. Raises ModelError where the promoted one is not in the registry."""
    unpromoted = CurrentHead(model=settings.model, promotion=None)
    if settings.labelled_by == "model":
        return unpromoted
    promoted = standing(read_ledger(open_warehouse(settings.warehouse)))
    if not promoted:
        return unpromoted
    folder = registered(settings, promoted[-1].head_fingerprint)
    return CurrentHead(model=folder, promotion=promoted[-1])


def with_current_head(settings: Settings) -> Settings:
    """The same settings with `model` naming the head that labels: a promotion later in the run changes nothing."""
    return replace(settings, model=current_head(settings).model, labelled_by="model")


def registry_folder(settings: Settings, head_fingerprint: str) -> str:
    """Where the registry has, or would have, a head."""
    return f"{settings.registry.rstrip('/')}/{head_fingerprint}"


def registered(settings: Settings, head_fingerprint: str) -> str:
    """The folder of a promoted head. Raises ModelError where it is not there, or is another."""
    folder = registry_folder(settings, head_fingerprint)
    if not has_head(folder):
        raise ModelError(
            f"the promoted head {head_fingerprint} is not at {folder}",
            fix="Set `registry` to the folder that was in use when it was promoted, or name a head with --model",
        )
    if (found := load_head(folder).fingerprint) != head_fingerprint:
        raise ModelError(f"{folder} holds head {found}", fix="Put the promoted head back")
    return folder


def register_head(settings: Settings, model: str, head: TrainedHead, learned_keys: Integers | None) -> str:
    """Put the head of folder `model` into the registry, unless it is there; gives its folder there.

    An encoder that lies in the head's folder goes with it: the next training may write another one in its place.
    Raises ModelError or StoreError.
    """
    folder = registry_folder(settings, head.fingerprint)
    if not has_head(folder):
        source, target = Files(model), Files(folder)
        inside = head.origin.encoder.name.removeprefix(f"{source.full_path('').rstrip('/')}/")
        if inside != head.origin.encoder.name:
            copy_folder(source, target, inside)
            origin = replace(head.origin, encoder=replace(head.origin.encoder, name=target.full_path(inside)))
            head = replace(head, origin=origin)
        # Last: a head that is there is whole.
        save_head(folder, head, learned_keys=learned_keys)
    return registered(settings, head.fingerprint)
