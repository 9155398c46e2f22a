"""The compiled attention kernel as functions of tensors. Axes: N tokens of all sequences, A heads, E values of a head.

bfloat16 on the CPU; sequences lie one after the other, `starts` (B + 1,) int64 says where. Runs in the caller's thread.
"""

import contextlib
import ctypes
from functools import cache

import torch
from torch import Tensor

from robert_pipeline.native.build import AMX_BF16, AVX512_BF16, NativeUnavailable, Source, load

SOURCE = Source(file="attention.cpp", instructions=AVX512_BF16)
AMX_SOURCE = Source(file="attention.cpp", instructions=(*AVX512_BF16, *AMX_BF16))
"""Three times as fast, for processors with AMX tiles and compilers that know them."""


class PackedAttention:
    """Softmax attention within each sequence."""

    def __init__(self, library: ctypes.CDLL) -> None:
        if not library.robert_attention_prepare():
            raise NativeUnavailable("the system does not let this process use the processor's matrix tiles")
        self._forward = library.robert_attention_forward
        self._backward = library.robert_attention_backward

    def forward(
        self, q_NAE: Tensor, k_NAE: Tensor, v_NAE: Tensor, starts: Tensor, scale: float, *, with_sums: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Attention output (N, A, E), and base-2 log-sum-exp of each row (A, N) float32 where asked for."""
        tokens, heads, size = q_NAE.shape
        out_NAE = torch.empty((tokens, heads, size), dtype=torch.bfloat16)
        sums_AN = torch.empty((heads, tokens), dtype=torch.float32) if with_sums else None
        q_NAE, k_NAE, v_NAE = (_rows(x) for x in (q_NAE, k_NAE, v_NAE))
        code = self._forward(
            *(_address(x) for x in (q_NAE, k_NAE, v_NAE, out_NAE, sums_AN, starts)),
            *(ctypes.c_int64(n) for n in (len(starts) - 1, heads, size)),
            _strides(q_NAE, k_NAE, v_NAE, out_NAE),
            ctypes.c_float(scale),
        )
        _check(code, size)
        return out_NAE, sums_AN

    def backward(
        self,
        q_NAE: Tensor,
        k_NAE: Tensor,
        v_NAE: Tensor,
        out_NAE: Tensor,
        sums_AN: Tensor,
        grad_NAE: Tensor,
        starts: Tensor,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of q, k and v (N, A, E), given what `forward` gave and the gradient of its output."""
        tokens, heads, size = q_NAE.shape
        q_NAE, k_NAE, v_NAE, grad_NAE = (_rows(x) for x in (q_NAE, k_NAE, v_NAE, grad_NAE))
        grads = [torch.empty((tokens, heads, size), dtype=torch.bfloat16) for _ in range(3)]
        code = self._backward(
            *(_address(x) for x in (q_NAE, k_NAE, v_NAE, out_NAE, grad_NAE, sums_AN, *grads, starts)),
            *(ctypes.c_int64(n) for n in (len(starts) - 1, heads, size)),
            _strides(q_NAE, k_NAE, v_NAE, out_NAE, grad_NAE, *grads),
            ctypes.c_float(scale),
        )
        _check(code, size)
        return grads[0], grads[1], grads[2]


@cache
def packed_attention() -> PackedAttention:
    """The kernel, compiled on the first call on a machine. Raises NativeUnavailable where there can be none."""
    if not torch.cpu._is_avx512_bf16_supported():
        raise NativeUnavailable("this processor has no AVX512-BF16")
    if torch.cpu._is_amx_tile_supported():
        with contextlib.suppress(NativeUnavailable):  # an older compiler: the other kernel needs less
            return PackedAttention(load(AMX_SOURCE))
    return PackedAttention(load(SOURCE))


def _rows(x_NAE: Tensor) -> Tensor:
    # The kernel steps over rows and heads, not within a head.
    return x_NAE if x_NAE.stride(2) == 1 and x_NAE.stride(0) % 2 == 0 else x_NAE.contiguous()


def _address(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _strides(*tensors: Tensor) -> ctypes.Array[ctypes.c_int64]:
    numbers = [stride for tensor in tensors for stride in (tensor.stride(0), tensor.stride(1))]
    return (ctypes.c_int64 * len(numbers))(*numbers)


def _check(code: int, size: int) -> None:
    if code == 1:
        raise ValueError(f"no attention kernel for heads of {size} values")
    if code:
        raise MemoryError("attention scratch memory")
