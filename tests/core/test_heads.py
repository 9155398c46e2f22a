"""The family of heads: exact, whatever the batch, the order and the neighbours."""

import numpy as np
import pytest
import torch
from heads import DIMENSION, SHAPES, documents, flat, lengths, module
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from robert_pipeline.config import HeadConfig
from robert_pipeline.core.baselines import length_groups, sinusoids
from robert_pipeline.errors import ConfigError

shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


class RoBERT_Model(nn.Module):  # noqa: N801
    """The model that heads come from, as its users have it."""

    def __init__(self, hidden_size=100):
        super().__init__()
        self.lstm = nn.LSTM(768, hidden_size, num_layers=1, bidirectional=False)
        self.out = nn.Linear(hidden_size, 2)

    def forward(self, grouped_pooled_outs):
        lengths = torch.tensor([len(document) for document in grouped_pooled_outs])
        padded = pad_sequence(grouped_pooled_outs, padding_value=-91)
        packed = pack_padded_sequence(padded, lengths, enforce_sorted=False)
        _, (h_t, _) = self.lstm(packed)
        return self.out(h_t.view(-1, self.lstm.hidden_size))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.booleans())
@settings(max_examples=20)
def test_the_origin_s_weights_give_the_origin_s_logits(lengths, recorded):
    """People who bring their trained weights along would get other labels than before."""
    torch.manual_seed(0)
    origin = RoBERT_Model().eval()
    head = module(hidden=100, labels=2, dimension=768)
    head.load_state_dict(origin.state_dict(), strict=True)
    texts = documents(lengths, dimension=768)
    with torch.set_grad_enabled(recorded):
        torch.testing.assert_close(head(*flat(texts)), origin(texts), atol=1e-5, rtol=0)


@shapes
@given(lengths=lengths, random=st.randoms(use_true_random=False), recorded=st.booleans())
@settings(max_examples=15)
def test_a_document_alone_gets_what_it_gets_in_any_batch(shape, lengths, random, recorded):
    """A label would depend on which documents happened to be scored together."""
    head, texts = module(**shape), documents(lengths)
    with torch.set_grad_enabled(recorded):
        alone = torch.cat([head(*flat([text])) for text in texts])
        order = list(range(len(texts)))
        random.shuffle(order)
        together = head(*flat([texts[i] for i in order]))
    torch.testing.assert_close(together, alone[order], atol=1e-5, rtol=0)


@shapes
def test_a_neighbour_s_content_changes_nothing(shape):
    """One strange document (huge, or NaN) would change the labels of those scored with it."""
    head = module(**shape)
    texts = documents([3, 7, 1, 7])
    before = head(*flat(texts))
    for strange in (torch.full((7, DIMENSION), 1e4), torch.full((7, DIMENSION), torch.nan)):
        after = head(*flat([texts[0], strange, *texts[2:]]))
        torch.testing.assert_close(after[[0, 2, 3]], before[[0, 2, 3]], atol=1e-6, rtol=0)


@shapes
def test_gradient_reaches_the_document_s_own_chunks_only(shape):
    """Training would learn from padding, or push one document's loss into another."""
    head = module(seed=1, **shape)
    vectors_ND, lengths_B = flat(documents([2, 5, 1]))
    vectors_ND.requires_grad_()
    head(vectors_ND, lengths_B)[1].square().sum().backward()
    reached = vectors_ND.grad.abs().sum(1) > 0
    own = [2] if shape.get("kind") == "first-chunk" else [2, 3, 4, 5, 6]
    assert reached.nonzero().flatten().tolist() == own


@shapes
@torch.no_grad()
def test_one_chunk_and_three_thousand_chunks_in_one_batch(shape):
    """The longest document of a corpus would end the run, or the shortest be padded to its length."""
    head, texts = module(**shape), documents([1, 3_000, 1])
    logits = head(*flat(texts))
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits[:1], head(*flat(texts[:1])), atol=1e-5, rtol=0)


def direction(texts, cell, *, backwards):
    """States of one direction by a plain loop: for every document a list of its hidden states in text order."""
    every = []
    for text in texts:
        state = (torch.zeros(1, cell.hidden_size), torch.zeros(1, cell.hidden_size))
        states = []
        for vector in reversed(text) if backwards else text:
            state = cell(vector[None], state)
            states.append(state[0][0])
        every.append(states[::-1] if backwards else states)
    return every


def cell_of(lstm, name):
    weights = {part: getattr(lstm, f"{part}_{name}") for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    cell = nn.LSTMCell(weights["weight_ih"].shape[1], lstm.hidden_size)
    cell.load_state_dict(weights)
    return cell


@given(lengths)
@settings(max_examples=15)
@torch.no_grad()
def test_two_bidirectional_layers_equal_a_loop_over_cells(lengths):
    """The joined states would be of the wrong direction or document, as a careless reshape gives them."""
    head = module(layers=2, bidirectional=True)
    texts = documents(lengths)
    inputs = [list(text) for text in texts]
    for layer in ("l0", "l1"):
        ahead = direction(inputs, cell_of(head.lstm, layer), backwards=False)
        back = direction(inputs, cell_of(head.lstm, f"{layer}_reverse"), backwards=True)
        inputs = [[torch.cat(pair) for pair in zip(f, b, strict=True)] for f, b in zip(ahead, back, strict=True)]
    finals = torch.stack([torch.cat([f[-1], b[0]]) for f, b in zip(ahead, back, strict=True)])
    torch.testing.assert_close(head(*flat(texts)), head.out(finals), atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_comparators_are_what_their_names_say():
    """RoBERT would be compared with something else than the mean and the first chunk."""
    texts = documents([3, 1, 4])
    mean, first = module(kind="mean"), module(kind="first-chunk")
    torch.testing.assert_close(mean(*flat(texts)), mean.out(torch.stack([text.mean(0) for text in texts])))
    torch.testing.assert_close(first(*flat(texts)), first.out(torch.stack([text[0] for text in texts])))


@torch.no_grad()
def test_only_tobert_and_robert_see_the_order_of_chunks():
    """ToBERT would lack its positions, and be a bag of chunks."""
    text = documents([6])[0]
    for kind, sees_order in (("robert", True), ("tobert", True), ("mean", False)):
        head = module(kind=kind)
        moved = (head(*flat([text])) - head(*flat([text.flip(0)]))).abs().max() > 1e-4
        assert bool(moved) == sees_order, kind


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60))
def test_groups_hold_every_document_once_and_little_padding(lengths):
    """ToBERT would skip a document, or memory would grow with the longest one."""
    groups = length_groups(torch.tensor(lengths), cells=400, pairs=20_000)
    assert sorted(index for group in groups for index in group.tolist()) == list(range(len(lengths)))
    for group in groups:
        own = [lengths[index] for index in group.tolist()]
        longest = max(own)
        assert len(own) == 1 or (len(own) * longest <= 400 and len(own) * longest**2 <= 20_000)
        assert 2 * min(own) >= longest


def test_positions_are_those_of_the_transformer_paper():
    """Position 0 would not be told from others as in Vaswani et al. 2017."""
    found = sinusoids(3, 4).numpy()
    expected = [[np.sin(p), np.cos(p), np.sin(p / 100), np.cos(p / 100)] for p in range(3)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@shapes
@torch.no_grad()
def test_folded_scaling_reads_raw_vectors_as_scaled_ones(shape):
    """A trained head would read other numbers than those it learned from."""
    head, (vectors_ND, lengths_B) = module(**shape), flat(documents([2, 5]))
    mean_D, scale_D = torch.randn(DIMENSION), torch.rand(DIMENSION) + 0.5
    expected = head((vectors_ND - mean_D) * scale_D, lengths_B)
    head.fold_scaling(mean_D, scale_D)
    torch.testing.assert_close(head(vectors_ND, lengths_B), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"kind": "lstm"}, "head.kind is 'lstm'"),
        ({"output": "softmax"}, "head.output is 'softmax'"),
        ({"hidden": 0}, "head.hidden is 0"),
        ({"layers": 0}, "head.layers is 0"),
        ({"dense_units": 0}, "head.dense_units is 0"),
        ({"dropout": 1.0}, "head.dropout is 1.0"),
        ({"kind": "tobert", "hidden": 30}, "head.hidden is 30 with 4 attention heads"),
        ({"kind": "mean", "bidirectional": True}, "head.bidirectional is set for kind 'mean'"),
        ({"kind": "mean", "layers": 2}, "head.layers is 2 for kind 'mean'"),
    ],
)
def test_an_impossible_head_is_named(values, named):
    """Training would start and fail far from the cause, or a setting would have no effect."""
    with pytest.raises(ConfigError) as raised:
        HeadConfig(**values)
    assert str(raised.value).startswith(named)
    assert raised.value.fix


def test_labels_and_output_must_fit():
    """A single logit would be trained for three labels."""
    assert HeadConfig().resolved(2).output == "binary"
    assert HeadConfig().resolved(3).output == "multiclass"
    assert HeadConfig(output="multilabel").resolved(1).output == "multilabel"
    for output, count in (("binary", 3), ("auto", 1), ("multiclass", 1)):
        with pytest.raises(ConfigError):
            HeadConfig(output=output).resolved(count)
