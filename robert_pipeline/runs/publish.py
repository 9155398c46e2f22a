"""Replace partitions of the published tables by what a head made of them, in one commit a table."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from robert_pipeline.config import Settings, fingerprint
from robert_pipeline.runs.looks import check_bounds
from robert_pipeline.runs.outcome import partition_outcome
from robert_pipeline.runs.plan import PartitionPlan, Plan
from robert_pipeline.runs.score import load_head_for
from robert_pipeline.storage.registry import current_head
from robert_pipeline.storage.warehouse import Commit, Sink, open_warehouse
from robert_pipeline.telemetry.instruments import DOCUMENTS, PUBLISH_TIMESTAMP, Point
from robert_pipeline.telemetry.watch import observed
from schemas import PREDICTIONS, REJECTS


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedPartition:
    """One partition of the published table: documents = labelled + rejected."""

    partition: str
    documents: int
    labelled: int
    rejected: int
    commit: Commit


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishReport:
    """What was published, and where it is."""

    partitions: tuple[PublishedPartition, ...]
    location: str
    head_fingerprint: str

    def points(self) -> Iterator[Point]:
        """What became of the documents of each partition, and that it is published now."""
        for published in self.partitions:
            name = published.partition
            yield DOCUMENTS.point(published.labelled, stage="publish", partition=name, result="labelled")
            yield DOCUMENTS.point(published.rejected, stage="publish", partition=name, result="rejected")
            yield PUBLISH_TIMESTAMP.point(time.time(), partition=name, head=self.head_fingerprint)


@observed("publish")
def publish(settings: Settings, planned: Plan, *, force: bool = False) -> PublishReport:
    """Publish the planned partitions as the head that labels has scored them: see `label`.

    Raises, before anything of a partition changes, AccountingError where labelled and rejected rows do not add up to
    the partition's documents, and BoundsError where it is outside `settings.bounds`, unless `force` is set.
    """
    sink = open_warehouse(settings.warehouse)
    sink.check()
    head_fingerprint = load_head_for(planned, model=current_head(settings).model).fingerprint
    published = sink.commit_keys("predictions")
    done: list[PublishedPartition] = []
    for partition in planned.partitions:
        outcome = partition_outcome(planned, partition, head_fingerprint)
        key = f"{planned_key(planned, partition, head_fingerprint)}-{outcome.fingerprint}"
        if not force and published.get(partition.partition) != key:
            check_bounds(sink, outcome, settings.bounds)
        # The rejects first: once the predictions are committed, the partition is published.
        sink.replace_partition("rejects", outcome.partition, outcome.rejects.to_batches(), key)
        commit = sink.replace_partition("predictions", outcome.partition, outcome.predictions(), key)
        done.append(
            PublishedPartition(
                partition=outcome.partition,
                documents=outcome.documents,
                labelled=outcome.labelled,
                rejected=outcome.rejects.num_rows,
                commit=commit,
            )
        )
    return PublishReport(
        partitions=tuple(done), location=sink.location("predictions"), head_fingerprint=head_fingerprint
    )


def published_keys(sink: Sink) -> dict[str, str]:
    """The commit key of every partition whose predictions and rejects were published together.

    Others are half done: a run was killed between the two commits, or two runs were at it with different plans.
    """
    rejects = sink.commit_keys("rejects")
    return {name: key for name, key in sink.commit_keys("predictions").items() if rejects.get(name) == key}


def planned_of(commit_key: str) -> str:
    """The part of a commit key that `planned_key` gives."""
    return commit_key.partition("-")[0]


def planned_key(planned: Plan, partition: PartitionPlan, head_fingerprint: str) -> str:
    """The first part of a commit key, known before any work: contracts, embedding, head, and the units.

    The second part is which of their rows were rejected, which a replay may change.
    """
    return fingerprint(
        "commit/1",
        {
            "contracts": [PREDICTIONS.version, REJECTS.version],
            "embedding": planned.job.key.folder,
            "head": head_fingerprint,
            "units": [unit.unit_id for unit in partition.units],
        },
    )
