"""What a fit says its model is worth is what the model that it delivers does."""

import numpy as np
import pytest
from heads import ORIGIN
from learnable import labelled, learnable

from robert_pipeline.config import HeadConfig, TrainingConfig
from robert_pipeline.core.examples import logits
from robert_pipeline.core.fused_recipe import HeldOut, train_fused
from robert_pipeline.core.score import decide, label_probabilities
from robert_pipeline.core.targets import make_targets
from robert_pipeline.core.terms import DocumentTokens

LEARNED, HELD = np.arange(400), np.arange(400, 800)


def fitted(head=None, **training):
    """A recipe of rare and frequent labels, and its head's answers to the held-out documents."""
    vectors, classes_B = learnable(800, noise=1.8, shares=(0.8, 0.15, 0.05))
    random = np.random.default_rng(2)
    texts = [np.append(random.integers(0, 50, 20), 100 + k * (random.random() < 0.1)) for k in classes_B]

    def tokens(documents):
        return DocumentTokens(
            token_ids=np.concatenate([texts[number] for number in documents]).astype(np.int32),
            tokens_B=np.array([len(texts[number]) for number in documents]),
        )

    data, config = labelled(vectors, classes_B), TrainingConfig(epochs=12, learning_rate=1e-2, seed=4, **training)
    head = head or HeadConfig(hidden=16)
    targets = make_targets(data, np.arange(len(data)), head, config)
    recipe = train_fused(
        data,
        tokens,
        targets,
        learned=LEARNED,
        held_out=HeldOut(documents=HELD, first_half_B=HELD % 2 == 0),
        head=head,
        training=config,
        origin=ORIGIN,
        seeds=(4, 5),
    )
    found = recipe.head.fusion.logits(logits(recipe.head.module, data.vectors, HELD), tokens(HELD))
    output = recipe.head.config.output
    probabilities = label_probabilities(found, recipe.head.calibration, output)
    return recipe, probabilities, decide(probabilities, output, recipe.head.thresholds)


@pytest.mark.parametrize("training", [{}, {"class_weight": "balanced"}, {"target_precision": 0.9}])
def test_the_judged_model_decides_as_the_one_that_is_delivered(training):
    """A model card would promise labels that the model withholds, or never gives."""
    recipe, _, (chosen_B, _, withheld_B) = fitted(**training)
    judged = recipe.contenders[0].answers[0]
    given = np.bincount(chosen_B, minlength=3)
    assert np.abs(judged.chosen_BK.sum(axis=0) - given).max() < 0.02 * len(HELD)
    assert judged.withheld_B.mean() == pytest.approx(withheld_B.mean(), abs=0.03)
    assert bool(withheld_B.any()) == ("target_precision" in training)
    assert (given[2] > 20) == ("class_weight" in training)


def test_class_weights_leave_probabilities_true():
    """Rare labels would be called as probable as the loss weighed them."""
    means = [fitted(**training)[1].mean(axis=0) for training in ({}, {"class_weight": "balanced"})]
    assert np.abs(means[1] - means[0]).max() < 0.05


def test_a_part_before_calibration_is_as_it_was_trained():
    """'Before' and 'after' on the page would be the same figures, whatever calibration did."""
    recipe, *_ = fitted()
    view = next(each for each in recipe.contenders if each.name == "words: style view")
    answers = view.answers[0]
    assert not np.allclose(answers.uncalibrated_BK, answers.probabilities_BK, atol=0.01)
    assert [[answer.seed for answer in each.answers] for each in recipe.contenders[:2]] == [[4, 5], [4, 5]]
