"""AdamW over float32 master weights of a model that computes in bfloat16.

The model's own tensors are copies that every step writes anew: rounding to bfloat16 would swallow small updates.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from robert_pipeline.config import FinetuneConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BETAS = (0.9, 0.98)
CLIP_NORM = 1.0
LEAST_RATE = 0.02
"""Share of the learning rate that is left at the end."""


class MasterWeights:
    """The trained parameters, by name: float32 masters, what AdamW remembers of them, and the model's copies."""

    def __init__(
        self, model: "PreTrainedModel", classifier: nn.Module, config: FinetuneConfig, *, with_pooler: bool
    ) -> None:
        rates = layer_rates(model, config, with_pooler=with_pooler)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in rates)
        named = {f"encoder.{name}": p for name, p in model.named_parameters() if name in rates}
        named |= {f"classifier.{name}": p for name, p in classifier.named_parameters()}
        self.names = tuple(named)
        self.working: list[Tensor] = list(named.values())
        self.masters = [tensor.detach().float().clone() for tensor in self.working]
        # Few groups: a GPU would wait for each. Biases and normalisation weights are not decayed.
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for name, master in zip(self.names, self.masters, strict=True):
            rate = rates.get(name.removeprefix("encoder."), config.classifier_learning_rate)
            groups.setdefault((rate, config.weight_decay if master.ndim > 1 else 0.0), []).append(master)
        self._base_rates = [rate for rate, _ in groups]
        self._optimizer = torch.optim.AdamW(
            [{"params": masters, "weight_decay": decay} for (_, decay), masters in groups.items()],
            betas=BETAS,
            fused=True,
        )

    def step(self, gradients: Sequence[Tensor], rate: float) -> float:
        """Apply gradients (clipped) at `rate` times the configured learning rates; return their norm.

        Nothing changes where the norm is not a number.
        """
        floats = [gradient.float() for gradient in gradients]
        norm = float(nn.utils.get_total_norm(floats))
        if norm != norm or norm == float("inf"):
            return norm
        torch._foreach_mul_(floats, min(1.0, CLIP_NORM / (norm + 1e-6)))
        for master, gradient in zip(self.masters, floats, strict=True):
            master.grad = gradient
        for group, base in zip(self._optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * rate
        self._optimizer.step()
        self.write()
        return norm

    @torch.no_grad()
    def write(self) -> None:
        """Copy the masters into the model."""
        torch._foreach_copy_(self.working, self.masters)

    def weights(self) -> dict[str, Tensor]:
        """A copy of the masters by name."""
        return {name: master.detach().clone() for name, master in zip(self.names, self.masters, strict=True)}

    @torch.no_grad()
    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Put masters back, and the model with them."""
        for name, master in zip(self.names, self.masters, strict=True):
            master.copy_(weights[name])
        self.write()

    def moments(self) -> dict[str, Tensor]:
        """What AdamW remembers, by name; empty before the first step."""
        found: dict[str, Tensor] = {}
        for name, master in zip(self.names, self.masters, strict=True):
            for kind, value in self._optimizer.state.get(master, {}).items():
                found[f"{kind}.{name}"] = value.detach().clone()
        return found

    def set_moments(self, moments: Mapping[str, Tensor]) -> None:
        """Put back what `moments` gave; nothing where there had been no step."""
        if not moments:
            return
        for name, master in zip(self.names, self.masters, strict=True):
            kinds = {"step", "exp_avg", "exp_avg_sq"}
            self._optimizer.state[master] = {
                kind: moments[f"{kind}.{name}"].to(master.device, copy=True) for kind in kinds
            }


def layer_rates(model: "PreTrainedModel", config: FinetuneConfig, *, with_pooler: bool) -> dict[str, float]:
    """Learning rate of every parameter that is trained. Layers are found by the number in their parameters' names."""
    numbers = {name: _layer(name) for name, _ in model.named_parameters()}
    layers = 1 + max((number for number in numbers.values() if number is not None), default=-1)
    rates: dict[str, float] = {}
    for name, number in numbers.items():
        if "pooler" in name and not with_pooler:
            continue
        if number is None and _is_embedding(name):
            if config.train_embeddings and config.frozen_layers == 0:
                rates[name] = config.learning_rate * config.layer_decay**layers
        elif number is None:  # what stands behind the layers: a pooler, a last norm
            rates[name] = config.learning_rate
        elif number >= config.frozen_layers:
            rates[name] = config.learning_rate * config.layer_decay ** (layers - 1 - number)
    return rates


def _layer(name: str) -> int | None:
    found = re.search(r"\blayers?\.(\d+)\.", name)
    return int(found.group(1)) if found else None


def _is_embedding(name: str) -> bool:
    return "embed" in name


def rate_at(step: int, steps: int, warmup: float) -> float:
    """Share of the learning rate at a step (from 0): a linear rise over the first `warmup`, then a linear fall."""
    rising = max(1, int(steps * warmup))
    return min(1.0, (step + 1) / rising) * max(LEAST_RATE, 1 - step / steps)
