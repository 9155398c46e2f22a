"""Weights that were trained elsewhere."""

import pytest
import torch
from heads import documents, flat, module
from torch import nn

from robert_pipeline.core.weights import head_from, shape_of
from robert_pipeline.errors import ModelError


def origin(*, dimension=6, hidden=4, logits=2, layers=1, bidirectional=False):
    lstm = nn.LSTM(dimension, hidden, num_layers=layers, bidirectional=bidirectional)
    out = nn.Linear(hidden * (1 + bidirectional), logits)
    return nn.ModuleDict({"lstm": lstm, "out": out}).state_dict()


@pytest.mark.parametrize(
    ("sizes", "output", "expected"),
    [
        ({}, "auto", ("multiclass", 4, 1, False, 6, 2)),
        ({"logits": 1}, "auto", ("binary", 4, 1, False, 6, 2)),
        ({"logits": 5, "hidden": 3, "dimension": 9}, "auto", ("multiclass", 3, 1, False, 9, 5)),
        ({"layers": 3, "bidirectional": True}, "multilabel", ("multilabel", 4, 3, True, 6, 2)),
        ({"logits": 1}, "multilabel", ("multilabel", 4, 1, False, 6, 1)),
    ],
)
def test_the_head_is_told_from_its_tensors(sizes, output, expected):
    """A user would have to know and type every size of the model."""
    state = origin(**sizes)
    shape = shape_of(state, output=output, place="w")
    config = shape.config
    found = (config.output, config.hidden, config.layers, config.bidirectional, shape.dimension, shape.label_count)
    assert found == expected
    vectors_ND, lengths_B = flat(documents([2, 3], dimension=shape.dimension))
    assert head_from(state, shape, place="w")(vectors_ND, lengths_B).shape == (2, sizes.get("logits", 2))


def test_a_dense_layer_is_found():
    """The paper's head could not be brought along."""
    theirs = module(dense_units=5, labels=3)
    shape = shape_of(theirs.state_dict(), output="auto", place="w")
    assert shape.config.dense_units == 5
    texts = flat(documents([2, 4]))
    torch.testing.assert_close(head_from(theirs.state_dict(), shape, place="w")(*texts), theirs(*texts))


def test_half_precision_weights_become_float32():
    """Logits would be rounded to three digits."""
    state = {name: tensor.half() for name, tensor in origin().items()}
    head = head_from(state, shape_of(state, output="auto", place="w"), place="w")
    assert {tensor.dtype for tensor in head.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "output", "named"),
    [
        (lambda s: s.pop("lstm.weight_hh_l0"), "auto", "has no matrix 'lstm.weight_hh_l0'; it holds lstm.bias_hh_l0"),
        (lambda s: s.clear(), "auto", "has no matrix 'lstm.weight_ih_l0'; it holds nothing"),
        (lambda s: s.update({"out.weight": torch.zeros(4)}), "auto", "has no matrix 'out.weight'"),
        (lambda s: None, "binary", "has 2 logits, head.output is 'binary'"),
        (lambda s: s.update({"out.weight": torch.zeros(1, 4)}), "multiclass", "has one logit"),
        (lambda s: s.pop("out.bias"), "auto", "do not fit a head of their sizes"),
        (lambda s: s.update({"extra": torch.zeros(1)}), "auto", "extra"),
        (lambda s: s.update({"out.weight": torch.zeros(2, 9)}), "auto", "do not fit a head of their sizes"),
        (lambda s: s["out.bias"].fill_(torch.nan), "auto", "hold NaN or infinity"),
    ],
)
def test_what_is_no_head_is_named(change, output, named):
    """Half of a model would be loaded, the rest left at random values."""
    state = origin()
    change(state)
    with pytest.raises(ModelError, match=r"w\.safetensors") as raised:
        head_from(state, shape_of(state, output=output, place="w.safetensors"), place="w.safetensors")
    assert named in str(raised.value)
    assert raised.value.fix
