"""Thresholds chosen on held-out documents."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from robert_pipeline.core.thresholds import MIN_PREDICTED, f1_thresholds, precision_thresholds

TENTHS = st.sampled_from([0.1 * each for each in range(11)])
columns = st.lists(st.tuples(TENTHS, st.booleans(), st.booleans()), min_size=1, max_size=60)


@given(columns, TENTHS)
def test_what_is_given_has_the_target_precision(rows, target):
    """Labels of less than the promised precision would be published without review."""
    probabilities, wanted, truth = (np.array(column)[:, None] for column in zip(*rows, strict=True))
    (threshold,) = precision_thresholds(probabilities, wanted.astype(bool), truth.astype(bool), target)
    given_ = (wanted & (probabilities >= threshold)).astype(bool)[:, 0]
    if wanted.sum() < MIN_PREDICTED:
        assert threshold == target
    elif threshold < 1:
        assert truth[given_].mean() >= target
        assert probabilities[given_].mean() >= target - 1e-9


def test_the_threshold_is_the_lowest_that_will_do():
    """More documents than needed would go to review."""
    probabilities = np.linspace(0.99, 0.5, 50)[:, None]
    truth = np.ones((50, 1), bool)
    truth[30:, 0] = False
    (threshold,) = precision_thresholds(probabilities, np.ones((50, 1), bool), truth, 0.9)
    kept = int((probabilities >= threshold).sum())
    assert kept == 18  # their mean probability is 0.905; that of 20 would be below 0.9, that of none is needed
    (lower,) = precision_thresholds(probabilities, np.ones((50, 1), bool), truth, 0.7)
    assert int((probabilities >= lower).sum()) == 42  # 30 right of 42; of 43 less than 70 %


def test_a_label_that_is_never_right_is_always_withheld():
    """It would be given without review because no threshold was found."""
    probabilities, truth = np.linspace(0.5, 0.9, 20)[:, None], np.zeros((20, 1), bool)
    assert precision_thresholds(probabilities, np.ones((20, 1), bool), truth, 0.9) == (1.0,)


def test_precision_holds_on_new_documents():
    """The promise would hold only for the documents that the threshold was chosen on."""
    rng = np.random.default_rng(0)
    reached = []
    for _ in range(100):
        probabilities = 1 / (1 + np.exp(-np.abs(rng.normal(2, 2, (5_050, 1)))))
        truth = rng.random(probabilities.shape) < probabilities
        (threshold,) = precision_thresholds(probabilities[:50], np.ones((50, 1), bool), truth[:50], 0.95)
        kept = probabilities[50:] >= threshold
        reached.append(truth[50:][kept].mean())
    assert np.mean(reached) >= 0.95


@given(st.lists(st.tuples(TENTHS, st.booleans()), min_size=12, max_size=60))
def test_no_threshold_up_to_a_half_has_a_better_f1(rows):
    """Rare labels of a multi-label head would be given too seldom, or too often."""
    probabilities, truth = np.array([r[0] for r in rows])[:, None], np.array([r[1] for r in rows])[:, None]
    (threshold,) = f1_thresholds(probabilities, truth)
    if min(truth.sum(), (~truth).sum()) < 5:
        assert threshold == 0.5
        return
    ours = f1_score(truth[:, 0], probabilities[:, 0] >= threshold, zero_division=0)
    best = max(f1_score(truth[:, 0], probabilities[:, 0] >= t, zero_division=0) for t in np.arange(-0.05, 0.5, 0.1))
    at_half = f1_score(truth[:, 0], probabilities[:, 0] >= 0.5, zero_division=0)
    assert threshold <= 0.5
    assert ours == pytest.approx(max(best, at_half))
