"""The compiled attention against torch's own, sequence by sequence."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernels import compiled

from robert_pipeline.native.attention import AMX_SOURCE, SOURCE, PackedAttention
from robert_pipeline.native.build import load

lengths = st.lists(st.integers(0, 90), min_size=1, max_size=5).filter(any)


@pytest.fixture(scope="module", params=["AVX512-BF16", "AMX"])
def kernel(request):
    supported, source = {
        "AVX512-BF16": (torch.cpu._is_avx512_bf16_supported, SOURCE),
        "AMX": (torch.cpu._is_amx_tile_supported, AMX_SOURCE),
    }[request.param]
    if not supported():
        pytest.skip(f"this processor has no {request.param}")
    return compiled(lambda: PackedAttention(load(source)))


def batch(lengths, *, heads=2, size=32, seed=0, spread=1.0):
    """q, k, v as views of one projection, as a model makes them, the output's gradient, and where sequences start."""
    random = torch.Generator().manual_seed(seed)
    starts = torch.tensor([0, *np.cumsum(lengths)])
    qkv = (torch.randn(int(starts[-1]), 3, heads, size, generator=random) * spread).bfloat16()
    grad = torch.randn(int(starts[-1]), heads, size, generator=random).bfloat16()
    return *qkv.unbind(1), grad, starts


def expected(q, k, v, grad, starts, scale):
    """Output and gradients by torch in float32, one sequence at a time, each with what rounding the output leaves."""
    parts = []
    for first, last in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        mine = [x[first:last].float().transpose(0, 1).requires_grad_() for x in (q, k, v)]
        wanted = grad[first:last].float().transpose(0, 1)
        out = torch.nn.functional.scaled_dot_product_attention(*mine, scale=scale)
        out.backward(wanted)
        queries, keys, values = (x.detach() for x in mine)
        weights = (queries @ keys.transpose(1, 2) * scale).softmax(2)
        # The gradients of q and k are small differences from the output's product with its gradient.
        products = (out.detach() * wanted).abs().sum(2, keepdim=True) * scale
        left = (torch.zeros_like(out), products * (weights @ keys.abs()))
        left += (weights.transpose(1, 2) @ (products * queries.abs()), torch.zeros_like(values))
        found = (out.detach(), *(x.grad for x in mine))
        parts.append([torch.stack(pair).transpose(1, 2) for pair in zip(found, left, strict=True)])
    return [torch.cat(columns, 1) for columns in zip(*parts, strict=True)]


def close(ours, theirs):
    """Within what rounding to bfloat16 (8 bits) leaves over a sum, and what rounding the output does to gradients."""
    value, left = theirs
    return (ours.float() - value).norm() <= 0.01 * value.norm() + 2**-9 * left.norm() + 1e-3


@given(lengths, st.sampled_from([32, 64, 96, 128]), st.sampled_from([0.02, 1.0, 2.0]), st.integers(0, 99))
def test_output_and_gradients_are_those_of_torch(kernel, lengths, size, spread, seed):
    """Vectors would be wrong for some lengths of chunks, or training would walk in a wrong direction."""
    q, k, v, grad, starts = batch(lengths, size=size, seed=seed, spread=spread)
    scale = size**-0.5
    out, sums = kernel.forward(q, k, v, starts, scale, with_sums=True)
    grads = kernel.backward(q, k, v, out, sums, grad, starts, scale)
    for name, ours, theirs in zip(
        ("out", "q", "k", "v"), (out, *grads), expected(q, k, v, grad, starts, scale), strict=True
    ):
        assert close(ours, theirs), name


@pytest.mark.parametrize("sign", [1, -1, 0], ids=["all far above zero", "all far below", "both"])
def test_scores_beyond_the_range_of_floats(kernel, sign):
    """A model with large weights would get weights of infinity, or of nothing at all."""
    q, k, v, grad, starts = batch([50, 7, 33, 150], size=64, spread=8.0)
    if sign:  # every query has one direction, every key the same or its opposite
        q, k = q.abs(), sign * k.abs()
    scale = 64**-0.5
    out, sums = kernel.forward(q, k, v, starts, scale, with_sums=True)
    assert sums.isfinite().all()
    assert sums.abs().max() > 126
    grads = kernel.backward(q, k, v, out, sums, grad, starts, scale)
    for ours, theirs in zip((out, *grads), expected(q, k, v, grad, starts, scale), strict=True):
        assert close(ours, theirs)


@pytest.mark.parametrize("spread", [1e4, 1e9, 1e11, 1e16])
def test_scores_that_differ_by_more_than_floats_can_raise_two_to(kernel, spread):
    """A broken model would give NaN here and a vector there, or a sound one with large weights would."""
    q, k, v, grad, starts = batch([50, 7, 150], size=64, spread=spread)
    out, _ = kernel.forward(q, k, v, starts, 0.2, with_sums=False)
    (theirs, _), *_ = expected(q, k, v, grad, starts, 0.2)
    assert (out.float() - theirs).norm() <= 0.01 * theirs.norm()


@pytest.mark.parametrize("size", [32, 64])
def test_one_row_that_is_computed_again_or_not_a_number_leaves_the_others(kernel, size):
    """A single token would decide how all the others of its block are weighed."""
    q, k, v, grad, starts = batch([150], size=size)
    (theirs, _), *_ = expected(q, k, v, grad, starts, 0.2)
    for odd in (1e4, float("nan")):
        q[40] = q[40].sign() * odd
        out, _ = kernel.forward(q, k, v, starts, 0.2, with_sums=False)
        others = torch.arange(150) != 40
        assert (out[others].float() - theirs[others]).norm() <= 0.01 * theirs[others].norm()
    assert out[40].isnan().all()


@given(lengths, lengths)
def test_a_sequence_does_not_see_its_neighbours(kernel, before, after):
    """A document's vectors would depend on what it was batched with."""
    q, k, v, _, starts = batch([*before, 37, *after])
    together, _ = kernel.forward(q, k, v, starts, 0.2, with_sums=False)
    mine = slice(sum(before), sum(before) + 37)
    alone, _ = kernel.forward(q[mine], k[mine], v[mine], torch.tensor([0, 37]), 0.2, with_sums=False)
    assert torch.equal(together[mine], alone)


def test_a_sequence_of_thousands_of_tokens(kernel):
    """Models that read long sequences would overflow the kernel's memory."""
    q, k, v, grad, starts = batch([3_001], heads=1)
    out, sums = kernel.forward(q, k, v, starts, 0.2, with_sums=True)
    grads = kernel.backward(q, k, v, out, sums, grad, starts, 0.2)
    for ours, theirs in zip((out, *grads), expected(q, k, v, grad, starts, 0.2), strict=True):
        assert close(ours, theirs)


def test_tensors_of_any_layout(kernel):
    """A model that lays its heads out otherwise would get vectors of other tokens."""
    q, k, v, _, starts = batch([20, 33], heads=4)
    plain, _ = kernel.forward(q.contiguous(), k.contiguous(), v.contiguous(), starts, 0.2, with_sums=False)
    heads_first, _ = kernel.forward(
        *(x.transpose(0, 1).contiguous().transpose(0, 1) for x in (q, k, v)), starts, 0.2, with_sums=False
    )
    values_first, _ = kernel.forward(
        *(x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)), starts, 0.2, with_sums=False
    )
    assert torch.equal(plain, heads_first)
    assert torch.equal(plain, values_first)


def test_an_unknown_head_size_is_refused(kernel):
    """A model of such heads would get garbage."""
    q, k, v, _, starts = batch([5], size=48)
    with pytest.raises(ValueError, match="48"):
        kernel.forward(q, k, v, starts, 0.2, with_sums=False)
