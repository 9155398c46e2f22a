"""What an evaluation found: frozen values that survive JSON, and the means and spreads that a reader wants of them."""

import statistics
from dataclasses import dataclass

from robert_pipeline.config import Output
from robert_pipeline.core.metrics import CalibrationScore, ClassScore
from robert_pipeline.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """One figure over several seeds. `deviation` is that of the sample, 0 for one seed."""

    mean: float
    deviation: float
    lowest: float
    highest: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthBand:
    """Test documents of `fewest` to `most` chunks."""

    fewest: int
    most: int
    documents: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One model trained with one seed, judged on the test documents.

    `accuracy` counts documents whose labels are exactly right, and `macro_f1` is the mean over labels, both before
    anything is withheld for review; `given_share` of the documents keep their labels, of which `given_accuracy` are
    right (None where none does).
    """

    seed: int
    accuracy: float
    macro_f1: float
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    """By true label (rows) and label given (columns); empty with several labels a document."""
    calibrated: CalibrationScore
    uncalibrated: CalibrationScore
    accuracy_by_length: tuple[float, ...]
    """One for each band of the evaluation."""
    given_share: float
    given_accuracy: float | None
    seconds: float | None
    """Training and answering; None where that was not measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelResult:
    """One model, over its seeds."""

    name: str
    description: str
    runs: tuple[Run, ...]

    @property
    def accuracy(self) -> Spread:
        """Of all seeds."""
        return spread([run.accuracy for run in self.runs])

    @property
    def macro_f1(self) -> Spread:
        """Of all seeds."""
        return spread([run.macro_f1 for run in self.runs])

    @property
    def calibration_error(self) -> Spread:
        """Expected calibration error after calibration."""
        return spread([run.calibrated.expected_calibration_error for run in self.runs])

    @property
    def uncalibrated_error(self) -> Spread:
        """Expected calibration error before calibration."""
        return spread([run.uncalibrated.expected_calibration_error for run in self.runs])

    def accuracy_in_band(self, band: int) -> Spread:
        """Of documents of one length."""
        return spread([run.accuracy_by_length[band] for run in self.runs])


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Accuracy of the first model less that of `against`, on the same documents, its seeds averaged.

    `low` and `high` bound the 95 % interval that the choice of test documents leaves.
    """

    against: str
    accuracy: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Models judged on the same test documents; the first is the one in question."""

    labels: tuple[str, ...]
    output: Output
    test_documents: int
    learned_documents: int | None
    """None where the model was there already."""
    held_out_documents: int | None
    """Held out from learning to stop, calibrate and choose thresholds by."""
    bands: tuple[LengthBand, ...]
    models: tuple[ModelResult, ...]
    differences: tuple[Difference, ...]
    all_unseen: bool
    """Whether it is known that no test document was learned from."""
    facts: tuple[tuple[str, str], ...]
    """What was evaluated, on what, in words: name and value."""


def spread(values: list[float]) -> Spread:
    """Of at least one value."""
    return Spread(
        mean=statistics.fmean(values),
        deviation=statistics.stdev(values) if len(values) > 1 else 0.0,
        lowest=min(values),
        highest=max(values),
    )


def to_json(evaluation: Evaluation) -> str:
    """As text that `from_json` reads back into an equal value."""
    from pydantic import TypeAdapter

    return TypeAdapter(Evaluation).dump_json(evaluation, indent=2).decode() + "\n"


def from_json(text: str | bytes) -> Evaluation:
    """Raises ConfigError where the text is not an evaluation, naming the field."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Evaluation).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"this is no evaluation: {place or 'the text'}: {first['msg']}", fix="Run `robert evaluate` again"
        ) from error
