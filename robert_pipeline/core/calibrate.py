"""Fit probabilities on held-out documents: logits and truth in, a Calibration out.

Never sees a document that the weights were trained on; the caller holds them out. Axes: B documents, K logits.
"""

import numpy as np
from numpy.typing import NDArray

from robert_pipeline.config import Output
from robert_pipeline.core.examples import TargetValues
from robert_pipeline.core.model import Calibration, no_calibration

Floats = NDArray[np.float64]

MIN_DOCUMENTS = 20
"""Fewer held-out documents say nothing about a probability."""
MIN_PER_SIDE = 5
"""Platt scaling of a label needs this many documents with it and without it."""
SCALE_RANGE = (0.02, 50.0)


def calibrate(logits_BK: Floats, targets: TargetValues, output: Output, *, is_centred: bool = False) -> Calibration:
    """Temperature for a softmax, Platt scaling for sigmoids; nothing is changed where held-out documents are too few.

    A binary logit that `is_centred` is zero where both labels are as likely: it gets a temperature, since an offset
    from a hundred documents would do more harm than good. `targets` is the class of each document (B,) for 'binary' (0
    or 1) and 'multiclass', or a mask (B, K).
    """
    count, logit_count = logits_BK.shape
    if count < MIN_DOCUMENTS:
        return no_calibration(logit_count)
    if output == "multiclass":
        scale = temperature_scale(logits_BK, np.asarray(targets, np.int64))
        return Calibration(
            method="temperature", scale=(scale,) * logit_count, offset=(0.0,) * logit_count, documents=count
        )
    if output == "binary" and is_centred:
        both_BK = np.concatenate([np.zeros_like(logits_BK), logits_BK], axis=1)
        scale = temperature_scale(both_BK, np.asarray(targets, np.int64))
        return Calibration(method="temperature", scale=(scale,), offset=(0.0,), documents=count)
    truth_BK = np.asarray(targets).reshape(count, -1).astype(bool)
    pairs = [platt_scale(logits_BK[:, k], truth_BK[:, k]) for k in range(logit_count)]
    if all(pair is None for pair in pairs):
        return no_calibration(logit_count)
    scales, offsets = zip(*(pair or (1.0, 0.0) for pair in pairs), strict=True)
    return Calibration(method="platt", scale=scales, offset=offsets, documents=count)


def temperature_scale(logits_BK: Floats, classes_B: NDArray[np.int64]) -> float:
    """1 / T of Guo et al. 2017, section 4.2: the scale with the least cross-entropy, which is convex in it.

    One pseudo-document is spread over all classes, so that held-out documents that are all right give a large scale
    and not an infinite one.
    """
    count = len(logits_BK)
    smoothing = 1.0 / (count + 1)
    wanted = (1 - smoothing) * logits_BK[np.arange(count), classes_B] + smoothing * logits_BK.mean(axis=1)
    low, high = np.log(SCALE_RANGE[0]), np.log(SCALE_RANGE[1])
    for _ in range(50):  # the derivative grows with the scale: halve the bracket
        middle = (low + high) / 2
        scaled = logits_BK * np.exp(middle)
        weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        expected = (weights * logits_BK).sum(axis=1) / weights.sum(axis=1)
        low, high = (middle, high) if expected.mean() < wanted.mean() else (low, middle)
    return float(np.exp((low + high) / 2))


def platt_scale(logits_B: Floats, truth_B: NDArray[np.bool_]) -> tuple[float, float] | None:
    """Scale and offset of Platt 1999 with its smoothed targets, by Newton's method as in Lin, Lin and Weng 2007.

    None where one side has too few documents, or where the logit does not rise with the truth.
    """
    positives = int(truth_B.sum())
    negatives = len(truth_B) - positives
    if min(positives, negatives) < MIN_PER_SIDE:
        return None
    wanted_B = np.where(truth_B, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    features_B2 = np.stack([logits_B, np.ones_like(logits_B)], axis=1)

    def loss(parameters: Floats) -> float:
        z = features_B2 @ parameters
        return float(np.mean(np.logaddexp(0, z) - wanted_B * z))

    found = np.array([0.0, np.log((positives + 1) / (negatives + 1))])
    for _ in range(100):
        p_B = 0.5 * (1 + np.tanh(0.5 * (features_B2 @ found)))
        gradient = features_B2.T @ (p_B - wanted_B) / len(p_B)
        if np.abs(gradient).max() < 1e-9:
            break
        curvature = (features_B2 * (p_B * (1 - p_B))[:, None]).T @ features_B2 / len(p_B) + 1e-10 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-8 and loss(found - size * step) > loss(found) - 1e-4 * size * float(gradient @ step):
            size /= 2
        found = found - size * step
    scale = float(found[0])
    if not SCALE_RANGE[0] <= scale <= SCALE_RANGE[1]:
        return None
    return scale, float(found[1])
