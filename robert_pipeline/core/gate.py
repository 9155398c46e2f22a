"""May a candidate become the current head? A HeadDiff and the limits in, a verdict out. Decides by figures alone."""

from dataclasses import dataclass
from typing import Literal

from robert_pipeline.config import Gate
from robert_pipeline.core.flips import HeadDiff

LimitName = Literal["min_documents", "max_flip_share", "max_distribution_change", "max_accuracy_drop"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """What was found beside its limit; `name` is the setting's. `found` is None where nothing is known to measure."""

    name: LimitName
    found: float | None
    limit: float

    @property
    def is_kept(self) -> bool:
        """Whether the candidate may pass."""
        if self.found is None:
            return True
        return self.found >= self.limit if self.name == "min_documents" else self.found <= self.limit


def measure(diff: HeadDiff, gate: Gate) -> tuple[Measure, ...]:
    """Every limit, with what was found."""
    found: dict[LimitName, float | None] = {
        "min_documents": float(diff.documents),
        "max_flip_share": diff.flip_share,
        "max_distribution_change": diff.distribution_change,
        "max_accuracy_drop": None if diff.truth is None else -diff.truth.gain,
    }
    return tuple(Measure(name=name, found=value, limit=float(getattr(gate, name))) for name, value in found.items())


def describe(measure: Measure) -> str:
    """A measure beside its limit, in words."""
    if measure.name == "min_documents":
        return f"{measure.found or 0:,.0f} documents compared, at least {measure.limit:,.0f} wanted"
    what = {
        "max_flip_share": "documents that get another label",
        "max_distribution_change": "change of the distribution of labels",
        "max_accuracy_drop": "loss of accuracy",
    }[measure.name]
    found = "not known, no label is" if measure.found is None else f"{measure.found:.2%}"
    return f"{what}: {found}, at most {measure.limit:.2%} allowed"
