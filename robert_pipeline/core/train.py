"""Train a head on chunk vectors: documents with targets in, weights out. Seeded; holds one batch of vectors at a time.

Axes: N chunks, B documents, D embedding, K logits. Reads vectors through a DocumentVectors and never asks where they
lie; the same seed gives the same weights on the same kind of processor, however many cores it has.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robert_pipeline.config import HeadConfig, Output, TrainingConfig
from robert_pipeline.core.examples import Examples, Integers, TargetValues, batches, input_scaling
from robert_pipeline.core.family import build_head
from robert_pipeline.core.head import Head
from robert_pipeline.core.pack import borrow
from robert_pipeline.core.threads import one_thread
from robert_pipeline.errors import TrainingError


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """One pass over the training documents. Losses are mean nats a document; NaN without held-out documents."""

    number: int
    training_loss: float
    validation_loss: float
    learning_rate: float
    documents: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """A head with its best weights, in evaluation mode, and how it got there."""

    module: Head
    epochs: tuple[Epoch, ...]
    best_epoch: int


def fit(
    config: HeadConfig,
    training: TrainingConfig,
    learn: Examples,
    held_out: Examples,
    *,
    label_count: int,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> Fit:
    """Train on `learn`, stop when the loss on `held_out` no longer falls, keep the weights of its best epoch.

    AdamW; the learning rate rises over the first epoch and halves whenever the held-out loss stalls for two epochs.
    Vectors are standardised while training; the scaling is then folded into the first layer, so that the head reads
    them as they are. Computes in one thread, which is enough for steps this small. Raises TrainingError where the loss
    is not a number from the start.
    """
    config = config.resolved(label_count)
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(training.seed)
        module = build_head(config, dimension=learn.vectors.dimension, label_count=label_count)
        mean_D, scale_D = input_scaling(learn, max_chunks=training.batch_chunks)
        loss_of = _loss(config.output, learn.targets, label_count, training)
        run = _Run(module, training, loss_of, mean_D, scale_D)
        epochs = run.train(learn, held_out, on_epoch)
    module.fold_scaling(mean_D, scale_D)
    module.eval()
    return Fit(module=module, epochs=tuple(epochs), best_epoch=run.best_epoch)


class _Run:
    """The state of one training: optimiser, best weights so far."""

    def __init__(
        self,
        module: Head,
        training: TrainingConfig,
        loss_of: Callable[[Tensor, Tensor], Tensor],
        mean_D: Tensor,
        scale_D: Tensor,
    ) -> None:
        self.module = module
        self.training = training
        self.loss_of = loss_of
        self.mean_D, self.scale_D = mean_D, scale_D
        self.optimizer = torch.optim.AdamW(
            module.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
        )
        self.order = np.random.default_rng(training.seed)
        self.best_epoch = 0
        self.best_loss = math.inf

    def train(self, learn: Examples, held_out: Examples, on_epoch: Callable[[Epoch], None]) -> list[Epoch]:
        best = copy.deepcopy(self.module.state_dict())
        history: list[Epoch] = []
        rate = self.training.learning_rate
        stalled = 0
        for number in range(1, self.training.epochs + 1):
            training_loss = self._pass(learn, rate, warm_up=number == 1)
            validation_loss = self._held_out_loss(held_out) if len(held_out.documents) else math.nan
            epoch = Epoch(
                number=number,
                training_loss=training_loss,
                validation_loss=validation_loss,
                learning_rate=rate,
                documents=len(learn.documents),
            )
            history.append(epoch)
            on_epoch(epoch)
            judged = validation_loss if len(held_out.documents) else training_loss
            if not math.isfinite(training_loss) or not math.isfinite(judged):
                break
            if judged < self.best_loss:
                self.best_loss, self.best_epoch, stalled = judged, number, 0
                best = copy.deepcopy(self.module.state_dict())
                continue
            stalled += 1
            if stalled >= self.training.patience:
                break
            if stalled % 2 == 0:
                rate /= 2
        if self.best_epoch == 0:
            raise TrainingError(
                f"the loss is {history[-1].training_loss} after the first epoch",
                fix="Lower training.learning_rate, and see that no vector holds NaN or infinity",
            )
        self.module.load_state_dict(best)
        return history

    def _pass(self, learn: Examples, rate: float, *, warm_up: bool) -> float:
        self.module.train()
        order = self.order.permutation(len(learn.documents))
        limits = {"max_documents": self.training.batch_documents, "max_chunks": self.training.batch_chunks}
        spans = list(batches(learn.lengths_B[order], **limits))
        total = 0.0
        for step, (first, last) in enumerate(spans):
            for group in self.optimizer.param_groups:
                group["lr"] = rate * (step + 1) / len(spans) if warm_up else rate
            chosen = order[first:last]
            loss = self.loss_of(self._logits(learn, chosen), torch.from_numpy(learn.targets[chosen]))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
            self.optimizer.step()
            total += float(loss.detach()) * len(chosen)
        return total / max(1, len(order))

    def _logits(self, examples: Examples, chosen: Integers) -> Tensor:
        documents = examples.documents[chosen]
        vectors_ND = borrow(examples.vectors.gather(documents)).float()
        logits_BK: Tensor = self.module(
            (vectors_ND - self.mean_D) * self.scale_D, torch.from_numpy(examples.vectors.lengths_B[documents])
        )
        return logits_BK

    @torch.inference_mode()
    def _held_out_loss(self, held_out: Examples) -> float:
        self.module.eval()
        total = 0.0
        limits = {"max_documents": 8 * self.training.batch_documents, "max_chunks": self.training.batch_chunks}
        for first, last in batches(held_out.lengths_B, **limits):
            chosen = np.arange(first, last)
            loss = self.loss_of(self._logits(held_out, chosen), torch.from_numpy(held_out.targets[chosen]))
            total += float(loss) * len(chosen)
        return total / len(held_out.documents)


def loss_weights(
    output: Output, targets: TargetValues, label_count: int, training: TrainingConfig
) -> NDArray[np.float64] | None:
    """Weight of every class (multi-class), or of the documents with a label against those without (one a logit)."""
    if training.class_weight == "none":
        return None
    if output == "multiclass":
        return len(targets) / (label_count * np.maximum(np.bincount(targets, minlength=label_count), 1))
    truth_BK = np.asarray(targets).reshape(len(targets), -1).astype(bool)
    positives_K = np.maximum(truth_BK.sum(axis=0), 1)
    ratio_K: NDArray[np.float64] = np.maximum(len(truth_BK) - positives_K, 1) / positives_K
    return ratio_K


def _loss(
    output: Output, targets: TargetValues, label_count: int, training: TrainingConfig
) -> Callable[[Tensor, Tensor], Tensor]:
    """Mean loss of a batch: cross-entropy, or binary cross-entropy on sigmoids; classes weighed if asked for."""
    weights_K = loss_weights(output, targets, label_count, training)
    weights = None if weights_K is None else torch.from_numpy(weights_K).float()
    if output == "multiclass":
        return nn.CrossEntropyLoss(weight=weights)
    binary = nn.BCEWithLogitsLoss(pos_weight=weights)
    return lambda logits, wanted: binary(logits, wanted.float().reshape(logits.shape))
