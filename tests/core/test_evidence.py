"""Contributions of chunks to the logit of the chosen class."""

import pytest
import torch
from heads import SHAPES, documents, flat, lengths, module
from hypothesis import given, settings

from robert_pipeline.config import HeadConfig
from robert_pipeline.core.evidence import explain, method

shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def evidence_of(head, texts, classes):
    vectors_ND, lengths_B = flat(texts)
    documents_BS, states_NS = head.read(vectors_ND, lengths_B)
    return explain(head, states_NS, documents_BS, lengths_B, torch.tensor(classes)), head.classify(documents_BS)


def by_document(values_N, texts):
    return torch.stack([part.sum() for part in values_N.split([len(text) for text in texts])])


@shapes
@given(lengths=lengths)
@settings(max_examples=15)
@torch.no_grad()
def test_contributions_sum_to_the_logit_less_the_bias(shape, lengths):
    """The strongest passage would not be the one that decided."""
    head, texts = module(**shape), documents(lengths)
    classes = [document % 3 for document in range(len(texts))]
    found, logits_BK = evidence_of(head, texts, classes)
    logit_B = logits_BK[torch.arange(len(texts)), classes]
    torch.testing.assert_close(found.logit_B, logit_B, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        by_document(found.contributions_N, texts), (logit_B - found.bias_B).double(), atol=1e-4, rtol=0
    )
    if "dense_units" not in shape:
        torch.testing.assert_close(found.bias_B, head.out.bias[classes])


@shapes
@torch.no_grad()
def test_three_thousand_contributions_still_add_up(shape):
    """Rounding would grow with the length of the document."""
    head, texts = module(**shape), documents([3_000])
    found, logits_BK = evidence_of(head, texts, [1])
    torch.testing.assert_close(
        by_document(found.contributions_N, texts), (logits_BK[:, 1] - found.bias_B).double(), atol=1e-4, rtol=0
    )


@torch.no_grad()
def test_robert_s_contribution_is_the_step_of_the_hidden_state():
    """W_k (h_t - h_(t-1)) would be credited to the chunk before or after."""
    head, (text,) = module(), documents([5])
    found, _ = evidence_of(head, [text], [2])
    states, _ = head.lstm(text)
    steps = states - torch.cat([torch.zeros(1, 8), states[:-1]])
    torch.testing.assert_close(found.contributions_N, (steps @ head.out.weight[2]).double(), atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_chunk_that_is_not_read_contributes_nothing():
    """The first-chunk head would name a passage that it has not seen."""
    found, _ = evidence_of(module(kind="first-chunk"), documents([4, 2]), [0, 0])
    assert (found.contributions_N != 0).nonzero().flatten().tolist() == [0, 4]


def test_every_head_says_what_its_contributions_are():
    """A reader of the table could not know what the numbers mean."""
    texts = {method(HeadConfig(**shape)) for shape in SHAPES.values()}
    assert len(texts) == 8  # a second layer changes nothing about it
    assert "h_t - h_(t-1)" in method(HeadConfig())
    assert "ReLU" in method(HeadConfig(dense_units=3))
