"""BERT's layers in as few operations as they need, for inference; in place of transformers' own.

Seven to nine operations a layer: query, key and value in one product, attention, three products more, GELU, and twice a
sum with its normalisation. Whether a model's layers are BERT's is found by trying, as for packing.

Axes: N tokens of all sequences, D hidden, A heads, E values of a head.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from robert_pipeline.core.layer_parts import LayerParts, Map, Sum
from robert_pipeline.core.packed_model import PackedModel, Packing, attend, tried
from robert_pipeline.core.token_batch import first_tokens

if TYPE_CHECKING:
    from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

log = logging.getLogger(__name__)


def fuse_layers(packed: PackedModel, kinds: Sequence[LayerParts], *, only_firsts: bool = False) -> LayerParts | None:
    """Exchange the layers of a packed model for layers of the first kind of parts that agrees with them, and say which.

    None, and nothing changed, where the layers are not BERT's or no kind agrees. With `only_firsts` the model gives the
    hidden states of each sequence's first token, and zeros for the others.
    """
    model: Any = packed.model
    theirs = getattr(model, "encoder", None)
    layers = list(getattr(theirs, "layer", ()))
    if not kinds or not layers or not all(map(_like_bert, layers)) or (before_ND := tried(packed)) is None:
        return None
    heads = int(model.config.num_attention_heads)
    for parts in kinds:
        try:
            model.encoder = BertLayers(layers, heads=heads, parts=parts, only_firsts=only_firsts)
        except RuntimeError as error:  # no memory for them, or nothing that compiles
            log.info("no %s: %s", parts.way, error)
            continue
        if tried(packed, like=before_ND, only_firsts=only_firsts) is not None:
            return parts
        model.encoder = theirs
    return None


def _like_bert(layer: nn.Module) -> bool:
    linears = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    norms = ("attention.output.LayerNorm", "output.LayerNorm")
    found = dict(layer.named_modules())
    return (
        all(_is_linear_with_bias(found.get(name)) for name in (*linears, "intermediate.dense", "output.dense"))
        and all(type(found.get(name)) is nn.LayerNorm for name in norms)
        and type(getattr(found["intermediate"], "intermediate_act_fn", None)).__name__ == "GELUActivation"
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Layer:
    query_key_value: Map
    mix: Map
    mixed_norm: Sum
    widen: Map
    """With its GELU."""
    narrow: Map
    norm: Sum


class BertLayers(nn.Module):
    """All layers of a BERT model, post-norm, called as transformers' encoder is."""

    def __init__(self, layers: list[nn.Module], *, heads: int, parts: LayerParts, only_firsts: bool) -> None:
        super().__init__()
        self._only_firsts = only_firsts
        self._heads = heads
        self._layers = [self._layer(dict(layer.named_modules()), parts) for layer in layers]

    @staticmethod
    def _layer(of: dict[str, Any], parts: LayerParts) -> _Layer:
        return _Layer(
            query_key_value=parts.linear(_joined([of[f"attention.self.{name}"] for name in ("query", "key", "value")])),
            mix=parts.linear(of["attention.output.dense"]),
            mixed_norm=parts.normalized_sum(of["attention.output.LayerNorm"]),
            widen=parts.linear_gelu(of["intermediate.dense"]),
            narrow=parts.linear(of["output.dense"]),
            norm=parts.normalized_sum(of["output.LayerNorm"]),
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
        if self._only_firsts:
            firsts_B = first_tokens(packing.starts, len(x_ND))
            out_ND = torch.zeros_like(x_ND)
            out_ND[firsts_B] = self._rest(last, attended_ND[firsts_B], x_ND[firsts_B])
        else:
            out_ND = self._rest(last, attended_ND, x_ND)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=out_ND[None])

    def _attend(self, layer: _Layer, x_ND: Tensor, packing: Packing) -> Tensor:
        joined = layer.query_key_value(x_ND)
        q_NAE, k_NAE, v_NAE = joined.view(len(joined), 3, self._heads, -1).unbind(1)
        return attend(q_NAE, k_NAE, v_NAE, packing, scale=float(q_NAE.shape[2] ** -0.5)).flatten(1)

    def _rest(self, layer: _Layer, attended_ND: Tensor, x_ND: Tensor) -> Tensor:
        mixed_ND = layer.mixed_norm(layer.mix(attended_ND), x_ND)
        return layer.norm(layer.narrow(layer.widen(mixed_ND)), mixed_ND)


def _is_linear_with_bias(module: nn.Module | None) -> bool:
    return type(module) is nn.Linear and module.bias is not None


def _joined(linears: list[nn.Linear]) -> nn.Linear:
    """One linear map with the outputs of several, side by side."""
    joined = nn.Linear(linears[0].in_features, sum(linear.out_features for linear in linears), device="meta")
    joined.weight = nn.Parameter(torch.cat([linear.weight.detach() for linear in linears]))
    joined.bias = nn.Parameter(torch.cat([linear.bias.detach() for linear in linears]))
    return joined
