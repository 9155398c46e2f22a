"""Our LSTM for inference against torch's."""

import pytest
import torch
from heads import documents, flat, lengths
from hypothesis import given
from hypothesis import strategies as st

from robert_pipeline.core.pack import plan_pack
from robert_pipeline.core.recurrence import ROWS_AT_ONCE, can_run, linear, run_lstm


def lstm(*, layers=1, bidirectional=False, dimension=6, hidden=5, gain=1.0):
    torch.manual_seed(0)
    made = torch.nn.LSTM(dimension, hidden, num_layers=layers, bidirectional=bidirectional).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(gain)
    return made


@given(lengths, st.integers(1, 3), st.booleans(), st.sampled_from([1.0, 4.0]))
@torch.no_grad()
def test_states_are_those_of_torch(lengths, layers, bidirectional, gain):
    """A stored head would give other labels here than where it was trained; at a gain of 4 gates saturate."""
    model = lstm(layers=layers, bidirectional=bidirectional, gain=gain)
    vectors_ND, lengths_B = flat(documents(lengths))
    packed = plan_pack(lengths_B).pack(vectors_ND)
    states, last = run_lstm(model, packed)
    theirs, (hidden_XBH, _) = torch.nn.LSTM.forward(model, packed)
    torch.testing.assert_close(states, theirs.data, atol=1e-5, rtol=0)
    directions = 2 if bidirectional else 1
    order = plan_pack(lengths_B).order_B
    torch.testing.assert_close(last, torch.cat(list(hidden_XBH[-directions:]), 1)[order], atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows", [1, ROWS_AT_ONCE - 1, ROWS_AT_ONCE, 2 * ROWS_AT_ONCE + 3])
@torch.no_grad()
def test_the_input_map_is_linear_whatever_the_number_of_rows(rows):
    """Rows at the seam of two blocks would be lost or computed twice."""
    rows_ND, weight, bias = torch.randn(rows, 6), torch.randn(20, 6), torch.randn(20)
    torch.testing.assert_close(linear(rows_ND, weight, bias), rows_ND @ weight.T + bias, atol=1e-5, rtol=1e-5)


def test_training_stays_with_torch():
    """Gradients would be missing."""
    model, inputs = lstm(), torch.zeros(1, 6)
    assert not can_run(model, inputs)
    with torch.no_grad():
        assert can_run(model, inputs)
        assert not can_run(model, inputs.double())
        assert not can_run(model.train(), inputs)
