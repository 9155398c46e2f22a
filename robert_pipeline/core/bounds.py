"""Whether a partition looks like the one before: counts enter, what is out of bounds leaves in words.

Reads nothing; decides nothing about publishing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from robert_pipeline.config import Bounds

LabelCounts = Mapping[str, int]
"""Documents by label; WITHHELD where none was given."""

WITHHELD = "(withheld)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Looks:
    """What a partition came to, beside the partition published before it (None where there is none)."""

    partition: str
    documents: int
    rejected: int
    labels: LabelCounts
    partition_before: str | None = None
    labels_before: LabelCounts = field(default_factory=dict)

    @property
    def reject_share(self) -> float:
        """Rejected documents, of all."""
        return self.rejected / self.documents if self.documents else 0.0

    @property
    def distribution_change(self) -> float | None:
        """Total variation to the labels of the partition before; None where either has none."""
        if self.partition_before is None or not sum(self.labels.values()) or not sum(self.labels_before.values()):
            return None
        return total_variation(self.labels_before, self.labels)


def total_variation(before: LabelCounts, now: LabelCounts) -> float:
    """Share of documents, 0 to 1, that would have to move to another label to turn one distribution into the other."""
    all_before, all_now = sum(before.values()), sum(now.values())
    return sum(abs(before.get(k, 0) / all_before - now.get(k, 0) / all_now) for k in {*before, *now}) / 2


def out_of_bounds(looks: Looks, bounds: Bounds) -> list[str]:
    """Every bound that is broken, in words; none for a partition that is too small to judge."""
    if looks.documents < bounds.min_documents:
        return []
    broken: list[str] = []
    most = bounds.max_reject_share
    if most is not None and looks.reject_share > most:
        broken.append(
            f"{looks.rejected} of {looks.documents} documents rejected ({looks.reject_share:.1%}, "
            f"bounds.max_reject_share is {most:.1%})"
        )
    most, change = bounds.max_distribution_change, looks.distribution_change
    if most is not None and change is not None and change > most:
        broken.append(
            f"{change:.1%} of the labels differ from those of '{looks.partition_before}' "
            f"(bounds.max_distribution_change is {most:.1%})"
        )
    return broken
