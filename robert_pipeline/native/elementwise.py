"""The compiled operations between matrix products as functions of tensors. Axes: N tokens, D hidden, F wide hidden."""

import ctypes
from functools import cache

import torch
from torch import Tensor

from robert_pipeline.native.build import AVX512_BF16, NativeUnavailable, Source, build

SOURCE = Source(file="elementwise.cpp", instructions=AVX512_BF16)
LARGEST_WIDTH = 4096


class PackedElementwise:
    """Normalised sums and GELU; bfloat16 on the CPU, in the caller's thread, in their argument's memory."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._add_normalize = library.robert_add_normalize
        self._gelu = library.robert_gelu
        self._add_normalize.restype = self._gelu.restype = None

    def add_normalize(self, x_ND: Tensor, y_ND: Tensor, weight_D: Tensor, bias_D: Tensor, epsilon: float) -> Tensor:
        """x + y, each row normalised, times weight, plus bias; in x's memory. Weight and bias are float32.

        Raises ValueError for what the kernel does not compute.
        """
        rows, width = x_ND.shape
        if width > LARGEST_WIDTH or x_ND.shape != y_ND.shape:
            raise ValueError(f"no normalisation for rows of {width} values")
        _check(x_ND, y_ND, width=width)
        self._add_normalize(
            *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (x_ND, y_ND, weight_D, bias_D)),
            ctypes.c_int64(rows),
            ctypes.c_int64(width),
            ctypes.c_float(epsilon),
        )
        return x_ND

    def gelu(self, x_NF: Tensor) -> Tensor:
        """GELU of every value, in x's memory, within 1e-4. Raises ValueError for what the kernel does not compute."""
        _check(x_NF, width=x_NF.shape[-1])
        self._gelu(ctypes.c_void_p(x_NF.data_ptr()), ctypes.c_int64(x_NF.numel()))
        return x_NF


@cache
def packed_elementwise() -> PackedElementwise:
    """The kernels, compiled on the first call on a machine. Raises NativeUnavailable where there can be none."""
    if not torch.cpu._is_avx512_bf16_supported():
        raise NativeUnavailable("this processor has no AVX512-BF16")
    try:
        return PackedElementwise(ctypes.CDLL(str(build(SOURCE))))
    except OSError as error:
        raise NativeUnavailable(f"the compiled library cannot be loaded: {error}") from error


def _check(*tensors: Tensor, width: int) -> None:
    if width % 16 or not all(tensor.is_contiguous() and tensor.dtype == torch.bfloat16 for tensor in tensors):
        raise ValueError(f"no kernel for rows of {width} values of {tensors[0].dtype}, or rows not side by side")
