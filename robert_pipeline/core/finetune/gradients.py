"""Loss and gradients of one optimiser step, its batches spread over threads, a core each.

Threads share the model and keep their gradients apart, so nothing is locked and nothing is written twice. On a GPU
there is one thread, and batches follow one another (gradient accumulation).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robert_pipeline.core.packed_model import TokenBatch

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """Sequences with the target and the weight of each."""

    tokens: TokenBatch
    targets: NDArray[np.int64] | NDArray[np.bool_]
    """Class of each sequence (B,), or for several labels at once a mask (B, K)."""
    weights: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Gradients:
    """Of the weighted mean loss of a step."""

    loss: float
    of: list[Tensor]


class Workers:
    """Threads that compute on one model; as many as torch has threads on a CPU, one on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._torch_threads = torch.get_num_threads()
        self.count = 1 if device.type == "cuda" else self._torch_threads
        self._pool = ThreadPoolExecutor(
            self.count, thread_name_prefix="finetune", initializer=lambda: torch.set_num_threads(1)
        )

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """As the built-in, in the threads."""
        return self._pool.map(work, items)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
        torch.set_num_threads(self._torch_threads)  # threads that start later take the last number set


def step_gradients(
    vectors: Callable[[TokenBatch], Tensor],
    classifier: nn.Module,
    parameters: Sequence[Tensor],
    batches: Sequence[Batch],
    workers: Workers,
    *,
    dropout: float,
    label_smoothing: float,
) -> Gradients:
    """Gradients of the weighted mean loss over all sequences of all batches; `vectors` makes (B, D) of a batch.

    Raises torch.OutOfMemoryError, MemoryError or RuntimeError where a batch does not fit in memory.
    """
    total = float(sum(batch.weights.sum() for batch in batches))

    def run(batch: Batch) -> tuple[float, list[Tensor]]:
        features_BD = nn.functional.dropout(vectors(batch.tokens).float(), dropout)
        loss = weighted_loss(classifier(features_BD), batch, label_smoothing) / total
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        zeros = (torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True))
        return float(loss.detach()), list(zeros)

    loss, sums = 0.0, list[Tensor]()
    for part, gradients in workers.map(run, batches):
        loss += part
        if sums:
            torch._foreach_add_(sums, [gradient.float() for gradient in gradients])
        else:
            sums = [gradient.float() for gradient in gradients]
    return Gradients(loss=loss, of=sums)


def weighted_loss(logits_BK: Tensor, batch: Batch, label_smoothing: float) -> Tensor:
    """Weighted sum over the batch of cross-entropy, or of binary cross-entropy averaged over labels (nats)."""
    targets = torch.from_numpy(batch.targets).to(logits_BK.device)
    weights_B = torch.from_numpy(batch.weights).to(logits_BK.device)
    if batch.targets.ndim == 1:
        losses_B = nn.functional.cross_entropy(logits_BK, targets, reduction="none", label_smoothing=label_smoothing)
    else:
        smooth = targets.float() * (1 - label_smoothing) + 0.5 * label_smoothing
        losses_B = nn.functional.binary_cross_entropy_with_logits(logits_BK, smooth, reduction="none").mean(1)
    return (losses_B * weights_B).sum()
