"""The whole way from labelled vectors to a head: train, calibrate, choose thresholds.

Arrays in, a TrainedHead and what was seen on the held-out documents out. Opens nothing. Axes: B documents, K labels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from robert_pipeline.config import HeadConfig, Output, TrainingConfig
from robert_pipeline.core.calibrate import calibrate
from robert_pipeline.core.examples import Examples, Integers, TargetValues, logits
from robert_pipeline.core.model import Calibration, Thresholds, TrainedHead, no_calibration, weights_sha256
from robert_pipeline.core.origin import VectorOrigin
from robert_pipeline.core.score import decide, label_probabilities
from robert_pipeline.core.split import Booleans, hold_out, text_fractions
from robert_pipeline.core.targets import LabelledVectors, Targets, truth_mask
from robert_pipeline.core.thresholds import f1_thresholds, precision_thresholds
from robert_pipeline.core.train import Epoch, Fit, fit, loss_weights

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A trained head, and what it is worth on the documents held out from training."""

    head: TrainedHead
    fit: Fit
    learned_documents: int
    held_out_documents: int
    held_out_accuracy: float
    """Share of held-out documents whose labels are all right, without review thresholds; NaN where none is held out."""


def split_validation(
    data: LabelledVectors,
    documents: Integers,
    targets: Targets,
    training: TrainingConfig,
    *,
    known_B: Booleans | None = None,
) -> tuple[Integers, Integers]:
    """(learned, held out) of `documents`, by text; every label keeps a document to learn from.

    Documents of `data` that are `known_B` to the encoder, which has learned from them, are not held out.
    """
    fraction_B = text_fractions(data.text_key_B[documents], training.split)
    held_B = hold_out(
        fraction_B,
        targets.truth_BK[documents],
        training.validation_fraction,
        keep=1,
        known_B=None if known_B is None else known_B[documents],
    )
    return documents[~held_B], documents[held_B]


def train_head(
    data: LabelledVectors,
    targets: Targets,
    *,
    learned: Integers,
    held_out: Integers,
    config: HeadConfig,
    training: TrainingConfig,
    origin: VectorOrigin,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> Recipe:
    """Train on the documents `learned`; stop, calibrate and choose thresholds by those `held_out`.

    Raises TrainingError where the loss is not a number.
    """
    count = len(targets.labels)
    config = config.resolved(count)
    done = fit(
        config,
        training,
        Examples(vectors=data.vectors, documents=learned, targets=targets.values[learned]),
        Examples(vectors=data.vectors, documents=held_out, targets=targets.values[held_out]),
        label_count=count,
        on_epoch=on_epoch,
    )
    calibration, decision = as_trained(config, training, targets.values[learned], count)
    plain = TrainedHead(
        module=done.module,
        config=config,
        labels=targets.labels,
        dimension=data.vectors.dimension,
        origin=origin,
        calibration=calibration,
        thresholds=Thresholds(decision=decision, review=(0.0,) * count),
        weights_sha256=weights_sha256(done.module),
        notes=(
            ("seed", training.seed),
            ("epochs", len(done.epochs)),
            ("best_epoch", done.best_epoch),
            ("learned_documents", len(learned)),
            ("held_out_documents", len(held_out)),
        ),
    )
    held_out_logits_BK = logits(done.module, data.vectors, held_out)
    head, accuracy = finish_head(plain, held_out_logits_BK, targets.values[held_out], training.target_precision)
    return Recipe(
        head=head,
        fit=done,
        learned_documents=len(learned),
        held_out_documents=len(held_out),
        held_out_accuracy=accuracy,
    )


def finish_head(
    head: TrainedHead, logits_BK: Floats, values: TargetValues, target_precision: float | None
) -> tuple[TrainedHead, float]:
    """The head with calibration and thresholds from held-out logits and targets, and its accuracy on them.

    Calibrates what the head's calibration so far leaves to do. Review thresholds are for `target_precision`; None
    withholds nothing.
    """
    calibration, thresholds = fit_probabilities(
        logits_BK,
        values,
        head.config.output,
        head.calibration,
        head.thresholds.decision,
        target_precision,
    )
    finished = replace(head, calibration=calibration, thresholds=thresholds)
    truth_BK = truth_mask(values, len(head.labels))
    probabilities_BK = label_probabilities(logits_BK, calibration, head.config.output)
    _, chosen_BK, _ = decide(probabilities_BK, head.config.output, thresholds.without_review)
    return finished, float((chosen_BK == truth_BK).all(axis=1).mean()) if len(truth_BK) else float("nan")


def fit_probabilities(
    logits_BK: Floats,
    values: TargetValues,
    output: Output,
    so_far: Calibration,
    decision: tuple[float, ...],
    target_precision: float | None,
    *,
    is_centred: bool = False,
) -> tuple[Calibration, Thresholds]:
    """Calibration and thresholds from held-out logits and targets, whatever model gave the logits.

    `is_centred` is that of `calibrate`. `so_far` is applied first. `decision` are the thresholds to decide by; those of
    a multi-label head are chosen here.
    """
    calibration = calibrate(so_far.apply(logits_BK), values, output, is_centred=is_centred).after(so_far)
    probabilities_BK = label_probabilities(logits_BK, calibration, output)
    truth_BK = truth_mask(values, len(decision))
    if output == "multilabel":
        decision = f1_thresholds(probabilities_BK, truth_BK)
    thresholds = Thresholds(decision=decision, review=(0.0,) * len(decision))
    if target_precision is not None:
        _, chosen_BK, _ = decide(probabilities_BK, output, thresholds)
        review = precision_thresholds(probabilities_BK, chosen_BK, truth_BK, target_precision)
        thresholds = replace(thresholds, review=review)
    return calibration, thresholds


def as_trained(
    config: HeadConfig, training: TrainingConfig, learned: TargetValues, count: int
) -> tuple[Calibration, tuple[float, ...]]:
    """What undoes the shift that class weights in the loss give the logits, and the thresholds that keep its effect."""
    weights_K = loss_weights(config.output, learned, count, training)
    calibration = no_calibration(1 if config.output == "binary" else count)
    decision_K = np.full(count, 0.5)
    if weights_K is not None:
        calibration = replace(calibration, offset=tuple((-np.log(weights_K)).tolist()))
        if config.output != "multilabel":
            decision_K = np.bincount(learned, minlength=count) / len(learned)
    if config.output == "binary" and training.positive_threshold is not None:
        decision_K = np.array([1 - training.positive_threshold, training.positive_threshold])
    return calibration, tuple(decision_K.tolist())
