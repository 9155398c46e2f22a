"""RoBERT and its rivals on the same split."""

import numpy as np
import pytest
from heads import ORIGIN
from learnable import examples, in_order, labelled, learnable

from robert_pipeline.config import HeadConfig, TrainingConfig
from robert_pipeline.core.compare import RIVALS, Split, compare, describe, rival_config
from robert_pipeline.core.targets import make_targets
from robert_pipeline.core.tfidf import tfidf_margins

QUICK = TrainingConfig(epochs=12, learning_rate=1e-2)
WORDS = {"a": "goal match striker keeper", "b": "profit shares market bank", "c": "song album guitar stage"}


def comparison(data, *, head=None, training=QUICK, seeds=(0, 1), against=RIVALS, texts=None, on_step=lambda *_: None):
    head = head or HeadConfig(hidden=16)
    count = len(data)
    split = Split(learned=np.arange(0, count, 3), held_out=np.arange(1, count, 3), test=np.arange(2, count, 3))
    targets = make_targets(data, np.sort(np.concatenate([split.learned, split.held_out])), head, training)
    return compare(
        data,
        targets,
        split,
        head=head,
        training=training,
        origin=ORIGIN,
        seeds=seeds,
        against=against,
        texts=texts,
        on_step=on_step,
    )


def news(classes_B, seed=0):
    rng = np.random.default_rng(seed)
    pools = [WORDS[name].split() for name in "abc"]
    return [" ".join(rng.choice([*pools[k], "the", "of", "and"], 20)) for k in classes_B]


def test_all_models_are_judged_on_the_same_documents():
    """A model would look better because its test documents were easier."""
    vectors, classes_B = learnable(600)
    steps = []
    found = comparison(labelled(vectors, classes_B), texts=news(classes_B), on_step=lambda *step: steps.append(step))
    assert [model.name for model in found.models] == [
        "RoBERT",
        "mean of chunks",
        "first chunk only",
        "ToBERT",
        "TF-IDF + linear SVM",
    ]
    assert (found.learned_documents, found.held_out_documents, found.test_documents) == (200, 200, 200)
    supports = {tuple(score.support for score in run.classes) for model in found.models for run in model.runs}
    assert supports == {tuple(np.bincount(classes_B[2::3]).tolist())}
    assert [[run.seed for run in model.runs] for model in found.models] == [[0, 1]] * 4 + [[0]]
    accuracy = {model.name: model.accuracy.mean for model in found.models}
    assert accuracy["RoBERT"] > 0.75
    assert accuracy["first chunk only"] < accuracy["RoBERT"]  # most documents show their class in a later chunk
    assert accuracy["TF-IDF + linear SVM"] > 0.95
    assert [difference.against for difference in found.differences] == [model.name for model in found.models[1:]]
    done = [step[1] for step in steps]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0.0, 1.0)


def test_two_labels_with_a_logit_each_are_compared_with_tfidf():
    """`--output multiclass` on two labels would end after all heads were trained."""
    vectors, classes_B = learnable(240, classes=2)
    head = HeadConfig(hidden=16, output="multiclass")
    data = labelled(vectors, classes_B, names=("a", "b"))
    found = comparison(data, head=head, seeds=(0,), against=("tfidf",), texts=news(classes_B))
    assert found.models[1].accuracy.mean > 0.95
    assert found.models[1].calibration_error.mean < 0.1


def test_the_winner_is_named_where_order_decides():
    """Nobody could see from the evaluation what recurrence is worth."""
    vectors, classes_B = in_order(900)
    found = comparison(labelled(vectors, classes_B, names=("a", "b")), against=("mean",))
    (difference,) = found.differences
    assert difference.accuracy > 0.3
    assert difference.is_clear


def test_the_same_seeds_give_the_same_evaluation():
    """An evaluation could not be repeated."""
    vectors, classes_B = learnable(200)
    one, again = (comparison(labelled(vectors, classes_B), against=("mean",)) for _ in range(2))
    for model, other in zip(one.models, again.models, strict=True):
        assert [run.accuracy for run in model.runs] == [run.accuracy for run in other.runs]
        assert [run.calibrated for run in model.runs] == [run.calibrated for run in other.runs]


@pytest.mark.parametrize("output", ["binary", "multilabel"])
def test_every_output_is_compared(output):
    """Only multi-class heads could be evaluated."""
    vectors, classes_B = learnable(300, classes=2)
    names = ("a", "b") if output == "binary" else ("a", "a|b")
    head = HeadConfig(hidden=16, output=output)
    found = comparison(labelled(vectors, classes_B, names=names), head=head, seeds=(0,), texts=news(classes_B))
    assert found.output == output
    for model in found.models:
        assert model.accuracy.mean > 0.6, model.name
        assert bool(model.runs[0].confusion) == (output == "binary")


def test_labels_withheld_by_a_target_precision_are_counted():
    """The share of documents that go to review would not be known before publishing."""
    vectors, classes_B = learnable(600, noise=1.6)
    training = TrainingConfig(epochs=8, learning_rate=1e-2, target_precision=0.95)
    found = comparison(labelled(vectors, classes_B), training=training, seeds=(0,), texts=news(classes_B))
    run = found.models[0].runs[0]
    assert run.given_share < 1
    assert run.given_accuracy > run.accuracy


def test_without_held_out_documents_there_is_an_evaluation_all_the_same():
    """A small corpus could not be evaluated."""
    vectors, classes_B = learnable(100)
    data = labelled(vectors, classes_B)
    split = Split(learned=np.arange(60), held_out=np.arange(0), test=np.arange(60, 100))
    head = HeadConfig(hidden=16)
    targets = make_targets(data, split.learned, head, QUICK)
    found = compare(data, targets, split, head=head, training=QUICK, origin=ORIGIN, seeds=(0,), texts=news(classes_B))
    assert len(found.models) == 5


def test_rivals_have_settings_that_suit_them():
    """A rival would be handicapped by settings made for the LSTM, or not say what it is."""
    head = HeadConfig(hidden=30, layers=3, bidirectional=True, output="binary", dense_units=7, dropout=0.2)
    for kind in ("mean", "first-chunk", "tobert", "robert"):
        config = rival_config(kind, head)
        assert (config.kind, config.output) == (kind, "binary")
    assert rival_config("robert", head) is head
    assert describe(head) == "bidirectional LSTM, 3 layers of 30, 7 ReLU units, dropout 0.2"
    assert describe(rival_config("tobert", head)) == "transformer, 2 layers of 128, dropout 0.1"


def test_the_linear_machine_learns_words_and_pairs_of_them():
    """The baseline would be weaker than the one it is said to be."""
    texts = ["not good", "good not bad"] * 10 + ["bad", "not bad good"] * 10
    targets = np.array([0, 1] * 10 + [1, 0] * 10)
    margins = tfidf_margins(texts, targets, ["not good", "bad"], logit_count=1)
    assert margins.shape == (2, 1)
    assert (margins[:, 0] > 0).tolist() == [False, True]
    all_have = np.ones_like(targets, bool)
    both = tfidf_margins(texts, targets, ["not good", "bad"], logit_count=2)
    np.testing.assert_array_equal(both, np.concatenate([-margins, margins], axis=1))
    mask = np.stack([targets == 0, targets == 1, all_have, ~all_have], 1)
    several = tfidf_margins(texts, mask, ["not good", "bad"], logit_count=4)
    assert (several > 0).tolist() == [[True, False, True, False], [False, True, True, False]]


@pytest.mark.parametrize("texts", [["one two", "three four", "five six"], ["a b", "c d", "e f"]])
@pytest.mark.parametrize("logit_count", [1, 2, 3])
def test_the_linear_machine_without_a_term_goes_by_how_frequent_labels_are(texts, logit_count):
    """A corpus of short titles would end an evaluation in scikit-learn's own error."""
    targets = np.array([1, 1, 0])
    found = tfidf_margins(texts, targets, ["one", "six", "x"], logit_count=logit_count)
    assert found.shape == (3, logit_count)
    assert ((found[:, 0] > 0) if logit_count == 1 else (found.argmax(axis=1) == 1)).all()
    mask = targets[:, None] == np.arange(2)
    several = tfidf_margins(texts, mask, ["one"], logit_count=2)
    assert (several > 0).tolist() == [[False, True]]


def test_examples_are_counted_by_their_lengths():
    """The comparison by length would put documents into the wrong band."""
    vectors, classes_B = learnable(90)
    chosen = [5, 3, 8]
    assert examples(vectors, classes_B, chosen).lengths_B.tolist() == vectors.lengths_B[chosen].tolist()
