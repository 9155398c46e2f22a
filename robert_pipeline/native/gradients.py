"""The compiled gradients of linear maps as a function of tensors. Axes: N tokens, I inputs, O outputs of a map."""

import ctypes
from functools import cache

import torch
from torch import Tensor

from robert_pipeline.native.build import AMX_BF16, AVX512_BF16, NativeUnavailable, Source, load

SOURCE = Source(file="gradients.cpp", instructions=(*AVX512_BF16, *AMX_BF16))
SIDE = 32
"""Inputs and outputs are multiples of it: two tiles."""


class LinearGradients:
    """Gradients of a linear map's weight and bias in one pass over its rows; bfloat16, in the caller's thread."""

    def __init__(self, library: ctypes.CDLL) -> None:
        if not library.robert_gradients_prepare():
            raise NativeUnavailable("the system does not let this process use the processor's matrix tiles")
        self._gradients = library.robert_linear_gradients

    def __call__(self, gradient_NO: Tensor, x_NI: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of weight (O, I) and bias (O,), sums in float32 rounded once.

        Raises ValueError for what the kernel does not compute, MemoryError.
        """
        rows, outputs = gradient_NO.shape
        inputs = x_NI.shape[1]
        if outputs % SIDE or inputs % SIDE or len(x_NI) != rows:
            raise ValueError(f"no gradients of a map from {inputs} to {outputs} values")
        gradient_NO, x_NI = gradient_NO.contiguous(), x_NI.contiguous()
        if not gradient_NO.dtype == x_NI.dtype == torch.bfloat16:
            raise ValueError(f"no gradients of {x_NI.dtype}")
        weight_OI = torch.empty((outputs, inputs), dtype=torch.bfloat16)
        bias_O = torch.empty(outputs, dtype=torch.bfloat16)
        done = self._gradients(
            *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (gradient_NO, x_NI, weight_OI, bias_O)),
            *(ctypes.c_int64(n) for n in (rows, outputs, inputs)),
        )
        if not done:
            raise MemoryError("scratch memory of gradients")
        return weight_OI, bias_O


@cache
def linear_gradients() -> LinearGradients:
    """The kernel, compiled on the first call on a machine. Raises NativeUnavailable where there can be none."""
    if not (torch.cpu._is_amx_tile_supported() and torch.cpu._is_avx512_bf16_supported()):
        raise NativeUnavailable("this processor has no AMX tiles")
    return LinearGradients(load(SOURCE))
