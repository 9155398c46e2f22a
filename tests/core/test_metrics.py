"""Figures about answers, held against scikit-learn's where it has them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics as theirs

from robert_pipeline.core.metrics import (
    all_right,
    calibration_score,
    class_scores,
    confusion,
    length_bands,
    macro_f1,
    paired_difference,
    reliability,
)

LABELS = ("a", "b", "c")
pairs = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40)


def masks(pairs):
    truth, given_ = np.array(pairs).T
    return truth, given_, np.eye(3, dtype=bool)[truth], np.eye(3, dtype=bool)[given_]


@given(pairs)
def test_scores_are_those_of_scikit_learn(pairs):
    """Published figures could not be compared with anybody else's."""
    truth, given_, truth_BK, given_BK = masks(pairs)
    scores = class_scores(LABELS, truth_BK, given_BK)
    precision, recall, f1, support = theirs.precision_recall_fscore_support(
        truth, given_, labels=[0, 1, 2], zero_division=0
    )
    np.testing.assert_allclose([s.precision for s in scores], precision)
    np.testing.assert_allclose([s.recall for s in scores], recall)
    np.testing.assert_allclose([s.f1 for s in scores], f1)
    assert [s.support for s in scores] == support.tolist()
    assert [s.given for s in scores] == np.bincount(given_, minlength=3).tolist()
    assert macro_f1(scores) == pytest.approx(theirs.f1_score(truth, given_, average="macro", zero_division=0))
    assert all_right(truth_BK, given_BK).mean() == pytest.approx(theirs.accuracy_score(truth, given_))
    assert (
        np.array(confusion(truth_BK, given_BK)).tolist()
        == theirs.confusion_matrix(truth, given_, labels=[0, 1, 2]).tolist()
    )


probabilities = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


@given(probabilities)
def test_the_calibration_error_is_that_of_the_formula(pairs):
    """The error would be weighted or binned otherwise than stated."""
    p, right = np.array([x for x, _ in pairs]), np.array([y for _, y in pairs])
    expected = 0.0
    for low in range(15):
        inside = [i for i in range(len(p)) if min(int(p[i] * 15), 14) == low]
        if inside:
            expected += len(inside) / len(p) * abs(p[inside].mean() - right[inside].mean())
    truth_BK = np.stack([right, ~right], 1)
    chosen_BK = np.stack([np.ones(len(p), bool), np.zeros(len(p), bool)], 1)
    score = calibration_score(np.stack([p, 1 - p], 1), truth_BK, chosen_BK, multilabel=False)
    assert score.expected_calibration_error == pytest.approx(expected, abs=1e-12)
    assert sum(each.count for each in score.bins) == len(p)
    assert all(each.low <= each.probability <= each.high for each in score.bins)


@given(pairs, st.integers(0, 9))
def test_brier_and_log_loss_are_those_of_scikit_learn(pairs, seed):
    """A calibration would look better or worse than it is."""
    truth, _, truth_BK, chosen_BK = masks(pairs)
    probabilities_BK = np.random.default_rng(seed).dirichlet(np.ones(3), len(truth))
    score = calibration_score(probabilities_BK, truth_BK, chosen_BK, multilabel=False)
    assert score.log_loss == pytest.approx(theirs.log_loss(truth, probabilities_BK, labels=[0, 1, 2]))
    assert score.brier == pytest.approx(np.square(probabilities_BK - truth_BK).sum(1).mean())
    several = calibration_score(probabilities_BK, truth_BK, chosen_BK, multilabel=True)
    by_label = [theirs.log_loss(truth_BK[:, k], probabilities_BK[:, k], labels=[0, 1]) for k in range(3)]
    assert several.log_loss == pytest.approx(np.mean(by_label))
    assert sum(each.count for each in several.bins) == 3 * len(truth)


def test_right_probabilities_have_no_error_and_wrong_ones_theirs():
    """The bound that models are held to would mean nothing."""
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 100_000)
    right = rng.random(100_000) < p
    for claimed, error in ((p, 0.0), (np.ones_like(p), 0.25)):
        bins = reliability(claimed, right)
        assert sum(b.count * abs(b.probability - b.accuracy) for b in bins) / 1e5 == pytest.approx(error, abs=0.005)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=150), st.integers(1, 30))
def test_length_bands_cover_all_lengths_once_and_are_not_empty(lengths, least):
    """Documents would be missing from the comparison by length, or a band rest on three of them."""
    bands = length_bands(np.array(lengths), least=least)
    assert bands[0][0] == 1
    assert bands[-1][1] == max(lengths)
    assert all(after[0] == before[1] + 1 for before, after in pairwise(bands))
    counts = [sum(low <= length <= high for length in lengths) for low, high in bands]
    assert len(bands) == 1 or min(counts) >= least


def test_bands_double_where_there_are_documents():
    """Long documents would hide among short ones."""
    assert length_bands(np.repeat([1, 2, 3, 6, 12, 30], 40)) == ((1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 30))
    assert length_bands(np.repeat([1, 2, 30], [40, 40, 3])) == ((1, 1), (2, 30))
    assert length_bands(np.repeat([1, 2, 3], [3, 40, 40])) == ((1, 2), (3, 3))


def test_the_interval_of_a_difference_covers_the_truth_as_often_as_it_says():
    """'RoBERT is better' would be said of luck."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        shared = rng.random((300, 1)) < 0.6  # documents that are easy for both
        right = shared | (rng.random((300, 2)) < [0.5, 0.4])
        mean, low, high = paired_difference(right[:, 0].astype(float), right[:, 1].astype(float))
        assert low <= mean <= high
        covered += low <= 0.4 * (0.5 - 0.4) <= high
    assert 0.92 < covered / 400 < 0.98
    assert paired_difference(np.ones(1), np.zeros(1)) == (1.0, -1.0, 1.0)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 200))
def test_a_difference_is_clear_only_where_mcnemars_exact_test_says_so(won, lost, neither):
    """'RoBERT is better' would be said of four documents that told the two apart."""
    if won + lost + neither < 2:
        return
    right = np.repeat([1.0, 0.0, 1.0], [won, lost, neither])
    other = np.repeat([0.0, 1.0, 1.0], [won, lost, neither])
    mean, low, high = paired_difference(right, other)
    assert low <= mean <= high
    if low > 0 or high < 0:
        assert binomtest(won, won + lost).pvalue <= 0.05
