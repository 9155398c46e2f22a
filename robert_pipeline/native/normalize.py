"""The compiled layer normalisation as a function of tensors. Axes: N tokens, D hidden."""

import ctypes
from functools import cache

import torch
from torch import Tensor

from robert_pipeline.native.build import NativeUnavailable, Source, build

SOURCE = Source(
    file="normalize.cpp",
    instructions=("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16", "-mfma"),
)


class PackedNormalize:
    """Layer normalisation of a sum; bfloat16 on the CPU, in the caller's thread."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._add_normalize = library.robert_add_normalize
        self._add_normalize.restype = None

    def __call__(self, x_ND: Tensor, y_ND: Tensor, weight_D: Tensor, bias_D: Tensor, epsilon: float) -> Tensor:
        """x + y, each row normalised, times weight, plus bias; in x's memory. Weight and bias are float32.

        Raises ValueError for what the kernel does not compute.
        """
        rows, width = x_ND.shape
        if width % 16 or not (x_ND.is_contiguous() and y_ND.is_contiguous()) or x_ND.shape != y_ND.shape:
            raise ValueError(f"no normalisation for rows of {width} values, or for rows that are not side by side")
        if not x_ND.dtype == y_ND.dtype == torch.bfloat16:
            raise ValueError(f"no normalisation of {x_ND.dtype}")
        self._add_normalize(
            *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (x_ND, y_ND, weight_D, bias_D)),
            ctypes.c_int64(rows),
            ctypes.c_int64(width),
            ctypes.c_float(epsilon),
        )
        return x_ND


@cache
def packed_normalize() -> PackedNormalize:
    """The kernel, compiled on the first call on a machine. Raises NativeUnavailable where there can be none."""
    if not torch.cpu._is_avx512_bf16_supported():
        raise NativeUnavailable("this processor has no AVX512-BF16")
    try:
        return PackedNormalize(ctypes.CDLL(str(build(SOURCE))))
    except OSError as error:
        raise NativeUnavailable(f"the compiled library cannot be loaded: {error}") from error
