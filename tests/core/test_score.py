"""From chunk vectors to decisions."""

import dataclasses

import numpy as np
import pytest
from heads import documents, lengths, trained
from hypothesis import given, settings
from hypothesis import strategies as st

from robert_pipeline.core.model import Calibration, Thresholds
from robert_pipeline.core.score import decide, label_probabilities, score, strongest

FIELDS = ("logits_BK", "probabilities_BK", "candidate_B", "given_BK", "needs_review_B", "finite_B")


def scored(head, texts, dtype=np.float32):
    lengths_B = np.array([len(text) for text in texts])
    return score(head, np.concatenate([text.numpy() for text in texts]).astype(dtype), lengths_B)


@pytest.mark.parametrize("config", [{}, {"output": "multilabel"}, {"names": ("no", "yes")}, {"kind": "tobert"}])
@given(lengths=lengths, strange=st.sampled_from([np.nan, np.inf, 1e30]))
@settings(max_examples=10)
def test_a_document_gets_the_same_decision_alone_and_beside_a_broken_one(config, lengths, strange):
    """A label would depend on the neighbours, or one broken vector spoil a batch."""
    head = trained(**config)
    texts = documents(lengths)
    broken = texts[0].clone()
    broken[-1, 0] = strange
    together = scored(head, [broken, *texts])
    assert bool(together.finite_B[0]) == bool(np.isfinite(strange))
    at = len(broken)
    for place, text in enumerate(texts, start=1):
        alone = scored(head, [text])
        for name in FIELDS:
            np.testing.assert_allclose(getattr(together, name)[place], getattr(alone, name)[0], atol=1e-5)
        np.testing.assert_allclose(together.contributions_N[at : at + len(text)], alone.contributions_N, atol=1e-5)
        assert together.passage_B[place] - at == alone.passage_B[0]
        at += len(text)


@given(lengths)
def test_contributions_are_those_of_the_candidate(lengths):
    """The passage would be what spoke for another label; of one logit, what spoke against the label given."""
    for names in (("a", "b", "c"), ("no", "yes")):
        head = trained(names)
        texts = documents(lengths)
        found = scored(head, texts)
        bias = head.module.out.bias.detach().numpy()
        at = 0
        for place, text in enumerate(texts):
            total = found.contributions_N[at : at + len(text)].sum()
            if head.config.output == "binary":
                sign = 1 if found.candidate_B[place] == 1 else -1
                assert total == pytest.approx(sign * (found.logits_BK[place, 0] - bias[0]), abs=1e-4)
                assert found.probabilities_BK[place, found.candidate_B[place]] >= 0.5
            else:
                k = found.candidate_B[place]
                assert total == pytest.approx(found.logits_BK[place, k] - bias[k], abs=1e-4)
            at += len(text)


@given(st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=5), min_size=1, max_size=6))
def test_the_strongest_passage_is_the_first_of_the_largest(texts):
    """The passage named would be another document's, or change from run to run."""
    values = np.array([value for text in texts for value in text], float)
    starts = np.cumsum([0, *map(len, texts)])
    expected = [start + text.index(max(text)) for start, text in zip(starts[:-1], texts, strict=True)]
    assert strongest(values, np.array([len(text) for text in texts])).tolist() == expected


def test_a_document_of_nan_names_a_row_of_its_own():
    """An index out of range would end the run before the document could be rejected."""
    assert strongest(np.array([np.nan, np.nan, 1.0, np.nan]), np.array([2, 1, 1])).tolist() == [1, 2, 3]


@given(st.lists(st.lists(st.floats(-800, 800), min_size=3, max_size=3), min_size=1, max_size=5))
def test_probabilities_are_probabilities_however_large_the_logits(logits):
    """A published probability would be NaN, negative, or not add up to 1."""
    logits_BK = np.array(logits)
    calibration = Calibration(method="platt", scale=(1.0, 2.0, 0.5), offset=(0.0, 1.0, -1.0), documents=1)
    one = dataclasses.replace(calibration, scale=(1.0,), offset=(0.5,))
    multiclass = label_probabilities(logits_BK, calibration, "multiclass")
    multilabel = label_probabilities(logits_BK, calibration, "multilabel")
    binary = label_probabilities(logits_BK[:, :1], one, "binary")
    for found in (multiclass, multilabel, binary):
        assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_allclose(multiclass.sum(1), 1)
    np.testing.assert_allclose(binary.sum(1), 1)
    np.testing.assert_allclose(
        multilabel[:, 1], 1 / (1 + np.exp(-np.clip(2 * logits_BK[:, 1] + 1, -700, 700))), atol=1e-9
    )
    np.testing.assert_allclose(binary[:, 1], 1 / (1 + np.exp(-np.clip(logits_BK[:, 0] + 0.5, -700, 700))), atol=1e-9)


def test_below_its_review_threshold_a_label_is_withheld_and_remembered():
    """An unsure label would be published as a sure one, or the reviewer not be told which it would have been."""
    thresholds = Thresholds(decision=(0.5,) * 3, review=(0.0, 0.8, 0.9))
    probabilities_BK = np.array([[0.4, 0.3, 0.3], [0.1, 0.7, 0.2], [0.0, 0.8, 0.2], [0.05, 0.06, 0.89]])
    candidate_B, given_BK, withheld_B = decide(probabilities_BK, "multiclass", thresholds)
    assert candidate_B.tolist() == [0, 1, 1, 2]
    assert given_BK.tolist() == [[True, False, False], [False] * 3, [False, True, False], [False] * 3]
    assert withheld_B.tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("threshold", "expected"), [(0.0, [1, 1, 1]), (0.3, [0, 1, 1]), (0.5, [0, 0, 1]), (1.0, [0] * 3)]
)
def test_a_binary_head_gives_its_second_label_from_the_threshold_on(threshold, expected):
    """The positive-class threshold would have no effect, or the wrong side."""
    positive = np.array([0.2, 0.3, 0.5])
    thresholds = Thresholds(decision=(1 - threshold, threshold), review=(0.0, 0.0))
    candidate_B, given_BK, _ = decide(np.stack([1 - positive, positive], 1), "binary", thresholds)
    assert candidate_B.tolist() == expected
    assert given_BK.argmax(1).tolist() == expected


def test_with_several_labels_each_has_its_own_thresholds():
    """One label's threshold would decide for another."""
    thresholds = Thresholds(decision=(0.2, 0.5, 0.5), review=(0.0, 0.0, 0.9))
    probabilities_BK = np.array([[0.3, 0.6, 0.95], [0.3, 0.4, 0.6], [0.1, 0.2, 0.3]])
    candidate_B, given_BK, withheld_B = decide(probabilities_BK, "multilabel", thresholds)
    assert given_BK.tolist() == [[True, True, True], [True, False, False], [False, False, False]]
    assert withheld_B.tolist() == [False, True, False]
    assert candidate_B.tolist() == [2, 2, 2]


def test_a_softmax_head_weighs_labels_by_their_decision_values():
    """Balanced class weights would have no effect on the label chosen."""
    thresholds = Thresholds(decision=(0.9, 0.1, 0.5), review=(0.0,) * 3)
    candidate_B, _, _ = decide(np.array([[0.8, 0.15, 0.05], [0.95, 0.01, 0.04]]), "multiclass", thresholds)
    assert candidate_B.tolist() == [1, 0]


def test_half_precision_vectors_are_read_as_they_are():
    """Shards hold float16: scoring would fail, or round twice."""
    head, texts = trained(), documents([3, 2])
    halves = [text.half().float() for text in texts]
    np.testing.assert_allclose(scored(head, texts, np.float16).logits_BK, scored(head, halves).logits_BK, atol=1e-6)
