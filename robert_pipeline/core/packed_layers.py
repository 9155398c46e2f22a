"""BERT's layers in as few operations as they need, for inference on a CPU; in place of transformers' own.

Eight operations a layer: query, key and value in one product, attention, three products more, GELU, and twice a sum
with its normalisation. Whether a model's layers are BERT's is found by trying, as for packing.

Axes: N tokens of all sequences, D hidden, A heads, E values of a head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from robert_pipeline.core.packed_model import PackedModel, Packing, PrepackedLinear, tried

if TYPE_CHECKING:
    from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions


class Elementwise(Protocol):
    """What lies between a layer's products; see robert_pipeline.native."""

    def add_normalize(self, x_ND: Tensor, y_ND: Tensor, weight_D: Tensor, bias_D: Tensor, epsilon: float) -> Tensor:
        """x + y normalised, in x's memory. bfloat16; weight and bias float32."""
        ...

    def gelu(self, x: Tensor, *, in_place: bool) -> Tensor:
        """GELU of every value of a bfloat16 tensor."""
        ...


def fuse_layers(packed: PackedModel, elementwise: Elementwise, *, batch_tokens: int, only_firsts: bool = False) -> bool:
    """Exchange the layers of a packed model; False, and nothing changed, where they are not BERT's.

    With `only_firsts` the model gives the hidden states of each sequence's first token, and zeros for the others.
    """
    model: Any = packed.model
    theirs = getattr(model, "encoder", None)
    layers = list(getattr(theirs, "layer", ()))
    if not layers or packed.kernel is None or not all(map(_like_bert, layers)):
        return False
    before_ND = tried(packed)
    heads = int(model.config.num_attention_heads)
    model.encoder = BertLayers(layers, heads=heads, elementwise=elementwise, batch_tokens=batch_tokens)
    if before_ND is not None and tried(packed, like=before_ND) is not None:
        model.encoder.only_firsts = only_firsts
        return True
    model.encoder = theirs
    return False


def _like_bert(layer: nn.Module) -> bool:
    linears = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    norms = ("attention.output.LayerNorm", "output.LayerNorm")
    found = dict(layer.named_modules())
    return (
        all(type(found.get(name)) is nn.Linear for name in (*linears, "intermediate.dense", "output.dense"))
        and all(type(found.get(name)) is nn.LayerNorm for name in norms)
        and type(getattr(found["intermediate"], "intermediate_act_fn", None)).__name__ == "GELUActivation"
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Layer:
    query_key_value: Callable[[Tensor], Tensor]
    mix: Callable[[Tensor], Tensor]
    mixed_norm: Callable[[Tensor, Tensor], Tensor]
    widen: Callable[[Tensor], Tensor]
    narrow: Callable[[Tensor], Tensor]
    norm: Callable[[Tensor, Tensor], Tensor]


class BertLayers(nn.Module):
    """All layers of a BERT model, post-norm, called as transformers' encoder is."""

    def __init__(self, layers: list[nn.Module], *, heads: int, elementwise: Elementwise, batch_tokens: int) -> None:
        super().__init__()
        self.only_firsts = False
        self._heads = heads

        self._gelu = elementwise.gelu

        def product(*linears: nn.Linear) -> Callable[[Tensor], Tensor]:
            joined = nn.Linear(linears[0].in_features, sum(linear.out_features for linear in linears), device="meta")
            joined.weight = nn.Parameter(torch.cat([linear.weight.detach() for linear in linears]))
            joined.bias = nn.Parameter(torch.cat([linear.bias.detach() for linear in linears]))
            return PrepackedLinear(joined, activation="none", batch_tokens=batch_tokens).forward

        def norm(of: nn.LayerNorm) -> Callable[[Tensor, Tensor], Tensor]:
            weight_D, bias_D, epsilon = of.weight.detach().float(), of.bias.detach().float(), of.eps
            return lambda x_ND, y_ND: elementwise.add_normalize(x_ND, y_ND, weight_D, bias_D, epsilon)

        self._layers = [self._layer(dict(layer.named_modules()), product, norm) for layer in layers]

    @staticmethod
    def _layer(parts: dict[str, Any], product: Callable[..., Any], norm: Callable[..., Any]) -> _Layer:
        return _Layer(
            query_key_value=product(*(parts[f"attention.self.{name}"] for name in ("query", "key", "value"))),
            mix=product(parts["attention.output.dense"]),
            mixed_norm=norm(parts["attention.output.LayerNorm"]),
            widen=product(parts["intermediate.dense"]),
            narrow=product(parts["output.dense"]),
            norm=norm(parts["output.LayerNorm"]),
        )

    def forward(
        self, hidden_states: Tensor, *_: Any, packing: Packing, **_others: Any
    ) -> "BaseModelOutputWithPastAndCrossAttentions":
        """(1, N, D) in and out."""
        from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

        x_ND = hidden_states[0]
        for layer in self._layers[:-1]:
            x_ND = self._rest(layer, self._attend(layer, x_ND, packing), x_ND)
        last = self._layers[-1]
        attended_ND = self._attend(last, x_ND, packing)
        if self.only_firsts:
            firsts_B = packing.starts[:-1]
            out_ND = torch.zeros_like(x_ND)
            out_ND[firsts_B] = self._rest(last, attended_ND[firsts_B], x_ND[firsts_B])
        else:
            out_ND = self._rest(last, attended_ND, x_ND)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=out_ND[None])

    def _attend(self, layer: _Layer, x_ND: Tensor, packing: Packing) -> Tensor:
        joined = layer.query_key_value(x_ND)
        q_NAE, k_NAE, v_NAE = joined.view(len(joined), 3, self._heads, -1).unbind(1)
        scale = float(q_NAE.shape[2] ** -0.5)
        kernel = packing.kernel
        assert kernel is not None  # noqa: S101 - `fuse_layers` has seen it
        out_NAE, _ = kernel.forward(q_NAE, k_NAE, v_NAE, packing.starts, scale, with_sums=False)
        return out_NAE.flatten(1)

    def _rest(self, layer: _Layer, attended_ND: Tensor, x_ND: Tensor) -> Tensor:
        mixed_ND = layer.mixed_norm(layer.mix(attended_ND), x_ND)
        return layer.norm(layer.narrow(self._gelu(layer.widen(mixed_ND), in_place=True)), mixed_ND)
