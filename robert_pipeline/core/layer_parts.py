"""What BERT's layers are made of, each part as its kind of device computes it best; for inference only.

Between two matrix products a device only reads and writes memory, so that as much as possible is done in one pass.
Axes: N tokens, D hidden.
"""

from collections.abc import Callable
from functools import cache
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from robert_pipeline.core.packed_model import PrepackedLinear

Map = Callable[[Tensor], Tensor]
Sum = Callable[[Tensor, Tensor], Tensor]


class LayerParts(Protocol):
    """Makes functions of tensors from a layer's modules."""

    way: str
    """For people: what they are, in a few words."""

    def linear(self, linear: nn.Linear) -> Map:
        """The linear map."""
        ...

    def linear_gelu(self, linear: nn.Linear) -> Map:
        """GELU of the linear map."""
        ...

    def normalized_sum(self, norm: nn.LayerNorm) -> Sum:
        """The normalised sum of two tensors (N, D); may take the first one's memory."""
        ...


class Elementwise(Protocol):
    """What lies between a layer's products on a CPU; see robert_pipeline.native."""

    def add_normalize(self, x_ND: Tensor, y_ND: Tensor, weight_D: Tensor, bias_D: Tensor, epsilon: float) -> Tensor:
        """x + y normalised, in x's memory. bfloat16; weight and bias float32."""
        ...

    def gelu(self, x: Tensor, *, in_place: bool) -> Tensor:
        """GELU of every value of a bfloat16 tensor."""
        ...


class CpuParts:
    """Weights that oneDNN has arranged once, and compiled operations between the products."""

    way = "fused layers"

    def __init__(self, elementwise: Elementwise, *, batch_tokens: int) -> None:
        self._elementwise = elementwise
        self._batch_tokens = batch_tokens

    def linear(self, linear: nn.Linear) -> Map:
        """The linear map."""
        return PrepackedLinear(linear, activation="none", batch_tokens=self._batch_tokens).forward

    def linear_gelu(self, linear: nn.Linear) -> Map:
        """GELU of the linear map."""
        product, gelu = self.linear(linear), self._elementwise.gelu
        return lambda x_ND: gelu(product(x_ND), in_place=True)

    def normalized_sum(self, norm: nn.LayerNorm) -> Sum:
        """The normalised sum of two tensors (N, D), in the first one's memory."""
        weight_D, bias_D, epsilon = norm.weight.detach().float(), norm.bias.detach().float(), norm.eps
        add_normalize = self._elementwise.add_normalize
        return lambda x_ND, y_ND: add_normalize(x_ND, y_ND, weight_D, bias_D, epsilon)


class CudaParts:
    """GELU in the product's own last pass (cuBLASLt, tanh form), and normalised sums that torch has compiled into one.

    Compiling takes Triton and a C compiler; without `is_compiled` a sum and its normalisation are two passes.
    """

    def __init__(self, *, is_compiled: bool) -> None:
        self._is_compiled = is_compiled
        self.way = "fused layers, compiled" if is_compiled else "fused layers"

    def linear(self, linear: nn.Linear) -> Map:
        """The linear map."""
        weight, bias = linear.weight.detach(), linear.bias.detach()
        return lambda x_ND: functional.linear(x_ND, weight, bias)

    def linear_gelu(self, linear: nn.Linear) -> Map:
        """GELU of the linear map."""
        weight, bias = linear.weight.detach().t(), linear.bias.detach()
        return lambda x_ND: torch._addmm_activation(bias, x_ND, weight, use_gelu=True)

    def normalized_sum(self, norm: nn.LayerNorm) -> Sum:
        """The normalised sum of two tensors (N, D)."""
        # As parameters: for these torch compiles the one width that there is, whatever the number of tokens.
        weight_D, bias_D, normalize = norm.weight, norm.bias, _normalizer(norm.eps, self._is_compiled)
        return lambda x_ND, y_ND: normalize(x_ND, y_ND, weight_D, bias_D)


@cache
def _normalizer(epsilon: float, is_compiled: bool) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """One function for all layers: it is compiled once for all numbers of tokens but 1."""

    def normalize(x_ND: Tensor, y_ND: Tensor, weight_D: Tensor, bias_D: Tensor) -> Tensor:
        return functional.layer_norm(x_ND + y_ND, weight_D.shape, weight_D, bias_D, epsilon)

    # One thread: torch would keep a compiler process for every core, and there is one function to compile.
    return torch.compile(normalize, dynamic=True, options={"compile_threads": 1}) if is_compiled else normalize
