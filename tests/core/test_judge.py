"""Answers against the truth, as an Evaluation that survives JSON."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robert_pipeline.core.evaluation import from_json, spread, to_json
from robert_pipeline.core.judge import Contender, answers_from, evaluate
from robert_pipeline.core.model import Calibration, Thresholds, no_calibration
from robert_pipeline.errors import ConfigError

LABELS = ("a", "b", "c")


def answers(logits_BK, *, review=0.0, seed=0, output="multiclass", calibration=None):
    count = logits_BK.shape[1]
    thresholds = Thresholds(decision=(0.5,) * count, review=(review,) * count)
    calibration = calibration or no_calibration(count)
    return answers_from(logits_BK, output, calibration, thresholds, seed=seed, seconds=1.5)


def evaluation(*contenders, truth, lengths=None, output="multiclass"):
    truth_BK = np.eye(3, dtype=bool)[truth] if np.ndim(truth) == 1 else np.array(truth)
    lengths = np.ones(len(truth_BK), np.int64) if lengths is None else np.array(lengths)
    named = [Contender(name=f"m{i}", description="d", answers=tuple(each)) for i, each in enumerate(contenders)]
    return evaluate(named, truth_BK, lengths, labels=LABELS, output=output, facts=[("corpus", "x")])


def test_figures_are_of_the_labels_chosen_and_withheld_ones_are_told_apart():
    """A head would look worse for being careful, or its coverage be hidden."""
    logits_BK = np.log([[0.9, 0.05, 0.05], [0.4, 0.35, 0.25], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]])
    run = evaluation([answers(logits_BK, review=0.6)], truth=[0, 1, 1, 0]).models[0].runs[0]
    assert run.accuracy == 0.5
    assert run.confusion == ((1, 0, 1), (1, 1, 0), (0, 0, 0))
    assert (run.given_share, run.given_accuracy) == (0.75, pytest.approx(2 / 3))
    assert [score.support for score in run.classes] == [2, 2, 0]
    none = evaluation([answers(logits_BK, review=1.0)], truth=[0, 1, 1, 0]).models[0].runs[0]
    assert (none.accuracy, none.given_share, none.given_accuracy) == (0.5, 0.0, None)


def test_calibration_is_shown_before_and_after():
    """Nobody could see whether calibration helped."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 3_000)
    true_BK = rng.normal(0, 1, (3_000, 3))
    shares = np.exp(true_BK) / np.exp(true_BK).sum(1, keepdims=True)
    truth = (shares.cumsum(1) > rng.random((3_000, 1))).argmax(1)
    right = Calibration(method="temperature", scale=(0.2,) * 3, offset=(0.0,) * 3, documents=9)
    run = evaluation([answers(true_BK * 5, calibration=right)], truth=truth).models[0].runs[0]
    assert run.calibrated.expected_calibration_error < 0.03 < 0.2 < run.uncalibrated.expected_calibration_error


def test_length_bands_hold_the_accuracy_of_their_documents():
    """Recurrence would seem to help, or not, on documents of another length."""
    truth = np.zeros(60, np.int64)
    logits_BK = np.zeros((60, 3))
    logits_BK[:30, 0] = 1  # the short ones are right
    logits_BK[30:, 1] = 1
    found = evaluation([answers(logits_BK)], truth=truth, lengths=[1] * 30 + [7] * 30)
    assert [(band.fewest, band.most, band.documents) for band in found.bands] == [(1, 4, 30), (5, 7, 30)]
    assert found.models[0].runs[0].accuracy_by_length == (1.0, 0.0)


def test_spread_and_difference_are_over_seeds_and_documents():
    """One lucky seed would count as the model's accuracy, or a difference of luck as one of the models."""
    truth = np.zeros(100, np.int64)
    good, half = np.tile([1.0, 0, 0], (100, 1)), np.tile([1.0, 0, 0], (100, 1))
    half[::2] = [0, 1.0, 0]
    found = evaluation([answers(good), answers(half, seed=1)], [answers(half)], [answers(good)], truth=truth)
    assert found.models[0].accuracy == spread([1.0, 0.5])
    assert found.models[0].accuracy.mean == 0.75
    worse, better = found.differences
    assert (worse.against, worse.accuracy, worse.is_clear) == ("m1", 0.25, True)
    assert (better.against, better.accuracy, better.is_clear) == ("m2", -0.25, True)
    assert not dataclasses.replace(worse, low=-0.01).is_clear


def test_several_labels_a_document():
    """A multi-label head could not be evaluated, or one missing label pass for right."""
    truth = [[True, True, False], [False, True, False], [False, False, False], [True, False, True]]
    logits_BK = np.array([[2.0, 2, -2], [-2, 2, 2], [-2, -2, -2], [2, -2, 2]])
    found = evaluation([answers(logits_BK, output="multilabel")], truth=truth, output="multilabel")
    run = found.models[0].runs[0]
    assert (run.accuracy, run.confusion) == (0.75, ())
    assert [score.precision for score in run.classes] == [1.0, 1.0, 0.5]


@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**31))
@settings(max_examples=15)
def test_an_evaluation_survives_json(models, seeds, seed):
    """The page or a later comparison would be made of other figures than those found."""
    rng = np.random.default_rng(seed)
    contenders = [[answers(rng.normal(0, 2, (7, 3)), seed=s, review=0.9) for s in range(seeds)] for _ in range(models)]
    found = evaluation(*contenders, truth=rng.integers(0, 3, 7), lengths=rng.integers(1, 9, 7))
    assert from_json(to_json(found)) == found


@pytest.mark.parametrize("text", ["", "[]", '{"labels": 3}', "{"])
def test_other_json_is_refused(text):
    """A page would be made of half an evaluation."""
    with pytest.raises(ConfigError, match="this is no evaluation"):
        from_json(text)
