"""Weights that were trained elsewhere: which head they are, told from the names and shapes of their tensors.

A state_dict enters; the head's configuration, its sizes and the module leave. Opens no file.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from robert_pipeline.config import HeadConfig, Output
from robert_pipeline.core.family import build_head
from robert_pipeline.core.head import Head
from robert_pipeline.errors import ConfigError, ModelError

_NEEDED = ("lstm.weight_ih_l0", "lstm.weight_hh_l0", "out.weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightShape:
    """What weights fit: `output` is resolved, `label_count` how many labels the logits stand for."""

    config: HeadConfig
    dimension: int
    label_count: int


def shape_of(state: Mapping[str, Tensor], *, output: Output, place: str) -> WeightShape:
    """The RoBERT head that a state_dict with `lstm.*`, `out.*` and perhaps `dense.*` is of.

    One logit is a binary head's; several are a softmax unless `output` says 'multilabel'. Raises ModelError naming
    `place` and the tensors that are missing or of the wrong shape.
    """
    missing = [name for name in _NEEDED if name not in state or state[name].ndim != 2]
    if missing:
        raise ModelError(
            f"{place} has no matrix '{missing[0]}'; it holds {', '.join(sorted(state)[:8]) or 'nothing'}",
            fix="Give the state_dict of a model with an nn.LSTM named 'lstm' and an nn.Linear named 'out'",
        )
    logits = state["out.weight"].shape[0]
    if logits == 1 and output not in ("auto", "binary", "multilabel"):
        raise ModelError(f"{place} has one logit, head.output is '{output}'", fix="Use 'binary' or 'auto'")
    if logits > 1 and output == "binary":
        raise ModelError(f"{place} has {logits} logits, head.output is 'binary'", fix="Use 'multiclass' or 'auto'")
    resolved: Output = "multilabel" if output == "multilabel" else "binary" if logits == 1 else "multiclass"
    dense = state.get("dense.weight")
    try:
        config = HeadConfig(
            output=resolved,
            hidden=state["lstm.weight_hh_l0"].shape[1],
            layers=sum(name.startswith("lstm.weight_hh_l") and "reverse" not in name for name in state),
            bidirectional="lstm.weight_hh_l0_reverse" in state,
            dense_units=None if dense is None else dense.shape[0],
        )
    except ConfigError as error:
        raise ModelError(f"{place} is no head: {error.problem}", fix="Export the weights again") from error
    return WeightShape(
        config=config,
        dimension=state["lstm.weight_ih_l0"].shape[1],
        label_count=2 if resolved == "binary" else logits,
    )


def head_from(state: Mapping[str, Tensor], shape: WeightShape, *, place: str) -> Head:
    """The module with these weights, in evaluation mode. Raises ModelError where they do not fit or are not finite."""
    with torch.random.fork_rng(devices=[]):
        module = build_head(shape.config, dimension=shape.dimension, label_count=shape.label_count)
    try:
        module.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        detail = " ".join(str(error).split("\n")[1:2]).strip().rstrip(".")
        raise ModelError(
            f"weights of {place} do not fit a head of their sizes: {detail[:200]}", fix="Export the weights again"
        ) from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in module.state_dict().values()):
        raise ModelError(f"weights of {place} hold NaN or infinity", fix="Train or export them again")
    return module.eval()
