"""From labelled vectors to a head that can be used."""

import dataclasses

import numpy as np
import pytest
from heads import ORIGIN, trained
from learnable import labelled, learnable

from robert_pipeline.config import HeadConfig, TrainingConfig
from robert_pipeline.core.examples import InMemoryVectors, logits
from robert_pipeline.core.model import Calibration
from robert_pipeline.core.recipe import finish_head, split_validation, train_head
from robert_pipeline.core.score import decide, label_probabilities
from robert_pipeline.core.targets import make_targets

SMALL = HeadConfig(hidden=16)
QUICK = TrainingConfig(epochs=10, learning_rate=1e-2, validation_fraction=0.3)


def recipe(data, *, head=SMALL, training=QUICK):
    everything = np.arange(len(data))
    targets = make_targets(data, everything, head, training)
    learned, held_out = split_validation(data, everything, targets, training)
    return train_head(data, targets, learned=learned, held_out=held_out, config=head, training=training, origin=ORIGIN)


def judged(head, vectors):
    found = logits(head.module, vectors, np.arange(len(vectors.lengths_B)))
    probabilities = label_probabilities(found, head.calibration, head.config.output)
    return probabilities, *decide(probabilities, head.config.output, head.thresholds)


def test_a_head_is_made_calibrated_and_judged_on_what_it_has_not_seen():
    """A head would be saved that cannot be used, or its accuracy be that on its own examples."""
    done = recipe(labelled(*learnable(400)))
    assert done.head.labels == ("a", "b", "c")
    assert done.head.config.output == "multiclass"
    assert done.head.calibration.method == "temperature"
    assert done.head.calibration.documents == done.held_out_documents
    assert done.learned_documents + done.held_out_documents == 400
    assert 100 < done.held_out_documents < 140
    fresh, truth = learnable(1_000, seed=2)
    _, candidate_B, _, _ = judged(done.head, fresh)
    assert (candidate_B == truth).mean() == pytest.approx(done.held_out_accuracy, abs=0.08)
    assert dict(done.head.notes)["learned_documents"] == done.learned_documents


def test_copies_of_a_text_are_all_learned_from_or_all_held_out():
    """Calibration would be fitted on texts that the weights know by heart."""
    vectors, classes_B = learnable(200)
    data = labelled(vectors, classes_B, keys=np.arange(200) % 50)
    targets = make_targets(data, np.arange(200), SMALL, QUICK)
    learned, held_out = split_validation(data, np.arange(200), targets, QUICK)
    assert sorted([*learned, *held_out]) == list(range(200))
    assert not set(data.text_key_B[learned]) & set(data.text_key_B[held_out])
    other = split_validation(data, np.arange(200), targets, dataclasses.replace(QUICK, split="2"))
    assert set(other[1]) != set(held_out)


def test_labels_are_withheld_for_a_target_precision():
    """The precision asked for would not be reached on new documents."""
    vectors, classes_B = learnable(1_500, noise=2.0)
    done = recipe(labelled(vectors, classes_B), training=dataclasses.replace(QUICK, target_precision=0.95))
    fresh, truth = learnable(3_000, noise=2.0, seed=2)
    _, candidate_B, given_BK, withheld_B = judged(done.head, fresh)
    assert (candidate_B == truth).mean() < 0.92
    kept = given_BK.any(axis=1)
    assert (kept == ~withheld_B).all()
    assert 0.3 < kept.mean() < 1
    assert (candidate_B == truth)[kept].mean() > 0.94


@pytest.mark.parametrize("classes", [2, 3])
def test_balanced_classes_choose_rare_labels_while_probabilities_stay_true(classes):
    """Class weights would be undone by calibration, or make every rare label look certain."""
    shares = [0.9, 0.1] if classes == 2 else [0.8, 0.1, 0.1]
    vectors, classes_B = learnable(1_500, classes=classes, noise=2.0, shares=shares)
    fresh, truth = learnable(4_000, classes=classes, noise=2.0, shares=shares, seed=2)
    recall, bias = {}, {}
    for weight in ("none", "balanced"):
        training = dataclasses.replace(QUICK, class_weight=weight)
        done = recipe(labelled(vectors, classes_B, names=("a", "b", "c")[:classes]), training=training)
        probabilities_BK, candidate_B, _, _ = judged(done.head, fresh)
        recall[weight] = (candidate_B == truth)[truth > 0].mean()
        bias[weight] = abs(probabilities_BK[:, 1:].mean(0) - np.array(shares[1:])).max()
    assert recall["balanced"] > recall["none"] + 0.03
    assert max(bias.values()) < 0.03


def test_class_weights_are_taken_back_where_nothing_can_be_calibrated():
    """A head from few documents would publish probabilities several times too large."""
    vectors, classes_B = learnable(300, classes=2, noise=2.0, shares=[0.9, 0.1])
    training = dataclasses.replace(QUICK, class_weight="balanced", validation_fraction=0.03)
    done = recipe(labelled(vectors, classes_B, names=("a", "b")), training=training)
    assert done.head.calibration.method == "none"
    negatives, positives = 1 - classes_B, classes_B
    assert done.head.calibration.offset[0] == pytest.approx(-np.log(negatives.sum() / positives.sum()), abs=0.3)
    assert done.head.thresholds.decision[1] == pytest.approx(0.1, abs=0.03)


def test_the_positive_threshold_is_the_one_asked_for():
    """A user's threshold would be replaced by a half."""
    data = labelled(*learnable(200, classes=2), names=("no", "yes"))
    training = dataclasses.replace(QUICK, positive_label="no", positive_threshold=0.2)
    done = recipe(data, training=training)
    assert done.head.labels == ("yes", "no")
    assert done.head.thresholds.decision == (0.8, 0.2)


def test_several_labels_get_thresholds_of_their_own():
    """A rare label would never reach a half and never be given."""
    vectors, classes_B = learnable(800, noise=2.0)
    names = ("a", "a|b", "c")
    done = recipe(labelled(vectors, classes_B, names=names), head=HeadConfig(hidden=16, output="multilabel"))
    assert done.head.labels == ("a", "b", "c")
    assert done.head.calibration.method == "platt"
    assert all(0 < value <= 0.5 for value in done.head.thresholds.decision)
    assert len(set(done.head.thresholds.decision)) > 1


def test_too_few_documents_to_calibrate_still_make_a_head():
    """A newcomer with thirty documents would get nothing."""
    done = recipe(labelled(*learnable(30)))
    assert done.head.calibration.method == "none"
    nothing_held_out = recipe(labelled(*learnable(30)), training=dataclasses.replace(QUICK, validation_fraction=0.0))
    assert nothing_held_out.held_out_documents == 0
    assert np.isnan(nothing_held_out.held_out_accuracy)


def test_calibrating_again_starts_from_what_there_is():
    """A second calibration would be applied to logits that the first has changed already."""
    rng = np.random.default_rng(0)
    true_BK = rng.normal(0, 2, (3_000, 3))
    shares = np.exp(true_BK) / np.exp(true_BK).sum(1, keepdims=True)
    truth = (shares.cumsum(1) > rng.random((3_000, 1))).argmax(1)
    head = trained(calibration=Calibration(method="temperature", scale=(3.0,) * 3, offset=(0.0,) * 3, documents=9))
    again, accuracy = finish_head(head, true_BK * 5, truth, None)
    assert again.calibration.scale[0] == pytest.approx(0.2, rel=0.1)
    assert accuracy == pytest.approx((true_BK.argmax(1) == truth).mean())
    twice, _ = finish_head(again, true_BK * 5, truth, None)
    assert twice.calibration.scale == pytest.approx(again.calibration.scale, rel=1e-6)


def test_vectors_stay_where_they_are():
    """Training would copy the corpus' vectors, or change them."""
    vectors, classes_B = learnable(100)
    before = vectors.vectors_ND.copy()
    frozen = InMemoryVectors(vectors_ND=vectors.vectors_ND, lengths_B=vectors.lengths_B)
    frozen.vectors_ND.flags.writeable = False
    recipe(labelled(frozen, classes_B))
    assert np.array_equal(frozen.vectors_ND, before)
