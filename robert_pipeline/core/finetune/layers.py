"""Faster parts for a model that is trained on a CPU in bfloat16, in place of torch's: linear maps, GELU, dropout.

Parameters stay the model's own, under their names. Axes: N tokens, I inputs, O outputs of a map.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

SEED_BITS = 62


class LinearGradients(Protocol):
    """Gradients of a linear map; see robert_pipeline.native."""

    def __call__(self, gradient_NO: Tensor, x_NI: Tensor) -> tuple[Tensor, Tensor]:
        """Of weight (O, I) and bias (O,)."""
        ...


class Elementwise(Protocol):
    """GELU and dropout with their gradients; see robert_pipeline.native."""

    def gelu(self, x: Tensor) -> Tensor:
        """GELU of every value."""
        ...

    def gelu_gradient(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of x, given that of its GELU."""
        ...

    def dropout(self, x: Tensor, share: float, seed: int) -> Tensor:
        """The same values are dropped for the same seed."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingKernels:
    """Compiled code for training; None where there is none on this machine."""

    linear_gradients: LinearGradients | None = None
    elementwise: Elementwise | None = None


def quicken(model: nn.Module, kernels: TrainingKernels) -> None:
    """Exchange what the kernels compute: linear maps of bfloat16, GELU, dropout. Others stay."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if kernels.linear_gradients is not None and isinstance(child, nn.Linear) and _fits(child):
                setattr(parent, name, _Linear(child, kernels.linear_gradients))
            elif kernels.elementwise is not None and type(child) is nn.Dropout:
                setattr(parent, name, _Dropout(child.p, kernels.elementwise))
            elif kernels.elementwise is not None and type(child).__name__ == "GELUActivation":
                setattr(parent, name, _Gelu(kernels.elementwise))


def _fits(module: nn.Linear) -> bool:
    return (
        type(module) is nn.Linear
        and module.bias is not None
        and module.weight.dtype == torch.bfloat16
        and module.in_features % 32 == module.out_features % 32 == 0
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _computable(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.shape[-1] % 16 == 0 and x.is_contiguous()


class _Linear(nn.Linear):
    def __init__(self, like: nn.Linear, gradients: LinearGradients) -> None:
        super().__init__(like.in_features, like.out_features, device="meta")
        self.weight, self.bias = like.weight, like.bias
        self._gradients = gradients

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        out: Tensor = _linear(input, self.weight, self.bias, self._gradients)
        return out


class _LinearFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor, gradients: LinearGradients) -> Tensor:
        ctx.save_for_backward(x, weight_OI)
        ctx.gradients = gradients
        # With the bias in the same pass, which torch's own linear map writes to memory first.
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight_OI, bias_O, "none", [], "")
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight_OI = ctx.saved_tensors
        gradient_NO = grads[0].flatten(0, -2)
        weight_gradient = bias_gradient = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            weight_gradient, bias_gradient = ctx.gradients(gradient_NO, x.flatten(0, -2))
        x_gradient = (gradient_NO @ weight_OI).view(x.shape) if ctx.needs_input_grad[0] else None
        return x_gradient, weight_gradient, bias_gradient, None


class _Dropout(nn.Module):
    def __init__(self, share: float, kernels: Elementwise) -> None:
        super().__init__()
        self.p = share
        self._kernels = kernels

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        if not _computable(x):
            return nn.functional.dropout(x, self.p)
        seed = int(torch.randint(1 << SEED_BITS, ()))
        out: Tensor = _dropout(x, self.p, seed, self._kernels)
        return out


class _DropoutFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float, seed: int, kernels: Elementwise) -> Tensor:
        ctx.share, ctx.seed, ctx.kernels = share, seed, kernels
        return kernels.dropout(x, share, seed)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        # The same values again, so that no mask is kept.
        return ctx.kernels.dropout(grads[0], ctx.share, ctx.seed), None, None, None


class _Gelu(nn.Module):
    def __init__(self, kernels: Elementwise) -> None:
        super().__init__()
        self._kernels = kernels

    def forward(self, x: Tensor) -> Tensor:
        if not _computable(x):
            return nn.functional.gelu(x)
        out: Tensor = _gelu(x, self._kernels)
        return out


class _GeluFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernels: Elementwise) -> Tensor:
        ctx.save_for_backward(x)
        ctx.kernels = kernels
        return kernels.gelu(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        return ctx.kernels.gelu_gradient(x, grads[0]), None


_linear: Callable[..., Tensor] = _LinearFunction.apply
_dropout: Callable[..., Tensor] = _DropoutFunction.apply
_gelu: Callable[..., Tensor] = _GeluFunction.apply
