"""Probabilities fitted on held-out documents."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from robert_pipeline.core.calibrate import MIN_DOCUMENTS, SCALE_RANGE, calibrate, platt_scale, temperature_scale
from robert_pipeline.core.metrics import calibration_score
from robert_pipeline.core.model import Calibration, no_calibration
from robert_pipeline.core.score import label_probabilities


def multiclass(count, *, overconfidence, classes=4, seed=0):
    """Logits that overstate by a factor, and classes drawn from the true probabilities."""
    rng = np.random.default_rng(seed)
    true_BK = rng.normal(0, 1.5, (count, classes))
    shares = np.exp(true_BK) / np.exp(true_BK).sum(1, keepdims=True)
    targets = (shares.cumsum(1) > rng.random((count, 1))).argmax(1)
    return true_BK * overconfidence, targets


def error(probabilities_BK, targets):
    truth_BK = targets[:, None] == np.arange(probabilities_BK.shape[1])
    chosen_BK = np.eye(probabilities_BK.shape[1], dtype=bool)[probabilities_BK.argmax(1)]
    return calibration_score(probabilities_BK, truth_BK, chosen_BK, multilabel=False).expected_calibration_error


@pytest.mark.parametrize("overconfidence", [0.3, 1.0, 6.0])
def test_temperature_is_found_again_and_probabilities_are_right_on_new_documents(overconfidence):
    """A head trained to no loss at all, always sure, would publish probabilities that mean nothing."""
    logits_BK, targets = multiclass(2_000, overconfidence=overconfidence)
    found = calibrate(logits_BK, targets, "multiclass")
    assert (found.method, found.documents) == ("temperature", 2_000)
    assert found.scale[0] == pytest.approx(1 / overconfidence, rel=0.1)
    fresh_BK, truth = multiclass(20_000, overconfidence=overconfidence, seed=1)
    assert error(label_probabilities(fresh_BK, found, "multiclass"), truth) < 0.015
    if overconfidence == 6.0:
        assert error(label_probabilities(fresh_BK, no_calibration(4), "multiclass"), truth) > 0.15


def test_platt_scaling_is_found_again_per_label():
    """A label's probability would be off by what class weights or its rarity add to the logit."""
    rng = np.random.default_rng(0)
    true_BK = rng.normal(-1, 2, (5_000, 3))
    truth_BK = rng.random(true_BK.shape) < 1 / (1 + np.exp(-true_BK))
    found = calibrate(true_BK * [4.0, 1.0, 0.5] + [2.0, 0.0, -1.0], truth_BK, "multilabel")
    np.testing.assert_allclose(found.scale, [0.25, 1.0, 2.0], rtol=0.12)
    np.testing.assert_allclose(found.offset, [-0.5, 0.0, 2.0], atol=0.15)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_temperature_has_the_least_loss(seed):
    """The bisection would stop beside the optimum."""
    logits_BK, targets = multiclass(60, overconfidence=2.0, seed=seed)
    smoothing = 1 / 61
    wanted_BK = (1 - smoothing) * np.eye(4)[targets] + smoothing / 4

    def loss(log_scale):
        z = logits_BK * np.exp(log_scale)
        return -(wanted_BK * (z - np.logaddexp.reduce(z, axis=1, keepdims=True))).sum(1).mean()

    found = np.log(temperature_scale(logits_BK, targets))
    others = [*np.linspace(*np.log(SCALE_RANGE), 200), found - 1e-3, found + 1e-3]
    assert loss(found) <= min(map(loss, others)) + 1e-12


def test_documents_that_are_all_right_give_a_finite_scale():
    """Fifty held-out documents without an error would make every later probability exactly 1."""
    targets = np.arange(50) % 3
    logits_BK = np.eye(3)[targets] * 2.0
    found = calibrate(logits_BK, targets, "multiclass")
    sure = label_probabilities(logits_BK, found, "multiclass").max()
    assert 0.97 < sure < 1.0
    scale, offset = platt_scale(np.array([-3.0] * 25 + [3.0] * 25), np.array([False] * 25 + [True] * 25))
    assert 0.9 < 1 / (1 + np.exp(-(3 * scale + offset))) < 1.0


def test_platt_agrees_with_a_general_optimiser():
    """Newton's steps would stop early."""
    rng = np.random.default_rng(3)
    logits_B = rng.normal(0, 3, 200)
    truth_B = rng.random(200) < 1 / (1 + np.exp(-(0.4 * logits_B - 0.7)))
    positives = truth_B.sum()
    wanted = np.where(truth_B, (positives + 1) / (positives + 2), 1 / (200 - positives + 2))
    # A target between 0 and 1 is the same document twice, with weights.
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    model.fit(np.tile(logits_B, 2)[:, None], np.repeat([1, 0], 200), np.concatenate([wanted, 1 - wanted]))
    np.testing.assert_allclose(platt_scale(logits_B, truth_B), [model.coef_[0, 0], model.intercept_[0]], atol=1e-4)


@pytest.mark.parametrize(
    ("logits_BK", "targets", "output"),
    [
        (np.zeros((0, 3)), np.zeros(0, np.int64), "multiclass"),
        (np.zeros((MIN_DOCUMENTS - 1, 3)), np.zeros(MIN_DOCUMENTS - 1, np.int64), "multiclass"),
        (np.arange(40.0)[:, None], np.array([1] * 2 + [0] * 38), "binary"),  # too few positive ones
        (np.arange(40.0)[:, None], np.array([1] * 20 + [0] * 20), "binary"),  # the logit falls with the truth
        (np.full((40, 1), 2.0), np.arange(40) % 2, "binary"),  # the logit says nothing
    ],
)
def test_nothing_is_changed_where_nothing_can_be_known(logits_BK, targets, output):
    """A handful of documents would turn probabilities upside down."""
    assert calibrate(logits_BK, targets, output) == no_calibration(logits_BK.shape[1])


@given(
    st.lists(st.tuples(*[st.floats(-5, 5)] * 4), min_size=1, max_size=4),
    st.lists(st.floats(-20, 20), min_size=4, max_size=4),
)
def test_one_calibration_after_another_is_one(pairs, logits):
    """Calibrating a head a second time would forget the first, or apply it twice."""
    first = Calibration(
        method="platt", scale=tuple(p[0] for p in pairs), offset=tuple(p[1] for p in pairs), documents=9
    )
    then = Calibration(method="platt", scale=tuple(p[2] for p in pairs), offset=tuple(p[3] for p in pairs), documents=5)
    logits_BK = np.array([logits[: len(pairs)]])
    np.testing.assert_allclose(then.after(first).apply(logits_BK), then.apply(first.apply(logits_BK)), atol=1e-9)
    assert then.after(first).documents == 5
    assert no_calibration(len(pairs)).after(first) == first


def test_a_centred_binary_logit_is_scaled_and_not_moved():
    """An offset learned from chance would give the rarer label to documents that are as likely one as the other."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, 2000)
    logits_BK = (4.0 * ((2 * truth - 1) + random.normal(size=2000)))[:, None]
    found = calibrate(logits_BK, truth, "binary", is_centred=True)
    assert found.method == "temperature"
    assert found.offset == (0.0,)
    moved = calibrate(logits_BK, truth, "binary")
    assert found.scale[0] == pytest.approx(moved.scale[0], rel=0.05)
