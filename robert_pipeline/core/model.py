"""A trained head as a value: the module, and everything else that decides a label. Opens nothing, trains nothing."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import safetensors.torch
from numpy.typing import NDArray

from robert_pipeline.config import HeadConfig, Plain, fingerprint
from robert_pipeline.core.family import logit_count
from robert_pipeline.core.fusion import Fusion
from robert_pipeline.core.head import Head
from robert_pipeline.core.origin import VectorOrigin
from robert_pipeline.errors import ConfigError, ModelError

CalibrationMethod = Literal["none", "temperature", "platt"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Logits become probabilities by softmax or sigmoid of `scale * logit + offset`, one pair a logit.

    Temperature scaling (Guo et al. 2017) is one scale for all classes and no offset; Platt scaling (Platt 1999) is a
    scale and an offset for every sigmoid. `documents` is how many held-out documents it was fitted on.
    """

    method: CalibrationMethod
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    documents: int

    def apply(self, logits_BK: NDArray[np.float64]) -> NDArray[np.float64]:
        """Calibrated logits, float64 (B, K)."""
        calibrated_BK: NDArray[np.float64] = logits_BK * np.asarray(self.scale) + np.asarray(self.offset)
        return calibrated_BK

    def after(self, earlier: "Calibration") -> "Calibration":
        """The two as one: this one of logits that `earlier` has been applied to. Where this one changes nothing, it."""
        if self.method == "none":
            return earlier
        pairs = zip(self.scale, self.offset, earlier.scale, earlier.offset, strict=True)
        combined = [(scale * old, scale * old_offset + offset) for scale, offset, old, old_offset in pairs]
        return replace(
            self, scale=tuple(scale for scale, _ in combined), offset=tuple(offset for _, offset in combined)
        )


def no_calibration(logit_count: int) -> Calibration:
    """Logits as they are."""
    return Calibration(method="none", scale=(1.0,) * logit_count, offset=(0.0,) * logit_count, documents=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Thresholds:
    """From probability to label; both have one value a label, in the order of the labels.

    `decision`: a multi-label head gives a label from this probability on; a binary head its second label; a
    multi-class head the label whose probability is the most times its decision value (equal values: the most
    probable). `review`: a label whose probability is below is withheld for a person to decide.
    """

    decision: tuple[float, ...]
    review: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, values in {"decision": self.decision, "review": self.review}.items():
            for value in values:
                if not 0 <= value <= 1:
                    raise ConfigError(f"threshold '{name}' is {value}", fix="Give a probability from 0 to 1")

    @property
    def without_review(self) -> "Thresholds":
        """The same decisions, nothing withheld."""
        return replace(self, review=(0.0,) * len(self.review))


def default_thresholds(label_count: int) -> Thresholds:
    """A half decides, nothing is withheld."""
    return Thresholds(decision=(0.5,) * label_count, review=(0.0,) * label_count)


def weight_bytes(module: Head) -> bytes:
    """The weights in safetensors form; the same bytes for the same weights."""
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in module.state_dict().items()})


def weights_sha256(module: Head) -> str:
    """Identity of the weights: SHA-256 of their safetensors form, 64 hexadecimal digits."""
    return hashlib.sha256(weight_bytes(module)).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedHead:
    """A head that can label documents. For binary heads the second label is the positive one."""

    module: Head
    config: HeadConfig
    labels: tuple[str, ...]
    dimension: int
    origin: VectorOrigin
    calibration: Calibration
    thresholds: Thresholds
    weights_sha256: str
    fusion: Fusion | None = None
    """What the words say beside the chunk vectors; None for a head of vectors alone."""
    notes: tuple[tuple[str, Plain], ...] = ()
    """How it came about: seed, epochs, documents. Decides nothing, is not part of the fingerprint."""

    def __post_init__(self) -> None:
        count = len(self.labels)
        if len(set(self.labels)) != count or any(not label for label in self.labels):
            raise ConfigError("a head's labels must be different and not empty", fix="Name each label once")
        wrong = [
            f"{name} has {size} values, not {wanted}"
            for name, size, wanted in (
                ("thresholds.decision", len(self.thresholds.decision), count),
                ("thresholds.review", len(self.thresholds.review), count),
                ("calibration.scale", len(self.calibration.scale), self.logit_count),
                ("calibration.offset", len(self.calibration.offset), self.logit_count),
            )
            if size != wanted
        ]
        if wrong:
            raise ConfigError(wrong[0], fix="Save it again")
        for view in self.fusion.views if self.fusion else ():
            if len(view.bias_K) != self.logit_count:
                raise ConfigError(
                    f"view '{view.view}' has {len(view.bias_K)} logits, the head {self.logit_count}",
                    fix="Train it again",
                )
        if self.config.output == "multiclass" and not all(self.thresholds.decision):
            raise ConfigError("a multi-class decision value is 0", fix="Give more than 0")

    @property
    def logit_count(self) -> int:
        """One for binary heads, else one a label."""
        return logit_count(self.config, len(self.labels))

    @property
    def fingerprint(self) -> str:
        """Identity of all that decides a label: changes with any of it, and with nothing else."""
        values: dict[str, Plain | Sequence[Plain]] = {
            **{f"config.{name}": value for name, value in self.config.values().items()},
            "labels": self.labels,
            "dimension": self.dimension,
            "encoder": self.origin.encoder_fingerprint,
            "chunking": self.origin.chunking_fingerprint,
            "calibration.scale": self.calibration.scale,
            "calibration.offset": self.calibration.offset,
            "decision": self.thresholds.decision,
            "review": self.thresholds.review,
            "weights": self.weights_sha256,
        }
        if self.fusion is not None:
            values |= {
                "views": self.fusion.sha256,
                "head_weight": self.fusion.head_weight,
                "view_weights": self.fusion.view_weights,
            }
        return fingerprint("head/1", values)

    def check_shard(self, *, where: str, encoder_fingerprint: str, chunking_fingerprint: str, dimension: int) -> None:
        """Raise ModelError, naming both sides, unless the vectors at `where` are of the kind the head was made for."""
        theirs = {"encoder": encoder_fingerprint, "chunking": chunking_fingerprint}
        ours = {"encoder": self.origin.encoder_fingerprint, "chunking": self.origin.chunking_fingerprint}
        names = {"encoder": f" ('{self.origin.encoder.name}')", "chunking": ""}
        for kind, found in theirs.items():
            if found != ours[kind]:
                raise ModelError(
                    f"{where} was made by {kind} {found}, the head was made for {kind} {ours[kind]}{names[kind]}",
                    fix="Embed with the head's encoder and chunking, or train a head on these shards",
                )
        if dimension != self.dimension:
            raise ModelError(
                f"{where} holds vectors of {dimension} values, the head reads {self.dimension}",
                fix="Embed with the head's encoder, or train a head on these shards",
            )

    def with_thresholds(
        self, *, decision: Mapping[str, float] | None = None, review: Mapping[str, float] | None = None
    ) -> "TrainedHead":
        """The same head, deciding differently for the labels named.

        Of a binary head, a decision for one label is one for the other as well. Raises ConfigError for an unknown
        label, a value outside 0..1, or two decisions of a binary head that contradict each other.
        """
        decision, review = dict(decision or {}), dict(review or {})
        unknown = sorted({*decision, *review} - set(self.labels))
        if unknown:
            raise ConfigError(f"the head has no label '{unknown[0]}'", fix=f"It has: {', '.join(self.labels[:12])}")
        if self.config.output == "binary" and decision:
            negative, positive = self.labels
            value = decision.get(positive, 1 - decision.get(negative, 0.0))
            if abs(decision.get(negative, 1 - value) - (1 - value)) > 1e-9:
                raise ConfigError(
                    f"decisions {decision[negative]} for '{negative}' and {value} for '{positive}' do not add up to 1",
                    fix="Give one of the two: a binary head takes the other label below it",
                )
            decision = {negative: 1 - value, positive: value}
        old = self.thresholds
        changed = Thresholds(
            decision=tuple(decision.get(k, v) for k, v in zip(self.labels, old.decision, strict=True)),
            review=tuple(review.get(k, v) for k, v in zip(self.labels, old.review, strict=True)),
        )
        return replace(self, thresholds=changed)
