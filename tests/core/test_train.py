"""Training: repeatable, bounded, and it learns."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learnable import DIMENSION, examples, in_order, learnable

from robert_pipeline.config import HeadConfig, TrainingConfig
from robert_pipeline.core.examples import InMemoryVectors, batches, input_scaling, logits
from robert_pipeline.core.train import fit
from robert_pipeline.errors import ConfigError, TrainingError

SMALL = HeadConfig(hidden=16, output="multiclass")
QUICK = TrainingConfig(epochs=12, learning_rate=1e-2)


def fitted(data=None, *, head=SMALL, training=QUICK, held_out=None, labels=3, on_epoch=lambda _: None):
    learn = examples(*(data or learnable(300)))
    held_out = held_out or examples(*learnable(100, seed=1))
    return fit(head, training, learn, held_out, label_count=labels, on_epoch=on_epoch)


def accuracy(module, vectors, classes_B):
    found = logits(module, vectors, np.arange(len(classes_B)))
    predicted = found.argmax(1) if found.shape[1] > 1 else found[:, 0] > 0
    return float((predicted == classes_B).mean())


def test_the_same_seed_gives_the_same_weights_whatever_came_before():
    """A head could not be made again, or would depend on what else ran in the process or on the cores there are."""
    dropout = HeadConfig(hidden=16, output="multiclass", dropout=0.3)
    one = fitted(head=dropout).module.state_dict()
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    random_before = torch.rand(1)
    torch.manual_seed(5)
    again = fitted(head=dropout).module.state_dict()
    random_after = torch.rand(1)
    torch.set_num_threads(threads)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert torch.equal(random_before, random_after), "training drew from the caller's random numbers"
    other = fitted(head=dropout, training=TrainingConfig(epochs=12, learning_rate=1e-2, seed=1)).module.state_dict()
    assert not torch.equal(one["out.weight"], other["out.weight"])


@pytest.mark.parametrize("kind", ["robert", "mean", "tobert"])
def test_every_kind_learns(kind):
    """A head would be published that has learned nothing."""
    fresh, truth = learnable(300, seed=2)
    done = fitted(head=HeadConfig(kind=kind, hidden=16, output="multiclass"))
    assert accuracy(done.module, fresh, truth) > 0.8  # a third by chance


def test_robert_learns_an_order_that_a_mean_cannot_see():
    """Recurrence would be paid for and not used."""
    data, held_out = in_order(400), examples(*in_order(100, seed=1))
    fresh, truth = in_order(300, seed=2)
    training = TrainingConfig(epochs=15, learning_rate=1e-2)
    found = {
        kind: accuracy(
            fitted(data, head=HeadConfig(kind=kind, hidden=16), held_out=held_out, training=training, labels=2).module,
            fresh,
            truth,
        )
        for kind in ("robert", "mean")
    }
    assert found["robert"] > 0.95
    assert found["mean"] < 0.65


def test_one_logit_and_two_decide_alike():
    """The natural head for two classes would be another classifier than the two-logit one people come from."""
    data, held_out = learnable(400, classes=2), examples(*learnable(150, classes=2, seed=1))
    fresh, truth = learnable(500, classes=2, seed=2)
    decisions = {}
    for output in ("binary", "multiclass"):
        module = fitted(data, head=HeadConfig(hidden=16, output=output), held_out=held_out, labels=2).module
        found = logits(module, fresh, np.arange(500))
        decisions[output] = found[:, 0] > 0 if output == "binary" else found.argmax(1) == 1
        assert (decisions[output] == truth).mean() > 0.85
    assert (decisions["binary"] == decisions["multiclass"]).mean() > 0.95


def test_it_stops_when_the_held_out_loss_no_longer_falls_and_keeps_the_best():
    """A head would learn its documents by heart, or the weights of the last, worse epoch be kept."""
    seen = []
    data = learnable(60, noise=3.0)
    held_out = examples(*learnable(200, seed=1, noise=3.0))
    done = fitted(
        data,
        held_out=held_out,
        training=TrainingConfig(epochs=40, learning_rate=2e-2, patience=3),
        on_epoch=seen.append,
    )
    losses = [epoch.validation_loss for epoch in done.epochs]
    assert tuple(seen) == done.epochs
    assert [epoch.number for epoch in seen] == list(range(1, len(seen) + 1))
    assert len(done.epochs) == done.best_epoch + 3 < 40
    assert losses[done.best_epoch - 1] == min(losses)
    found = torch.from_numpy(logits(done.module, held_out.vectors, held_out.documents))
    loss = torch.nn.functional.cross_entropy(found, torch.from_numpy(held_out.targets))
    assert float(loss) == pytest.approx(min(losses), abs=1e-4)
    rates = [epoch.learning_rate for epoch in done.epochs]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < rates[0]


def test_without_held_out_documents_it_goes_by_the_training_loss():
    """A small corpus could not be learned from."""
    nobody = examples(*learnable(10), documents=[])
    done = fitted(held_out=nobody, training=TrainingConfig(epochs=3))
    assert done.best_epoch == 3
    assert np.isnan(done.epochs[0].validation_loss)


class Watched(InMemoryVectors):
    """Remembers how much was asked of it at once."""

    asked: ClassVar[list] = []

    def gather(self, documents):
        rows = super().gather(documents)
        self.asked.append((len(documents), len(rows)))
        return rows


@given(st.integers(1, 30), st.integers(1, 20))
@settings(max_examples=12)
def test_no_more_than_a_batch_is_in_memory(max_chunks, max_documents):
    """Memory would grow with the corpus."""
    vectors, classes_B = learnable(40)
    watched = Watched(vectors_ND=vectors.vectors_ND, lengths_B=vectors.lengths_B)
    Watched.asked.clear()
    training = TrainingConfig(epochs=1, batch_chunks=max_chunks, batch_documents=max_documents)
    fit(SMALL, training, examples(watched, classes_B), examples(watched, classes_B, [0, 1, 2]), label_count=3)
    assert all(chunks <= max_chunks or documents == 1 for documents, chunks in Watched.asked)
    assert sum(documents for documents, _ in Watched.asked) == 40 + 40 + 3  # scaling, learning, validation


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 12), st.integers(1, 5))
def test_batches_cover_every_document_once(lengths, max_chunks, max_documents):
    """A document would not be learned from, or counted twice."""
    spans = list(batches(np.array(lengths, np.int64), max_documents=max_documents, max_chunks=max_chunks))
    assert [place for first, last in spans for place in range(first, last)] == list(range(len(lengths)))
    for first, last in spans:
        assert last - first == 1 or (last - first <= max_documents and sum(lengths[first:last]) <= max_chunks)


def test_scaling_is_the_mean_and_deviation_of_the_documents_learned_from():
    """Held-out documents would have a say in the weights."""
    vectors, classes_B = learnable(50)
    chosen = np.arange(0, 50, 2)
    mean_D, scale_D = input_scaling(examples(vectors, classes_B, chosen), max_chunks=20)
    rows = vectors.gather(chosen)
    np.testing.assert_allclose(mean_D, rows.mean(0), atol=1e-5)
    np.testing.assert_allclose(1 / scale_D, rows.std(0), rtol=1e-4)


def test_a_component_that_never_changes_is_left_alone():
    """One constant component would become the largest number of all."""
    vectors, classes_B = learnable(50)
    vectors.vectors_ND[:, 3] = 7.0
    _, scale_D = input_scaling(examples(vectors, classes_B))
    assert scale_D[3] == 1.0


def test_balanced_classes_find_a_rare_label_more_often():
    """Class weights would change nothing about a label of one document in twenty."""
    data = learnable(600, classes=2, noise=2.0, shares=[0.95, 0.05])
    held_out = examples(*learnable(300, classes=2, seed=1, noise=2.0, shares=[0.95, 0.05]))
    fresh, truth = learnable(2_000, classes=2, seed=2, noise=2.0, shares=[0.95, 0.05])
    recall = {}
    for weight in ("none", "balanced"):
        for output in ("binary", "multiclass"):
            training = TrainingConfig(epochs=8, learning_rate=1e-2, class_weight=weight)
            module = fitted(
                data, head=HeadConfig(hidden=16, output=output), training=training, held_out=held_out, labels=2
            ).module
            found = logits(module, fresh, np.arange(2_000))
            predicted = found.argmax(1) if output == "multiclass" else found[:, 0] > 0
            recall[weight, output] = predicted[truth == 1].mean()
    assert recall["balanced", "binary"] > recall["none", "binary"] + 0.1
    assert recall["balanced", "multiclass"] > recall["none", "multiclass"] + 0.1


def test_several_labels_a_document_are_learned_each():
    """A multi-label head would give each document one label."""
    vectors, classes_B = learnable(400, classes=3)
    mask = np.eye(3, dtype=bool)[classes_B] | (classes_B == 2)[:, None] & np.array([True, False, False])
    fresh, truth = learnable(300, classes=3, seed=2)
    wanted = np.eye(3, dtype=bool)[truth] | (truth == 2)[:, None] & np.array([True, False, False])
    done = fit(
        HeadConfig(hidden=16, output="multilabel"),
        QUICK,
        examples(vectors, mask),
        examples(vectors, mask, [0, 1]),
        label_count=3,
    )
    assert ((logits(done.module, fresh, np.arange(300)) > 0) == wanted).mean() > 0.85


def test_a_loss_that_is_not_a_number_stops_at_once():
    """An hour of training would end in a head of NaN."""
    vectors, classes_B = learnable(50)
    vectors.vectors_ND[0, 0] = np.inf
    with pytest.raises(TrainingError, match="the loss is nan after the first epoch"):
        fitted((vectors, classes_B))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"epochs": 0}, "training.epochs is 0"),
        ({"patience": 0}, "training.patience is 0"),
        ({"batch_documents": 0}, "training.batch_documents is 0"),
        ({"batch_chunks": 0}, "training.batch_chunks is 0"),
        ({"learning_rate": 0.0}, "training.learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "training.learning_rate is nan"),
        ({"weight_decay": -1.0}, "training.weight_decay is -1.0"),
        ({"validation_fraction": 1.0}, "training.validation_fraction is 1.0"),
        ({"positive_threshold": 1.5}, "training.positive_threshold is 1.5"),
        ({"positive_threshold": float("nan")}, "training.positive_threshold is nan"),
        ({"target_precision": -0.1}, "training.target_precision is -0.1"),
        ({"class_weight": "some"}, "training.class_weight is 'some'"),
        ({"label_separator": ""}, "training.label_separator is empty"),
        ({"seed": -1}, "training.seed is -1"),
    ],
)
def test_an_impossible_training_is_named(values, named):
    """A binary threshold of 1.5 would give one label to everything, an epoch count of 0 a head of random weights."""
    with pytest.raises(ConfigError) as raised:
        TrainingConfig(**values)
    assert str(raised.value).startswith(named)
    assert raised.value.fix


def test_no_documents_have_no_logits():
    """An empty validation set would end the training."""
    done = fitted(training=TrainingConfig(epochs=1))
    vectors = InMemoryVectors(vectors_ND=np.zeros((0, DIMENSION)), lengths_B=np.zeros(0, np.int64))
    assert logits(done.module, vectors, np.zeros(0, np.int64)).shape == (0, 3)
