"""The whole way from labelled vectors to a head: split, train, calibrate, choose thresholds.

Arrays in, a TrainedHead and what was seen on the held-out documents out. Opens nothing. Axes: B documents, K labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robert_pipeline.core.calibrate import calibrate, precision_thresholds
from robert_pipeline.core.head import HeadConfig
from robert_pipeline.core.model import (
    Calibration,
    Thresholds,
    TrainedHead,
    VectorOrigin,
    default_thresholds,
    no_calibration,
    weights_sha256,
)
from robert_pipeline.core.score import decide, label_probabilities
from robert_pipeline.core.train import DocumentVectors, Epoch, Examples, Fit, TrainingConfig, fit, logits
from robert_pipeline.errors import TrainingError

Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledVectors:
    """Documents to learn from: vectors, the value of their label column, and a number in [0, 1) from their text."""

    vectors: DocumentVectors
    label_names: tuple[str, ...]
    label_B: Integers
    fraction_B: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A trained head, and what it is worth on the documents held out from training."""

    head: TrainedHead
    fit: Fit
    learned_documents: int
    held_out_documents: int
    held_out_accuracy: float
    """Share of held-out documents whose labels are all right, without review thresholds; NaN where none is held out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Targets:
    """The labels of a head and what each document should get: a class (B,) or a mask (B, K)."""

    labels: tuple[str, ...]
    values: Integers | Booleans

    @property
    def truth_mask(self) -> Booleans:
        """The truth as one column a label."""
        if self.values.ndim == 2:
            return self.values.astype(bool)
        mask_BK: Booleans = self.values[:, None] == np.arange(len(self.labels))
        return mask_BK


def train_head(
    data: LabelledVectors,
    documents: Integers,
    *,
    config: HeadConfig,
    training: TrainingConfig,
    origin: VectorOrigin,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> Recipe:
    """Train on `documents` of `data`, some of them held out to stop, calibrate and choose thresholds by.

    Raises TrainingError where there are too few labels or too few documents of one, naming it.
    """
    targets = make_targets(data.label_names, data.label_B, config, training, documents)
    config = config.resolved(len(targets.labels))
    learned, held_out = split(data, documents, targets, training)
    done = fit(
        config,
        training,
        Examples(vectors=data.vectors, documents=learned, targets=targets.values[learned]),
        Examples(vectors=data.vectors, documents=held_out, targets=targets.values[held_out]),
        label_count=len(targets.labels),
        on_epoch=on_epoch,
    )
    plain = TrainedHead(
        module=done.module,
        config=config,
        labels=targets.labels,
        dimension=data.vectors.dimension,
        origin=origin,
        calibration=no_calibration(1 if config.output == "binary" else len(targets.labels)),
        thresholds=default_thresholds(len(targets.labels), positive=training.positive_threshold),
        weights_sha256=weights_sha256(done.module),
        notes=(
            ("seed", training.seed),
            ("epochs", len(done.epochs)),
            ("best_epoch", done.best_epoch),
            ("learned_documents", len(learned)),
            ("held_out_documents", len(held_out)),
        ),
    )
    head, accuracy = _finish(plain, data.vectors, held_out, targets, training)
    return Recipe(
        head=head,
        fit=done,
        learned_documents=len(learned),
        held_out_documents=len(held_out),
        held_out_accuracy=accuracy,
    )


def make_targets(
    names: Sequence[str], label_B: Integers, config: HeadConfig, training: TrainingConfig, documents: Integers
) -> Targets:
    """Labels of the head, in sorted order, and the target of every document (those not in `documents` included).

    A binary head's positive label comes last. Raises TrainingError for fewer than two labels, or a label with fewer
    than two of `documents`.
    """
    if config.output == "multilabel":
        parts = [[part.strip() for part in name.split(training.label_separator)] for name in names]
        labels = sorted({part for group in parts for part in group if part})
        rank = {label: k for k, label in enumerate(labels)}
        mask = np.zeros((len(names), len(labels)), bool)
        for row, group in enumerate(parts):
            mask[row, [rank[part] for part in group if part]] = True
        values: Integers | Booleans = mask[label_B]
        counts = values[documents].sum(axis=0)
    else:
        labels = _with_positive_last(sorted(names), training)
        rank = {label: k for k, label in enumerate(labels)}
        values = np.array([rank[name] for name in names], np.int64)[label_B]
        counts = np.bincount(values[documents], minlength=len(labels))
    _check_counts(labels, counts, multilabel=config.output == "multilabel")
    return Targets(labels=tuple(labels), values=values)


def _with_positive_last(labels: list[str], training: TrainingConfig) -> list[str]:
    positive = training.positive_label
    if positive is None:
        return labels
    if positive not in labels:
        raise TrainingError(
            f"no document has the positive label '{positive}'", fix=f"The labels are: {', '.join(labels[:12])}"
        )
    return [label for label in labels if label != positive] + [positive]


def _check_counts(labels: Sequence[str], counts: Integers, *, multilabel: bool) -> None:
    if len(labels) < (1 if multilabel else 2):
        found = f"only '{labels[0]}'" if labels else "none"
        raise TrainingError(f"there are fewer than two labels to learn: {found}", fix="Add documents of other labels")
    rare = [(label, int(count)) for label, count in zip(labels, counts, strict=True) if count < 2]
    if rare:
        others = f" (and {len(rare) - 1} more labels)" if len(rare) > 1 else ""
        count = "no documents" if rare[0][1] == 0 else "one document"
        raise TrainingError(
            f"label '{rare[0][0]}'{others} has {count}; two are needed",
            fix="Add documents with it, or take the label out of the corpus",
        )


def split(
    data: LabelledVectors, documents: Integers, targets: Targets, training: TrainingConfig
) -> tuple[Integers, Integers]:
    """(learned, held out), by the fraction of each text: duplicates never cross.

    Where all texts of a label would be held out, those of them with the highest fraction are learned from.
    """
    fraction_B = data.fraction_B[documents]
    held_B = fraction_B < training.validation_fraction
    truth_BK = targets.truth_mask[documents]
    for k in np.flatnonzero(~truth_BK[~held_B].any(axis=0)):
        held_B[fraction_B == fraction_B[truth_BK[:, k]].max()] = False
    return documents[~held_B], documents[held_B]


def _finish(
    head: TrainedHead, vectors: DocumentVectors, held_out: Integers, targets: Targets, training: TrainingConfig
) -> tuple[TrainedHead, float]:
    """Calibration and review thresholds from the held-out documents."""
    from dataclasses import replace

    if len(held_out) == 0:
        return head, float("nan")
    logits_BK = logits(head.module, vectors, held_out)
    calibration: Calibration = calibrate(logits_BK, targets.values[held_out], head.config.output)
    head = replace(head, calibration=calibration)
    probabilities_BK = label_probabilities(logits_BK, calibration, head.config.output)
    _, given_BK, _ = decide(probabilities_BK, head)
    truth_BK = targets.truth_mask[held_out]
    accuracy = float((given_BK == truth_BK).all(axis=1).mean())
    if training.target_precision is not None:
        review = precision_thresholds(probabilities_BK, given_BK, truth_BK, training.target_precision)
        thresholds: Thresholds = replace(head.thresholds, review=review)
        head = replace(head, thresholds=thresholds)
    return head, accuracy
