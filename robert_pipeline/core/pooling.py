"""From the hidden states of packed tokens to one vector a sequence. Axes: N tokens, B sequences, D hidden."""

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from robert_pipeline.core.token_batch import first_tokens
from robert_pipeline.errors import EncoderError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Pooled = Literal["cls", "mean", "pooler"]


def pool(hidden_ND: Tensor, starts: Tensor, pooling: Pooled, model: "PreTrainedModel") -> Tensor:
    """Vectors (B, D): the first token's state, the mean over tokens (in float32), or what the model's pooler makes.

    `starts` (B + 1,): sequence b is hidden_ND[starts[b] : starts[b + 1]]; the vector of an empty one is some number.
    Raises EncoderError where a pooler is asked for and the model has none.
    """
    if pooling == "mean":
        lengths_B = starts.diff()
        return torch.segment_reduce(hidden_ND.float(), "mean", lengths=lengths_B, axis=0, unsafe=True, initial=0)
    first_BD = hidden_ND[first_tokens(starts, len(hidden_ND))]
    if pooling == "cls":
        return first_BD
    pooler = getattr(model, "pooler", None)
    if pooler is None:
        raise EncoderError("this encoder has no pooler", fix="Use pooling 'mean' or 'cls'")
    pooled_BD: Tensor = pooler(first_BD[:, None])
    return pooled_BD
