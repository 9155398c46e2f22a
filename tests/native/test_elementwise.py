"""The compiled operations between products, against torch's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robert_pipeline.native.build import NativeUnavailable
from robert_pipeline.native.elementwise import packed_elementwise


@pytest.fixture(scope="module")
def kernel():
    try:
        return packed_elementwise()
    except NativeUnavailable as reason:
        pytest.skip(f"what is tested cannot be had here: {reason}")


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


def test_gelu_is_torch_s(kernel):
    """Every layer's hidden values would be bent."""
    every = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    values = every[every.abs() < 1e30]  # NaN is not
    values = values[: len(values) // 16 * 16].clone()
    expected = torch.nn.functional.gelu(values.float())
    torch.testing.assert_close(kernel.gelu(values).float(), expected, rtol=1 / 256, atol=2e-4)


def test_gelu_of_what_it_does_not_compute_is_refused(kernel):
    """It would write beside the memory that it was given."""
    for x in (torch.zeros(2, 24).bfloat16(), torch.zeros(2, 32), torch.zeros(2, 64).bfloat16()[:, :32]):
        with pytest.raises(ValueError, match="no kernel"):
            kernel.gelu(x)
