"""The compiled operations between products, against torch's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernels import compiled

from robert_pipeline.native.elementwise import packed_elementwise


@pytest.fixture(scope="module")
def kernel():
    return compiled(packed_elementwise)


@given(st.integers(0, 9), st.sampled_from([16, 48, 384, 768]), st.sampled_from([0.0, 100.0]), st.integers(0, 99))
def test_a_normalised_sum_is_torch_s(kernel, rows, width, offset, seed):
    """Every vector would be wrong, or only those of rows far from zero."""
    random = torch.Generator().manual_seed(seed)
    x, y = ((torch.randn(rows, width, generator=random) + offset).bfloat16() for _ in range(2))
    weight, bias = torch.randn(2, width, generator=random)
    expected = torch.nn.functional.layer_norm(x.float() + y.float(), (width,), weight, bias, 1e-12)
    place = x.data_ptr()
    ours = kernel.add_normalize(x, y, weight, bias, 1e-12)
    torch.testing.assert_close(ours.float(), expected, rtol=1e-2, atol=1e-2)
    assert ours.data_ptr() == place


def test_what_it_does_not_compute_is_refused(kernel):
    """It would read beside the memory that it was given."""
    rows, values = torch.zeros(2, 32).bfloat16(), torch.ones(32)
    for x, y in (
        (rows[:, :24], rows[:, :24]),
        (torch.zeros(2, 24).bfloat16(), torch.zeros(2, 24).bfloat16()),
        (rows, torch.zeros(3, 32).bfloat16()),
        (rows.float(), rows.float()),
    ):
        with pytest.raises(ValueError, match="no "):
            kernel.add_normalize(x, y, values, values, 1e-12)


def every_value():
    """All that bfloat16 can hold, without the largest and NaN."""
    every = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    values = every[every.abs() < 1e30]
    return values[: len(values) // 16 * 16].clone()


def test_gelu_is_torch_s(kernel):
    """Every layer's hidden values would be bent."""
    values = every_value()
    expected = torch.nn.functional.gelu(values.float())
    torch.testing.assert_close(kernel.gelu(values).float(), expected, rtol=1 / 256, atol=2e-4)
    assert torch.equal(values, every_value())
    assert kernel.gelu(values, in_place=True).data_ptr() == values.data_ptr()
    torch.testing.assert_close(values.float(), expected, rtol=1 / 256, atol=2e-4)


def test_the_gradient_of_gelu_is_torch_s(kernel):
    """Training would walk in a wrong direction."""
    values = every_value()
    gradient = torch.linspace(-2, 2, len(values)).bfloat16()
    x = values.float().requires_grad_()
    torch.nn.functional.gelu(x).backward(gradient.float())
    torch.testing.assert_close(kernel.gelu_gradient(values, gradient).float(), x.grad, rtol=1 / 128, atol=2e-3)


@given(st.integers(1, 40), st.sampled_from([16, 80, 384]), st.floats(0, 0.9), st.integers(0, 2**64 - 1))
def test_dropout_keeps_the_rest_and_the_mean(kernel, rows, width, share, seed):
    """Values would shrink in training, or come back other than they went."""
    x = torch.randn(rows, width).bfloat16()
    kept = kernel.dropout(x, share, seed)
    scale = 256 / (256 - round(share * 256))
    torch.testing.assert_close(kept, torch.where(kept == 0, kept, (x.float() * scale).bfloat16()))
    again = kernel.dropout(torch.ones_like(x), share, seed)
    assert torch.equal(again == 0, kept == 0) or (x == 0).any()


def test_dropout_drops_the_share_and_is_another_with_every_seed(kernel):
    """Training would see more or less noise than asked for, or the same in every step."""
    ones = torch.ones(500, 384).bfloat16()
    first, second = (kernel.dropout(ones, 0.1, seed) == 0 for seed in (7, 8))
    assert abs(first.float().mean() - 26 / 256) < 0.003
    together = (first & second).float().mean()
    assert abs(together - (26 / 256) ** 2) < 0.002
    beside = (first[:, :-16] & first[:, 16:]).float().mean()
    assert abs(beside - (26 / 256) ** 2) < 0.002


def test_what_is_not_computed_is_refused(kernel):
    """It would write beside the memory that it was given."""
    for x in (torch.zeros(2, 24).bfloat16(), torch.zeros(2, 32), torch.zeros(2, 64).bfloat16()[:, :24]):
        for call in (kernel.gelu, lambda x: kernel.gelu_gradient(x, x), lambda x: kernel.dropout(x, 0.1, 1)):
            with pytest.raises(ValueError, match="no kernel"):
                call(x)
