"""Embed what is missing of some partitions, and account for every row."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from robert_pipeline.config import Settings
from robert_pipeline.errors import AccountingError, StoreError
from robert_pipeline.runs.plan import PartitionPlan, Plan, plan
from robert_pipeline.storage.shards import open_shard
from robert_pipeline.storage.store import open_store
from robert_pipeline.types import Counts


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedReport:
    """What is in the store for the planned partitions, and what of it this run did."""

    counts: Counts
    """All planned units, those embedded earlier among them."""
    embedded: Counts
    """The units of this run."""
    unit_count: int
    embedded_unit_count: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Useful tokens (each counted once, however many chunks overlap it) of this run."""
        return self.embedded.tokens / self.seconds if self.seconds else 0.0

    @property
    def documents_per_second(self) -> float:
        """Documents of this run."""
        return self.embedded.documents / self.seconds if self.seconds else 0.0


def embed(settings: Settings, *, partitions: Sequence[str] = (), run_id: str) -> EmbedReport:
    """Plan and embed the named partitions, or all."""
    return embed_plan(plan(settings, partitions=partitions, run_id=run_id))


def embed_plan(planned: Plan) -> EmbedReport:
    """Embed a plan's missing units. Raises AccountingError where rows went missing, and what a worker raised."""
    started = time.monotonic()
    missing = planned.missing
    if missing:
        # Loading Beam takes two seconds: not for a run that has nothing to do.
        from robert_pipeline.stages.pipeline import embed_units

        embed_units(missing, planned.job, planned.engine)
    seconds = time.monotonic() - started
    every = _totals(planned, [unit.unit_id for partition in planned.partitions for unit in partition.units])
    return EmbedReport(
        counts=every,
        embedded=_totals(planned, [unit.unit_id for unit in missing]),
        unit_count=sum(len(partition.units) for partition in planned.partitions),
        embedded_unit_count=len(missing),
        seconds=seconds,
    )


def _totals(planned: Plan, unit_ids: Iterable[str]) -> Counts:
    wanted = set(unit_ids)
    total = Counts()
    for partition in planned.partitions:
        for unit, counts in partition_counts(planned, partition):
            if unit in wanted:
                total += counts
    return total


def partition_counts(planned: Plan, partition: PartitionPlan) -> list[tuple[str, Counts]]:
    """(unit id, counts) from footers. Raises StoreError for a missing shard, AccountingError for lost rows."""
    store = open_store(planned.job.store)
    found: list[tuple[str, Counts]] = []
    for unit in partition.units:
        path = store.embedding_path(planned.job.key, partition.partition, unit.unit_id)
        if not store.files.exists(path):
            raise StoreError(
                f"partition '{partition.partition}' has no embedding shard {store.files.describe(path)}",
                fix="Run `robert embed` again; units that are done are kept",
            )
        counts = open_shard(store.files, path).header.counts
        if counts.documents != unit.document_count or counts.documents != counts.embedded + counts.rejected:
            raise AccountingError(
                f"shard {store.files.describe(path)} accounts for {counts.embedded} embedded and {counts.rejected} "
                f"rejected of {unit.document_count} rows",
                fix="Delete it and run `robert embed` again",
            )
        found.append((unit.unit_id, counts))
    return found
