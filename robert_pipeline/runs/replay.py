"""Run rejected rows again, once what was wrong with them is mended, and publish their partitions anew.

A partition is published whole, so that a row is in the table once: as a prediction or as a reject, never as both.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from robert_pipeline.config import Settings
from robert_pipeline.runs.label import label
from robert_pipeline.runs.plan import PartitionPlan, Plan, plan
from robert_pipeline.runs.rejects import heads, unit_rejects
from robert_pipeline.storage.store import open_store, partition_folder
from robert_pipeline.storage.warehouse import Commit, open_warehouse
from robert_pipeline.telemetry.watch import Subject, observed


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayedPartition:
    """Rejected rows of one partition before and after."""

    partition: str
    rejected_before: int
    rejected_after: int
    commit: Commit


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayPlan:
    """The partitions to run again; the units to embed are those that hold rejected rows, and those that are missing."""

    planned: Plan
    rejected: dict[str, int]
    """Rejected rows by partition: those published, or where none are, those in the store."""

    @property
    def subject(self) -> Subject:
        """Which run works on what."""
        return self.planned.subject


def plan_replay(settings: Settings, *, partitions: Sequence[str] = (), run_id: str) -> ReplayPlan:
    """The named partitions, or all, as far as rows of theirs are rejected: in the store, or in the published table.

    A corpus file that was mended makes new units, which are missing. Raises CorpusError or EncoderError.
    """
    planned = plan(settings, partitions=partitions, run_id=run_id)
    stored = list(unit_rejects(planned, heads(settings)))
    counts: Counter[str] = Counter()
    for unit, rows in stored:
        counts[unit.partition] += rows.num_rows
    counts.update({name: count - counts[name] for name, count in _published(settings).items()})
    rejected = {unit.unit_id for unit, _ in stored}
    chosen: list[PartitionPlan] = []
    for part in planned.partitions:
        again = rejected | {unit.unit_id for unit in part.missing}
        if counts[part.partition]:
            chosen.append(replace(part, missing=tuple(unit for unit in part.units if unit.unit_id in again)))
    return ReplayPlan(
        planned=replace(planned, partitions=tuple(chosen), job=replace(planned.job, replaces=True)),
        rejected={part.partition: counts[part.partition] for part in chosen},
    )


@observed("replay")
def replay(settings: Settings, replayed: ReplayPlan) -> tuple[ReplayedPartition, ...]:
    """Embed, score and publish the partitions again; gives nothing where there are none.

    Vectors of the rows that were not rejected are found in the store. Raises what `label` raises; planned and run
    again after a crash, it goes on.
    """
    if not replayed.planned.partitions:
        return ()
    _forget_predictions(replayed.planned)
    report = label(settings, replayed.planned)
    return tuple(
        ReplayedPartition(
            partition=part.partition,
            rejected_before=replayed.rejected[part.partition],
            rejected_after=part.rejected,
            commit=part.commit,
        )
        for part in report.publish.partitions
    )


def _published(settings: Settings) -> dict[str, int]:
    """Rejected rows in the published table, by partition."""
    sink = open_warehouse(settings.warehouse)
    counts: dict[str, int] = {}
    if sink.commit_keys("rejects"):
        for name in sink.dataset("rejects", columns=["partition"]).to_table().column("partition").to_pylist():
            counts[name] = counts.get(name, 0) + 1
    return counts


def _forget_predictions(planned: Plan) -> None:
    """Delete what any head made of the units that are embedded again: their documents are about to change."""
    store = open_store(planned.job.store)
    key = planned.job.key.folder
    again = {(key, partition_folder(unit.partition), unit.unit_id) for unit in planned.missing}
    # Predictions before the rejects of scoring: without its predictions a unit counts as not scored.
    for place in store.shards("predictions", "unscored", "contributions"):
        if place.unit in again:
            store.files.delete(place.entry.path)
