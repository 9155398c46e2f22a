"""What answers are worth against the truth: arrays in, frozen figures out. Trains nothing, decides nothing.

Axes: B documents, K labels. Definitions follow scikit-learn's where it has them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]
Integers = NDArray[np.int64]

CALIBRATION_BINS = 15
LEAST_PROBABILITY = 1e-12
"""Probabilities are not taken for smaller than this in a logarithm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassScore:
    """One label. `support` documents have it, `given` got it; a ratio of nothing to nothing is 0."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    given: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ReliabilityBin:
    """Probabilities in [low, high): how many, their mean, and how often they were right."""

    low: float
    high: float
    count: int
    probability: float
    accuracy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationScore:
    """How far probabilities can be trusted.

    `expected_calibration_error` (Naeini et al. 2015; Guo et al. 2017, section 2): 15 bins of equal width over the
    probability of the label chosen, the difference of mean probability and accuracy in each, weighted by the share of
    documents in it. With several labels a document, over the probabilities of all labels. `brier` is the squared error
    summed over labels, `log_loss` that of the true labels in nats; both are means over documents.
    """

    expected_calibration_error: float
    brier: float
    log_loss: float
    bins: tuple[ReliabilityBin, ...]


def class_scores(labels: Sequence[str], truth_BK: Booleans, given_BK: Booleans) -> tuple[ClassScore, ...]:
    """Precision, recall and F1 of every label."""
    both_K = (truth_BK & given_BK).sum(axis=0)
    support_K, counts_K = truth_BK.sum(axis=0), given_BK.sum(axis=0)
    return tuple(
        ClassScore(
            label=label,
            precision=_ratio(both, given),
            recall=_ratio(both, support),
            f1=_ratio(2 * both, given + support),
            support=support,
            given=given,
        )
        for label, both, support, given in zip(
            labels, both_K.tolist(), support_K.tolist(), counts_K.tolist(), strict=True
        )
    )


def macro_f1(scores: Sequence[ClassScore]) -> float:
    """Mean F1 of the labels that some document has or got."""
    seen = [score.f1 for score in scores if score.support or score.given]
    return sum(seen) / len(seen) if seen else 0.0


def all_right(truth_BK: Booleans, given_BK: Booleans) -> Booleans:
    """Which documents got exactly the labels they have; the mean is the accuracy (B,)."""
    right_B: Booleans = (truth_BK == given_BK).all(axis=1)
    return right_B


def confusion(truth_BK: Booleans, given_BK: Booleans) -> tuple[tuple[int, ...], ...]:
    """Documents by true label (rows) and label given (columns), where every document has one of each."""
    count = truth_BK.shape[1]
    cells = truth_BK.argmax(axis=1) * count + given_BK.argmax(axis=1)
    matrix = np.bincount(cells, minlength=count * count).reshape(count, count)
    return tuple(tuple(row) for row in matrix.tolist())


def calibration_score(
    probabilities_BK: Floats, truth_BK: Booleans, chosen_BK: Booleans, *, multilabel: bool
) -> CalibrationScore:
    """How far the probabilities of the chosen labels, or with several labels a document of all, can be trusted."""
    # What a probability is about: the label chosen, or each label by itself.
    about_BK = np.ones_like(truth_BK) if multilabel else chosen_BK
    bins = reliability(probabilities_BK[about_BK], truth_BK[about_BK])
    total = sum(each.count for each in bins)
    error = sum(each.count / total * abs(each.probability - each.accuracy) for each in bins)
    wrong_BK = np.square(probabilities_BK - truth_BK)
    of_truth_BK = np.where(truth_BK, probabilities_BK, 1 - probabilities_BK)
    logs_BK = -np.log(np.maximum(of_truth_BK, LEAST_PROBABILITY))
    log_losses_B = logs_BK.mean(axis=1) if multilabel else (logs_BK * truth_BK).sum(axis=1)
    return CalibrationScore(
        expected_calibration_error=float(error),
        brier=float(wrong_BK.sum(axis=1).mean()),
        log_loss=float(log_losses_B.mean()),
        bins=bins,
    )


def reliability(probabilities: Floats, right: Booleans, *, bins: int = CALIBRATION_BINS) -> tuple[ReliabilityBin, ...]:
    """The bins of equal width that hold any probability; 1 belongs to the last."""
    index = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    counts = np.bincount(index, minlength=bins)
    sums = np.bincount(index, weights=probabilities, minlength=bins)
    rights = np.bincount(index, weights=right.astype(float), minlength=bins)
    return tuple(
        ReliabilityBin(
            low=each / bins,
            high=(each + 1) / bins,
            count=int(counts[each]),
            probability=float(sums[each] / counts[each]),
            accuracy=float(rights[each] / counts[each]),
        )
        for each in np.flatnonzero(counts).tolist()
    )


def length_bands(lengths_B: Integers, *, least: int = 20) -> tuple[tuple[int, int], ...]:
    """(fewest, most) chunks of bands that double in length: 1, 2, 3-4, 5-8, …; each holds `least` documents.

    Where one would hold fewer, it is joined with its shorter neighbour, the shortest with its longer one.
    """
    longest = int(lengths_B.max())
    bands: list[tuple[int, int]] = []
    first = last = 1
    while first <= longest:
        bands.append((first, min(last, longest)))
        first, last = last + 1, 2 * last

    def documents(band: tuple[int, int]) -> int:
        return int(((lengths_B >= band[0]) & (lengths_B <= band[1])).sum())

    at = len(bands) - 1
    while at >= 0 and len(bands) > 1:
        if documents(bands[at]) < least:
            other = at - 1 if at else at + 1
            low, high = min(at, other), max(at, other)
            bands[low : high + 1] = [(bands[low][0], bands[high][1])]
        at -= 1
    return tuple(bands)


def paired_difference(right_B: Floats, other_B: Floats) -> tuple[float, float, float]:
    """Mean of `right - other` over documents, and its 95 % interval.

    The interval is that of the normal approximation, which is too narrow where few documents tell the two apart. So it
    also spans the exact one of those documents' share of wins (Clopper and Pearson 1934), and leaves zero out only
    where the exact test of McNemar 1947 rejects. A document counts by how far it tells them apart, 1 at most.
    """
    from scipy.special import betaincinv

    difference_B = right_B - other_B
    count, mean = len(difference_B), float(difference_B.mean())
    if count < 2:
        return mean, -1.0, 1.0
    reach = 1.96 * float(difference_B.std(ddof=1)) / float(np.sqrt(count))
    won, lost = (float(np.maximum(side_B, 0).sum()) for side_B in (difference_B, -difference_B))
    least = float(betaincinv(won, lost + 1, 0.025)) if won else 0.0
    most = float(betaincinv(won + 1, lost, 0.975)) if lost else 1.0
    telling = (won + lost) / count
    return mean, min(mean - reach, (2 * least - 1) * telling), max(mean + reach, (2 * most - 1) * telling)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
