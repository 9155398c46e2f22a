"""From a label column to targets."""

import numpy as np
import pytest

from robert_pipeline.config import HeadConfig, TrainingConfig
from robert_pipeline.core.examples import InMemoryVectors
from robert_pipeline.core.targets import LabelledVectors, make_targets, targets_for
from robert_pipeline.errors import TrainingError


def labelled(values):
    names = tuple(sorted(set(values)))
    return LabelledVectors(
        vectors=InMemoryVectors(vectors_ND=np.zeros((len(values), 2)), lengths_B=np.ones(len(values), np.int64)),
        label_names=names,
        label_B=np.array([names.index(value) for value in values]),
        text_key_B=np.arange(len(values)),
    )


def targets(values, *, learning=None, output="auto", **training):
    data = labelled(values)
    chosen = np.arange(len(data)) if learning is None else np.array(learning)
    return make_targets(data, chosen, HeadConfig(output=output), TrainingConfig(**training))


def test_classes_are_numbered_in_the_order_of_the_labels():
    """Documents would be trained towards other labels than theirs."""
    found = targets(["b", "a", "c", "a", "b", "c"])
    assert found.labels == ("a", "b", "c")
    assert found.values.tolist() == [1, 0, 2, 0, 1, 2]
    assert found.truth_BK.argmax(1).tolist() == [1, 0, 2, 0, 1, 2]


def test_the_positive_label_comes_last():
    """The single logit and its threshold would be for the other label."""
    found = targets(["spam", "ham"] * 2, positive_label="ham")
    assert (found.labels, found.values.tolist()) == (("spam", "ham"), [0, 1, 0, 1])


def test_several_labels_in_a_value_become_a_mask():
    """'a|b' would be a label of its own."""
    found = targets(["a|b", "b", " a ", "|", "a|b|"], output="multilabel")
    assert found.labels == ("a", "b")
    assert found.values.tolist() == [[True, True], [False, True], [True, False], [False, False], [True, True]]
    assert targets(["a;b", "a", "b"], output="multilabel", label_separator=";").labels == ("a", "b")


@pytest.mark.parametrize(
    ("values", "options", "named"),
    [
        (["a", "a"], {}, "fewer than two labels to learn: only 'a'"),
        (["a", "a", "b"], {}, "label 'b' has one document to learn from; two are needed"),
        (["a", "a", "b", "c"], {}, "labels 'b', 'c' have one document to learn from"),
        (["a", "a", "b", "b"], {"learning": [0, 1]}, "label 'b' has no document to learn from"),
        (["a|b", "a"], {"output": "multilabel"}, "label 'b' has one document"),
        (["|", "|"], {"output": "multilabel"}, "fewer than two labels to learn: none"),
        (["a", "b"] * 2, {"positive_label": "x"}, "no document has the positive label 'x'"),
        (["a", "b", "c"] * 2, {"positive_label": "a"}, "training.positive_label is 'a', but there are 3 labels"),
    ],
)
def test_what_cannot_be_learned_is_named(values, options, named):
    """A head would be trained that can never give a label, or gives one by chance."""
    with pytest.raises(TrainingError) as raised:
        targets(values, **options)
    assert named in str(raised.value)
    assert raised.value.fix


def test_a_label_that_a_head_does_not_know_is_named():
    """Its documents would count as some other label's."""
    with pytest.raises(TrainingError, match="label 'x' of 2 documents is none of the head's labels") as raised:
        targets_for(("a", "b"), labelled(["a", "x", "x"]), multilabel=False, separator="|")
    assert "this one has: a, b" in str(raised.value)
    with pytest.raises(TrainingError, match="label 'x' of 1 document is"):
        targets_for(("a", "b"), labelled(["a|x"]), multilabel=True, separator="|")


def test_known_labels_need_not_all_occur():
    """A head could not be judged on a day on which one of its labels did not occur."""
    found = targets_for(("c", "a", "b"), labelled(["b", "a"]), multilabel=False, separator="|")
    assert found.values.tolist() == [2, 1]
