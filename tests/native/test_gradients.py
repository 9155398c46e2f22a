"""The compiled gradients of linear maps against torch's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernels import compiled

from robert_pipeline.native.gradients import linear_gradients


@pytest.fixture(scope="module")
def kernel():
    return compiled(linear_gradients)


@given(st.integers(1, 2_500), st.sampled_from([(32, 64), (96, 32), (384, 384), (64, 1024)]), st.integers(0, 99))
def test_they_are_torch_s(kernel, rows, shape, seed):
    """Training would walk in a wrong direction, for some numbers of tokens."""
    random = torch.Generator().manual_seed(seed)
    outputs, inputs = shape
    gradient = torch.randn(rows, outputs, generator=random).bfloat16()
    x = torch.randn(rows, inputs, generator=random).bfloat16()
    weight, bias = kernel(gradient, x)
    for ours, theirs in ((weight, gradient.float().T @ x.float()), (bias, gradient.float().sum(0))):
        assert (ours.float() - theirs).norm() <= 0.004 * theirs.norm()


def test_what_is_not_computed_is_refused(kernel):
    """It would read beside the memory that it was given."""
    for gradient, x in (
        (torch.zeros(4, 48), torch.zeros(4, 32)),
        (torch.zeros(4, 32), torch.zeros(4, 40)),
        (torch.zeros(4, 32), torch.zeros(5, 32)),
    ):
        with pytest.raises(ValueError, match="no gradients"):
            kernel(gradient.bfloat16(), x.bfloat16())
    with pytest.raises(ValueError, match="float32"):
        kernel(torch.zeros(4, 32), torch.zeros(4, 32))
