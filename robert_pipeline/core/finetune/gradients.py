"""Loss and gradients of one optimiser step, its batches spread over threads, a core each.

Threads share the model and keep their gradients apart, so nothing is locked and nothing is written twice. On a GPU
there is one thread, and batches follow one another (gradient accumulation).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robert_pipeline.core.token_batch import TokenBatch

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
    """Threads that compute on one model: as many as torch has threads on a CPU, the caller's alone on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._torch_threads = torch.get_num_threads()
        self.count = 1 if device.type == "cuda" else self._torch_threads
        self._pool = (
            None
            if device.type == "cuda"
            else ThreadPoolExecutor(
                self.count, thread_name_prefix="finetune", initializer=lambda: torch.set_num_threads(1)
            )
        )

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """As the built-in, in the threads."""
        return map(work, items) if self._pool is None else self._pool.map(work, items)

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
        torch.set_num_threads(self._torch_threads)  # threads that start later take the last number set


GradientsOf = Callable[[Batch], tuple[Tensor, list[Tensor]]]
"""Weighted sum of a batch's losses, and its gradients. They may be overwritten by the next call."""


def step_gradients(gradients_of: GradientsOf, batches: Sequence[Batch], workers: Workers) -> Gradients:
    """Gradients of the weighted mean loss over all sequences of all batches.

    Raises torch.OutOfMemoryError, MemoryError or RuntimeError where a batch does not fit in memory.
    """
    total = float(sum(batch.weights.sum() for batch in batches))
    shares = [replace(batch, weights=batch.weights / np.float32(total)) for batch in batches]
    losses, sums = list[Tensor](), list[Tensor]()
    for loss, gradients in workers.map(gradients_of, shares):
        if len(batches) == 1:
            # Only at the end: reading a value from a GPU waits for all that is queued there.
            return Gradients(loss=float(loss), of=gradients)
        losses.append(loss.clone())
        if sums:
            torch._foreach_add_(sums, [gradient.float() for gradient in gradients])
        else:
            sums = [gradient.to(torch.float32, copy=True) for gradient in gradients]
    return Gradients(loss=float(sum(losses)), of=sums)


def loss_gradients(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Of every parameter; zeros for one that the loss does not depend on."""
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [
        torch.zeros_like(p) if gradient is None else gradient for gradient, p in zip(found, parameters, strict=True)
    ]


def weighted_loss(logits_BK: Tensor, targets: Tensor, weights_B: Tensor, label_smoothing: float) -> Tensor:
    """Weighted sum over the batch of cross-entropy, or of binary cross-entropy averaged over labels (nats)."""
    if targets.ndim == 1:
        losses_B = nn.functional.cross_entropy(logits_BK, targets, reduction="none", label_smoothing=label_smoothing)
    else:
        smooth = targets.float() * (1 - label_smoothing) + 0.5 * label_smoothing
        losses_B = nn.functional.binary_cross_entropy_with_logits(logits_BK, smooth, reduction="none").mean(1)
    return (losses_B * weights_B).sum()
