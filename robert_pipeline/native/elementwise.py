"""The compiled operations between matrix products as functions of tensors. Axes: N tokens, D hidden."""

import ctypes
from functools import cache

import torch
from torch import Tensor

from robert_pipeline.native.build import AVX512_BF16, NativeUnavailable, Source, load

SOURCE = Source(file="elementwise.cpp", instructions=AVX512_BF16)
LARGEST_WIDTH = 4096


class PackedElementwise:
    """Normalised sums, GELU and dropout; bfloat16 on the CPU, in the caller's thread.

    Each raises ValueError for what its kernel does not compute.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name in ("robert_add_normalize", "robert_gelu", "robert_gelu_gradient", "robert_dropout"):
            getattr(library, name).restype = None

    def add_normalize(self, x_ND: Tensor, y_ND: Tensor, weight_D: Tensor, bias_D: Tensor, epsilon: float) -> Tensor:
        """x + y, each row normalised, times weight, plus bias; in x's memory. Weight and bias are float32."""
        rows, width = x_ND.shape
        if width > LARGEST_WIDTH or x_ND.shape != y_ND.shape:
            raise ValueError(f"no normalisation for rows of {width} values")
        _check(x_ND, y_ND)
        self._library.robert_add_normalize(
            *map(_address, (x_ND, y_ND, weight_D, bias_D)),
            ctypes.c_int64(rows),
            ctypes.c_int64(width),
            ctypes.c_float(epsilon),
        )
        return x_ND

    def gelu(self, x: Tensor, *, in_place: bool = False) -> Tensor:
        """GELU of every value, within 1e-4."""
        _check(x)
        out = x if in_place else torch.empty_like(x)
        self._library.robert_gelu(_address(x), _address(out), ctypes.c_int64(x.numel()))
        return out

    def gelu_gradient(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of x, given that of its GELU."""
        gradient = gradient.contiguous()
        _check(x, gradient)
        out = torch.empty_like(x)
        self._library.robert_gelu_gradient(*map(_address, (x, gradient, out)), ctypes.c_int64(x.numel()))
        return out

    def dropout(self, x: Tensor, share: float, seed: int) -> Tensor:
        """x without a random `share` of its values, in steps of 1/256, the others so much larger.

        The same ones for the same seed, of 64 bits: the gradient is the dropout of the gradient.
        """
        x = x.contiguous()
        _check(x)
        threshold = min(255, round(share * 256))
        out = torch.empty_like(x)
        self._library.robert_dropout(
            _address(x),
            _address(out),
            ctypes.c_int64(x.numel()),
            ctypes.c_uint64(seed),
            ctypes.c_uint32(threshold),
            ctypes.c_float(256 / (256 - threshold)),
        )
        return out


@cache
def packed_elementwise() -> PackedElementwise:
    """The kernels, compiled on the first call on a machine. Raises NativeUnavailable where there can be none."""
    if not torch.cpu._is_avx512_bf16_supported():
        raise NativeUnavailable("this processor has no AVX512-BF16")
    return PackedElementwise(load(SOURCE))


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _check(*tensors: Tensor) -> None:
    x = tensors[0]
    fits = all(t.shape == x.shape and t.is_contiguous() and t.dtype == torch.bfloat16 for t in tensors)
    if not fits or x.shape[-1] % 16:
        raise ValueError(f"no kernel for rows of {x.shape[-1]} values of {x.dtype}, or rows not side by side")
