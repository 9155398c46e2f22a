"""How a partition looks beside the one before, and a refusal to publish it where that is out of bounds."""

from collections import Counter
from collections.abc import Iterable
from datetime import date

import pyarrow as pa

from robert_pipeline.config import Bounds
from robert_pipeline.core.backfill import partition_day
from robert_pipeline.core.bounds import WITHHELD, LabelCounts, Looks, out_of_bounds
from robert_pipeline.errors import BoundsError
from robert_pipeline.runs.outcome import Outcome
from robert_pipeline.storage.warehouse import Sink


def outcome_looks(sink: Sink, outcome: Outcome) -> Looks:
    """A scored partition, not published yet, beside the published one before it."""
    before = _partition_before(sink, outcome.partition)
    return Looks(
        partition=outcome.partition,
        documents=outcome.documents,
        rejected=outcome.rejects.num_rows,
        labels=_counts(batch.column("label") for batch in outcome.predictions()),
        partition_before=before,
        labels_before={} if before is None else published_labels(sink, before),
    )


def check_bounds(sink: Sink, outcome: Outcome, bounds: Bounds) -> None:
    """Raise BoundsError, naming every broken bound, where a scored partition is outside. Reads only what it needs."""
    if bounds.max_reject_share is None and bounds.max_distribution_change is None:
        return
    if broken := out_of_bounds(outcome_looks(sink, outcome), bounds):
        raise BoundsError(
            f"partition '{outcome.partition}' is out of bounds and was not published: {'; '.join(broken)}",
            fix="Look at it; publish it all the same with --force, or change the bounds",
        )


def published_looks(sink: Sink, partition: str, *, documents: int, rejected: int) -> Looks:
    """A published partition beside the one before it."""
    before = _partition_before(sink, partition)
    return Looks(
        partition=partition,
        documents=documents,
        rejected=rejected,
        labels=published_labels(sink, partition),
        partition_before=before,
        labels_before={} if before is None else published_labels(sink, before),
    )


def published_labels(sink: Sink, partition: str) -> LabelCounts:
    """Documents by label of a published partition."""
    batches = sink.dataset("predictions", partition, columns=["label"]).to_batches()
    return _counts(batch.column("label") for batch in batches)


def _counts(columns: Iterable[pa.Array]) -> LabelCounts:
    counts: Counter[str] = Counter()
    for column in columns:
        for pair in column.value_counts().to_pylist():
            counts[WITHHELD if pair["values"] is None else pair["values"]] += pair["counts"]
    return dict(counts)


def _partition_before(sink: Sink, partition: str) -> str | None:
    """The last published partition of an earlier day, or, where names hold no day, of an earlier name."""

    def place(name: str) -> tuple[date, str]:
        return (partition_day(name) or date.min, name)

    earlier = [name for name in sink.commit_keys("predictions") if place(name) < place(partition)]
    return max(earlier, key=place) if earlier else None
