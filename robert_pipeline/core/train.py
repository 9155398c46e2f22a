"""Train a head on chunk vectors: documents with targets in, weights out. Seeded; holds one batch of vectors at a time.

Axes: N chunks, B documents, D embedding, K logits. Reads vectors through a DocumentVectors and never asks where they
lie; the same seed on the same machine gives the same weights.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robert_pipeline.core.head import Head, HeadConfig, Output, build_head
from robert_pipeline.core.pack import borrow
from robert_pipeline.errors import ConfigError, TrainingError

Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How a head is trained. The defaults suit vectors of a frozen sentence encoder, 500 documents and more.

    `patience` is how many epochs the validation loss may fail to fall. `batch_chunks` bounds the memory of a batch.
    `class_weight='balanced'` weighs every class the same, whatever its size. `target_precision` chooses the review
    thresholds. `split` names the split: another name, another choice of held-out documents.
    """

    epochs: int = 40
    batch_documents: int = 64
    batch_chunks: int = 16384
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    patience: int = 6
    validation_fraction: float = 0.15
    class_weight: Literal["none", "balanced"] = "none"
    positive_label: str | None = None
    positive_threshold: float = 0.5
    target_precision: float | None = None
    label_separator: str = "|"
    split: str = "1"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_documents", "batch_chunks", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} is {getattr(self, name)}", fix="Give at least 1")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"training.learning_rate is {self.learning_rate}", fix="Give a positive number")
        if not 0 <= self.validation_fraction < 1:
            raise ConfigError(
                f"training.validation_fraction is {self.validation_fraction}", fix="Give at least 0, less than 1"
            )
        for name in ("positive_threshold", "target_precision"):
            if (value := getattr(self, name)) is not None and not 0 <= value <= 1:
                raise ConfigError(f"training.{name} is {value}", fix="Give a probability from 0 to 1")
        if not self.label_separator:
            raise ConfigError("training.label_separator is empty", fix="Give the text that separates labels")


class DocumentVectors(Protocol):
    """Chunk vectors of numbered documents, wherever they are."""

    @property
    def lengths_B(self) -> Integers:  # noqa: N802
        """Chunks of every document."""
        ...

    @property
    def dimension(self) -> int:
        """Values in a vector."""
        ...

    def gather(self, documents: Integers) -> NDArray[np.floating]:
        """Vectors of these documents, one after the other: (sum of their lengths, D)."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class InMemoryVectors:
    """DocumentVectors over one array: small sets, tests, benchmarks."""

    vectors_ND: NDArray[np.floating]
    lengths_B: Integers

    @property
    def dimension(self) -> int:
        """Values in a vector."""
        return int(self.vectors_ND.shape[1])

    def gather(self, documents: Integers) -> NDArray[np.floating]:
        """Vectors of these documents, one after the other."""
        ends_B = np.cumsum(self.lengths_B)
        lengths = self.lengths_B[documents]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        rows: NDArray[np.floating] = self.vectors_ND[np.repeat(ends_B[documents] - lengths, lengths) + within]
        return rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """Some documents of a DocumentVectors with their targets.

    `targets` is the class of each document (B,) int64, or for multi-label heads a mask (B, K) bool.
    """

    vectors: DocumentVectors
    documents: Integers
    targets: NDArray[np.int64] | NDArray[np.bool_]


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
    them as they are. Raises TrainingError where the loss is not a number from the start.
    """
    config = config.resolved(label_count)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        module = build_head(config, dimension=learn.vectors.dimension, label_count=label_count)
        mean_D, scale_D = input_scaling(learn, training)
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
                fix="Lower training.learning_rate, and check the vectors with `robert store verify`",
            )
        self.module.load_state_dict(best)
        return history

    def _pass(self, learn: Examples, rate: float, *, warm_up: bool) -> float:
        self.module.train()
        order = self.order.permutation(len(learn.documents))
        batches = list(_batches(learn.vectors.lengths_B[learn.documents[order]], self.training))
        total = 0.0
        for step, (first, last) in enumerate(batches):
            for group in self.optimizer.param_groups:
                group["lr"] = rate * (step + 1) / len(batches) if warm_up else rate
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
        for first, last in _batches(held_out.vectors.lengths_B[held_out.documents], self.training, factor=8):
            chosen = np.arange(first, last)
            loss = self.loss_of(self._logits(held_out, chosen), torch.from_numpy(held_out.targets[chosen]))
            total += float(loss) * len(chosen)
        return total / len(held_out.documents)


def _batches(lengths: Integers, training: TrainingConfig, *, factor: int = 1) -> Iterator[tuple[int, int]]:
    """[first, last) of batches of at most `batch_documents` documents and `batch_chunks` chunks, or one document."""
    ends = np.cumsum(lengths)
    first = 0
    while first < len(lengths):
        before = ends[first - 1] if first else 0
        fitting = int(np.searchsorted(ends, before + training.batch_chunks, side="right"))
        last = max(first + 1, min(fitting, first + factor * training.batch_documents))
        yield first, last
        first = last


def input_scaling(examples: Examples, training: TrainingConfig) -> tuple[Tensor, Tensor]:
    """Mean and 1 / standard deviation of every vector component over the documents' chunks, batch by batch."""
    count = 0
    sums_D = np.zeros(examples.vectors.dimension)
    squares_D = np.zeros(examples.vectors.dimension)
    for first, last in _batches(examples.vectors.lengths_B[examples.documents], training, factor=16):
        vectors_ND = examples.vectors.gather(examples.documents[first:last]).astype(np.float32)
        count += len(vectors_ND)
        sums_D += vectors_ND.sum(axis=0, dtype=np.float64)
        squares_D += np.square(vectors_ND).sum(axis=0, dtype=np.float64)
    mean_D = sums_D / count
    deviation_D = np.sqrt(np.maximum(squares_D / count - mean_D**2, 0))
    # A component that never changes says nothing: leave it as it is.
    floor = 1e-3 * float(deviation_D.max())
    scale_D = np.where(deviation_D > floor, 1 / np.maximum(deviation_D, 1e-30), 1.0)
    return torch.from_numpy(mean_D).float(), torch.from_numpy(scale_D).float()


def _loss(
    output: Output, targets: NDArray[np.int64] | NDArray[np.bool_], label_count: int, training: TrainingConfig
) -> Callable[[Tensor, Tensor], Tensor]:
    """Mean loss of a batch: cross-entropy, or binary cross-entropy on sigmoids; classes weighed if asked for."""
    balanced = training.class_weight == "balanced"
    if output == "multiclass":
        counts_K = np.bincount(targets, minlength=label_count)
        weight = torch.from_numpy(len(targets) / (label_count * np.maximum(counts_K, 1))).float() if balanced else None
        return nn.CrossEntropyLoss(weight=weight)
    truth_BK = np.asarray(targets).reshape(len(targets), -1).astype(bool)
    positives_K = np.maximum(truth_BK.sum(axis=0), 1)
    ratio = torch.from_numpy((len(truth_BK) - positives_K) / positives_K).float() if balanced else None
    binary = nn.BCEWithLogitsLoss(pos_weight=ratio)
    return lambda logits, wanted: binary(logits, wanted.float().reshape(logits.shape))


@torch.inference_mode()
def logits(
    module: Head, vectors: DocumentVectors, documents: Integers, *, batch_chunks: int = 16384
) -> NDArray[np.float64]:
    """Logits (B, K), float64, of these documents; a batch of vectors in memory at a time."""
    module.eval()
    lengths = vectors.lengths_B[documents]
    parts: list[NDArray[np.float64]] = []
    for first, last in _batches(lengths, TrainingConfig(batch_chunks=batch_chunks, batch_documents=2048)):
        rows = borrow(vectors.gather(documents[first:last]))
        parts.append(module(rows, torch.from_numpy(lengths[first:last])).double().numpy())
    return np.concatenate(parts) if parts else np.empty((0, module.out.out_features))


def with_targets(vectors: DocumentVectors, documents: Sequence[int] | Integers, targets: NDArray[np.int64]) -> Examples:
    """Examples of these documents, their targets looked up in an array over all documents."""
    chosen = np.asarray(documents, np.int64)
    return Examples(vectors=vectors, documents=chosen, targets=targets[chosen])
