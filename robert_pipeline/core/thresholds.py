"""Choose thresholds on held-out documents: calibrated probabilities and truth in, one value a label out.

Never sees a document that the weights were trained on; the caller holds them out. Axes: B documents, K labels.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

MIN_PREDICTED = 10
"""Fewer held-out documents of a candidate label say nothing about its precision."""
MIN_PER_SIDE = 5
"""A label's decision threshold is chosen from this many documents with it and without it."""


def precision_thresholds(
    probabilities_BK: Floats, wanted_BK: Booleans, truth_BK: Booleans, target_precision: float
) -> tuple[float, ...]:
    """For every label the lowest probability from which on its precision is at least `target_precision`.

    Both the precision counted on the held-out documents and the one expected, their mean probability, must reach the
    target: of few documents the count alone is too hopeful. `wanted_BK` marks the labels that would be given without
    a threshold. A label that too few held-out documents would get is withheld below the target itself.
    """
    thresholds = []
    for k in range(probabilities_BK.shape[1]):
        rows = np.flatnonzero(wanted_BK[:, k])
        if len(rows) < MIN_PREDICTED:
            thresholds.append(target_precision)
            continue
        rows = rows[np.argsort(-probabilities_BK[rows, k], kind="stable")]
        probabilities, right = probabilities_BK[rows, k], truth_BK[rows, k]
        counts = np.arange(1, len(rows) + 1)
        precision = np.minimum(np.cumsum(right), np.cumsum(probabilities)) / counts
        # Equal probabilities stand or fall together: only the last of a run can be a threshold.
        ends = np.append(probabilities[1:] < probabilities[:-1], True)
        good = np.flatnonzero((precision >= target_precision) & ends)
        if len(good) == 0:
            thresholds.append(1.0)
        elif good[-1] == len(rows) - 1:
            thresholds.append(0.0)
        else:
            thresholds.append(_between(probabilities, int(good[-1])))
    return tuple(thresholds)


def f1_thresholds(probabilities_BK: Floats, truth_BK: Booleans) -> tuple[float, ...]:
    """For every label of a multi-label head the probability from which on giving it has the best F1.

    None is above a half: Lipton, Elkan and Naryanaswamy 2014 show that the best one never is. A half where too few
    held-out documents have the label, or lack it.
    """
    thresholds = []
    for k in range(probabilities_BK.shape[1]):
        positives = int(truth_BK[:, k].sum())
        if min(positives, len(truth_BK) - positives) < MIN_PER_SIDE:
            thresholds.append(0.5)
            continue
        order = np.argsort(-probabilities_BK[:, k], kind="stable")
        probabilities, right = probabilities_BK[order, k], truth_BK[order, k]
        f1 = 2 * np.cumsum(right) / (np.arange(1, len(order) + 1) + positives)
        ends = np.append(probabilities[1:] < probabilities[:-1], True)
        at_a_half = np.arange(len(order)) == int((probabilities >= 0.5).sum()) - 1
        best = int(np.argmax(np.where(ends & ((probabilities < 0.5) | at_a_half), f1, -1.0)))
        last = best == len(order) - 1
        thresholds.append(min(0.5, float(probabilities[-1]) if last else _between(probabilities, best)))
    return tuple(thresholds)


def _between(probabilities: Floats, position: int) -> float:
    """Half way to the next, so that the threshold does not hang on the last digit of one document."""
    return float((probabilities[position] + probabilities[position + 1]) / 2)
