"""One BERT-family model as a function from token ids to one vector a chunk.

Axes: N tokens of a batch, B chunks, D embedding. Never loads weights; `robert_pipeline.storage.encoders` does.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robert_pipeline.core.packed_model import (
    AttentionKernel,
    PackedModel,
    PaddedModel,
    TokenBatch,
    agrees,
    first_position,
    prepack_linears,
)
from robert_pipeline.errors import EncoderError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

Pooled = Literal["cls", "mean", "pooler"]

CUDA_BATCHES = 2
"""Batches under way at once on a GPU: one computes while the next is copied there and the last one's vectors back."""


def fast_precision(device: torch.device) -> Literal["float32", "bfloat16"]:
    """The faster of the two on this machine: bfloat16 on CUDA and on CPUs that multiply it in hardware.

    These have AMX tiles or AVX512-BF16; elsewhere bfloat16 is emulated and slower than float32.
    """
    if device.type == "cuda" or torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported():
        return "bfloat16"
    return "float32"


class Encoder:
    """A model in inference mode on one device. Chunks in a batch do not see one another.

    Takes the fastest way that gives this model's own vectors: packed without padding where an attention for it is at
    hand and agrees with the plain way on trial sequences, else padded. `way` says which, for people.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        *,
        pooling: Pooled,
        pad_id: int,
        device: torch.device,
        kernel: AttentionKernel | None = None,
        batch_tokens: int = 4096,
    ) -> None:
        self._model = model.to(device).eval()  # type: ignore[arg-type]  # transformers annotates `to` for its own types
        self._pooling = pooling
        self._device = device
        self.dimension = int(model.config.hidden_size)
        self._hidden, self.way = _fastest(self._model, pad_id, kernel, batch_tokens)
        self.concurrency = CUDA_BATCHES if device.type == "cuda" else torch.get_num_threads()
        """Batches worth computing at once, each in a thread that `prepare_thread` was called in."""

    def prepare_thread(self) -> None:
        """One batch a core beats one batch over all cores: no waiting for one another at every operation."""
        if self._device.type == "cpu":
            torch.set_num_threads(1)

    def __call__(self, batch: TokenBatch) -> NDArray[np.float32]:
        """Vectors (B, D), float32, of sequences with their special tokens; each has at least one token.

        Raises torch.OutOfMemoryError, MemoryError or RuntimeError where the batch does not fit in memory.
        """
        with torch.inference_mode():
            vectors_BD = self._pool(self._hidden(batch), batch)
        return vectors_BD.float().cpu().numpy()

    def _pool(self, hidden_ND: Tensor, batch: TokenBatch) -> Tensor:
        if self._pooling == "mean":
            lengths_B = torch.from_numpy(batch.lengths_B).to(self._device)
            return torch.segment_reduce(hidden_ND.float(), "mean", lengths=lengths_B, axis=0, unsafe=True)
        first_BD = hidden_ND[torch.from_numpy(batch.starts[:-1]).to(self._device)]
        if self._pooling == "cls":
            return first_BD
        pooler = getattr(self._model, "pooler", None)
        if pooler is None:
            raise EncoderError("this encoder has no pooler", fix="Use pooling 'mean' or 'cls'")
        pooled_BD: Tensor = pooler(first_BD[:, None])
        return pooled_BD


def _fastest(
    model: "PreTrainedModel", pad_id: int, kernel: AttentionKernel | None, batch_tokens: int
) -> tuple[Callable[[TokenBatch], Tensor], str]:
    """What turns a batch into hidden states, and its name."""
    padded = PaddedModel(model, pad_id=pad_id)
    device, precision = model.device.type, str(model.dtype).removeprefix("torch.")
    hidden: Callable[[TokenBatch], Tensor] = padded
    way = f"{precision}, padded"
    if precision == "bfloat16" and (device == "cuda" or kernel is not None):
        packed = PackedModel(model, kernel if device == "cpu" else None, first_position=first_position(model))
        if agrees(packed, padded):
            hidden, way = packed, f"{precision}, packed without padding"
    if device == "cpu" and prepack_linears(model, batch_tokens=batch_tokens):
        way += ", prepacked weights"
    return hidden, way
