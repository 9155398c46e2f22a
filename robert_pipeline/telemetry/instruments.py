"""The figures that a run may send: names, units, attributes. Values; they measure and send nothing.

All are gauges with one point a run: a run is a process that comes and goes, so a counter of it would start at zero,
be read once, and show no increase. A sum over runs is a sum over points.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True, slots=True)
class Instrument:
    """One figure. `unit` is UCUM, as OpenTelemetry has it; `adds` says that two values of one run make their sum."""

    name: str
    unit: str
    description: str
    attributes: tuple[str, ...]
    adds: bool = False

    def point(self, value: float, **attributes: str) -> "Point":
        """A value of it. Raises ValueError unless the attributes are those that it has."""
        if set(attributes) != set(self.attributes):
            raise ValueError(f"{self.name} has the attributes {self.attributes}, not {tuple(attributes)}")
        return Point(instrument=self, value=value, attributes=tuple(sorted(attributes.items())))


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One value, and what it is of."""

    instrument: Instrument
    value: float
    attributes: tuple[tuple[str, str], ...]

    def attribute(self, name: str) -> str:
        """The value of an attribute that the instrument has."""
        return dict(self.attributes)[name]


@runtime_checkable
class Measured(Protocol):
    """A report that says itself what of it are figures."""

    def points(self) -> Iterable[Point]:
        """One point a figure."""
        ...


SEVERAL = "several"


def partition_label(partitions: Iterable[str]) -> str:
    """The partition's name, 'several', or nothing where none was named."""
    names = list(partitions)
    return names[0] if len(names) == 1 else SEVERAL if names else ""


# Only these carry the run: one point each, so a run costs four series; see docs/operations.md.
RUN_DURATION = Instrument(
    name="robert.run.duration",
    unit="s",
    description="Seconds a run took, and how it ended",
    attributes=("verb", "partition", "outcome", "run_id"),
)
RUN_DOCUMENTS = Instrument(
    name="robert.run.documents",
    unit="{document}",
    description="Documents a run accounted for: labelled and rejected, or embedded and rejected",
    attributes=("verb", "partition", "run_id"),
)
RUN_REJECTS = Instrument(
    name="robert.run.rejects",
    unit="{document}",
    description="Those of them that were rejected",
    attributes=("verb", "partition", "run_id"),
)
RUN_TOKENS = Instrument(
    name="robert.run.tokens",
    unit="{token}",
    description="Tokens a run encoded, each counted once",
    attributes=("verb", "partition", "run_id"),
)
STAGE_DURATION = Instrument(
    name="robert.stage.duration",
    unit="s",
    description="Seconds a stage of a run took, and how it ended",
    attributes=("stage", "partition", "outcome"),
    adds=True,
)
DOCUMENTS = Instrument(
    name="robert.documents",
    unit="{document}",
    description="What became of documents in a stage",
    attributes=("stage", "partition", "result"),
    adds=True,
)
TOKENS = Instrument(
    name="robert.tokens",
    unit="{token}",
    description="Tokens of embedded documents, each counted once: encoded, or in the store already",
    attributes=("partition", "result"),
    adds=True,
)
ENCODER_CEILING = Instrument(
    name="robert.encoder.ceiling",
    unit="1",
    description="Share that embedding reached of what the encoder's matrix products alone would do on the machine",
    attributes=("partition",),
)
ENCODER_PADDING = Instrument(
    name="robert.encoder.padding",
    unit="1",
    description="Share of the computed tokens that were padding",
    attributes=("partition",),
)
GPU_BUSY = Instrument(
    name="robert.gpu.busy",
    unit="1",
    description="Share of the time of embedding in which the GPU had work, as NVML has it",
    attributes=("partition",),
)
TRAIN_ACCURACY = Instrument(
    name="robert.train.accuracy",
    unit="1",
    description="Accuracy of a trained head on held-out documents",
    attributes=("head",),
)
PUBLISH_TIMESTAMP = Instrument(
    name="robert.publish.timestamp",
    unit="s",
    description="When a partition was last found published, in seconds since 1970",
    attributes=("partition", "head"),
)
BACKFILL_PARTITIONS = Instrument(
    name="robert.backfill.partitions",
    unit="{partition}",
    description="Partitions of a backfill by how they ended",
    attributes=("ending",),
)

INSTRUMENTS = (
    RUN_DURATION,
    RUN_DOCUMENTS,
    RUN_REJECTS,
    RUN_TOKENS,
    STAGE_DURATION,
    DOCUMENTS,
    TOKENS,
    ENCODER_CEILING,
    ENCODER_PADDING,
    GPU_BUSY,
    TRAIN_ACCURACY,
    PUBLISH_TIMESTAMP,
    BACKFILL_PARTITIONS,
)
