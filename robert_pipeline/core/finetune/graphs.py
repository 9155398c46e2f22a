"""Loss and gradients of packed batches as CUDA graphs: a step starts hundreds of small kernels.

Axes: N tokens, B sequences, K labels.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robert_pipeline.core.cuda_graphs import Graphs, Shape, filled, filled_vectors, shape_of
from robert_pipeline.core.finetune.gradients import Batch
from robert_pipeline.core.packed_model import PackedModel
from robert_pipeline.core.pooling import Pooled
from robert_pipeline.core.token_batch import pinned

TOKENS_STEP = 1024

Number = TypeVar("Number", bound=np.generic)

GradientsOfVectors = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, list[Tensor]]]
"""Of vectors (B, D), targets and weights (B,): the loss, and its gradients."""


class GraphedGradients:
    """A batch's loss and float32 gradients on a CUDA device, until the next call; see `Graphs`."""

    def __init__(self, packed: PackedModel, pooling: Pooled, gradients: GradientsOfVectors) -> None:
        self._packed, self._pooling, self._gradients = packed, pooling, gradients
        self._gradients_made: list[Tensor] = []
        # Dropout makes every call another.
        self.graphs = Graphs(self._compute, packed.model.device, agree=lambda _plain, _made: True)

    def __call__(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """What fills a batch up weighs nothing."""
        shape = shape_of(batch.tokens, tokens_step=TOKENS_STEP)
        targets, weights_B = (_padded(values, shape.sequences) for values in (batch.targets, batch.weights))
        return self.graphs([pinned(filled(batch.tokens, shape)), targets, weights_B], shape)

    def _compute(self, inputs: Sequence[Tensor], shape: Shape) -> tuple[Tensor, list[Tensor]]:
        values, targets, weights_B = inputs
        vectors_BD = filled_vectors(self._packed, self._pooling, values, shape)
        loss, gradients = self._gradients(vectors_BD, targets, weights_B)
        if not self._gradients_made:  # by the first batch, which no graph computes: one set for all shapes
            self._gradients_made = [torch.empty_like(gradient, dtype=torch.float32) for gradient in gradients]
        torch._foreach_copy_(self._gradients_made, gradients)
        return loss, self._gradients_made


def _padded(values: NDArray[Number], length: int) -> Tensor:
    wide = np.zeros((length, *values.shape[1:]), values.dtype)
    wide[: len(values)] = values
    return pinned(wide)
