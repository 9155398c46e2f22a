"""Fine-tune an encoder on chunks: tokenised documents with targets in, weights out. Opens nothing.

The paper's first stage (Pappagari et al. 2019, section 3.1): every chunk carries its document's label, and a linear
classifier stands on the pooled chunk. Seeded; the state between two steps is a value that can be kept and gone on from.

Axes: B documents, N chunks, D hidden, K labels.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robert_pipeline.config import FinetuneConfig
from robert_pipeline.core.chunk import ChunkSpans
from robert_pipeline.core.embed import out_of_memory
from robert_pipeline.core.finetune.gradients import (
    Batch,
    Gradients,
    GradientsOf,
    Workers,
    loss_gradients,
    step_gradients,
    weighted_loss,
)
from robert_pipeline.core.finetune.graphs import GraphedGradients
from robert_pipeline.core.finetune.layers import TrainingKernels, quicken
from robert_pipeline.core.finetune.optimizer import MasterWeights, rate_at
from robert_pipeline.core.finetune.pace import Pace, TimeBudget
from robert_pipeline.core.finetune.plan import Step, batches, epoch_steps, evaluation_batches
from robert_pipeline.core.framing import Frame
from robert_pipeline.core.packed_model import AttentionKernel, PackedModel, token_states
from robert_pipeline.core.pooling import Pooled, pool
from robert_pipeline.core.token_batch import TokenBatch, on_device
from robert_pipeline.errors import TrainingError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

Int64 = NDArray[np.int64]

CPU_BATCH_TOKENS = 3200
"""Whose activations a core's thread holds at a time."""
EVALUATED_CHUNKS = 32
"""Chunks of a held-out document that are looked at: the mean of so many hardly moves with more."""
SKIPPED_STEPS = 5
"""Steps in a row whose gradient is not a number, after which training has diverged."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChunkedDocuments:
    """Tokenised documents, cut into chunks, with what each should get."""

    token_ids: NDArray[np.int32]
    """Of all documents, one after the other; may be memory-mapped."""
    spans: ChunkSpans
    first_token_B: Int64
    frame: Frame
    targets: Int64 | NDArray[np.bool_]
    """Class of each document (B,), or a mask (B, K)."""

    def batch(self, chunks: Int64, weights: NDArray[np.float32]) -> Batch:
        """Chunks, as rows of `spans`, with their documents' targets."""
        document_N = self.spans.document_N[chunks]
        first_N = self.first_token_B[document_N] + self.spans.start_N[chunks]
        tokens = self.frame.batch(self.token_ids, first_N, self.spans.count_N[chunks])
        return Batch(tokens=tokens, targets=self.targets[document_N], weights=weights)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The held-out documents after so many steps. Loss in nats a document, of the mean of the chunks' logits."""

    step: int
    loss: float
    accuracy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """One step done. Tokens and seconds are of this process, since it began or went on."""

    step: int
    steps: int
    loss: float
    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Special tokens included."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(kw_only=True, slots=True, eq=False)
class TrainingState:
    """Everything that going on needs."""

    step: int = 0
    steps: int | None = None
    """How many there is time for; None where that is not known yet."""
    seconds: float = 0.0
    """Spent so far."""
    tokens: int = 0
    """Trained on so far."""
    weights: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    history: tuple[Evaluation, ...] = ()
    batch_tokens: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Finetuned:
    """The best weights, which the model now has, and how they came about."""

    weights: Mapping[str, Tensor]
    history: tuple[Evaluation, ...]
    best: Evaluation | None
    epochs: float
    """As many as were planned; there may have been time for fewer."""
    steps: int
    diverged: bool
    tokens_per_second: float
    """Of all of it, whatever process did it."""
    earlier_seconds: float
    """Spent by processes that were killed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Watchers:
    """Who is told what, and when."""

    on_step: Callable[[Progress], None] = lambda _: None
    on_evaluation: Callable[[Evaluation], None] = lambda _: None
    on_state: Callable[[TrainingState], None] = lambda _: None
    """Called every `state_seconds`, between two steps, and after each evaluation."""
    state_seconds: float = 120.0


class Finetuning:
    """One training of one model on its device. `run` may be called once."""

    def __init__(
        self,
        model: "PreTrainedModel",
        documents: ChunkedDocuments,
        config: FinetuneConfig,
        *,
        label_count: int,
        pooling: Pooled,
        pad_id: int,
        kernel: AttentionKernel | None = None,
        layers: TrainingKernels | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        torch.manual_seed(config.seed)
        self._model = model
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = config.dropout
        self._classifier = nn.Linear(int(model.config.hidden_size), label_count).to(model.device)
        nn.init.normal_(self._classifier.weight, std=0.02)
        nn.init.zeros_(self._classifier.bias)
        self._documents = documents
        self._config = config
        self._pooling = pooling
        model.eval()  # type: ignore[no-untyped-call]  # ways are tried out without dropout
        self._states, self.way = token_states(model, pad_id=pad_id, kernel=kernel)
        if layers is not None and model.device.type == "cpu" and model.dtype == torch.bfloat16:
            quicken(model, layers)
        model.train()
        self._master = MasterWeights(model, self._classifier, config, with_pooler=pooling == "pooler")
        self._workers = Workers(model.device)
        self._gradients_of: GradientsOf = self._batch_gradients
        if model.device.type == "cuda" and isinstance(self._states, PackedModel):
            self._gradients_of = GraphedGradients(self._states, pooling, self._vector_gradients)
        self._clock = clock
        self._batch_tokens = config.batch_tokens or (
            2 * config.step_tokens if model.device.type == "cuda" else CPU_BATCH_TOKENS
        )

    def run(
        self,
        learn: Int64,
        held_out: Int64,
        *,
        budget: TimeBudget | None = None,
        watchers: Watchers | None = None,
        state: TrainingState | None = None,
    ) -> Finetuned:
        """Train on documents `learn`, keep the weights that do best on `held_out` (the last ones where it is empty).

        With `budget` the learning rate falls over the steps that there is time for, else over all of them. With `state`
        it goes on from there, on the very steps that would have come. Stops early when the held-out loss no longer
        falls. When the loss is no longer a number it stops, keeps the best weights and says so; raises TrainingError
        where there are none yet.
        """
        watchers = watchers or Watchers()
        state = self._resume(state)
        if budget is None:
            state.steps = None  # one that was killed may have had less time
        schedule = _Schedule(self._documents, learn, self._config, steps=state.steps)
        started, kept_at, tokens, skipped = self._clock(), self._clock(), 0, 0
        before, before_tokens, diverged = state.seconds, state.tokens, False
        pace = None if budget is None else Pace(budget, first_step=state.step)
        try:
            # One that had stopped early, and was killed then, has no step to come.
            for number, step in () if schedule.is_stalled(state) else schedule.after(state.step):
                torch.manual_seed(_seed_of(self._config.seed, number))
                found = self._gradients(step)
                norm = self._master.step(found.of, rate_at(number, schedule.steps, self._config.warmup))
                skipped = 0 if math.isfinite(norm) and math.isfinite(found.loss) else skipped + 1
                state.step = number + 1
                tokens += schedule.tokens(step)
                seconds = self._clock() - started
                state.seconds, state.tokens = before + seconds, before_tokens + tokens
                fitting = None if pace is None else pace.steps(state.step, state.seconds, tokens)
                if fitting is not None:  # so that the learning rate has fallen when the time is up
                    state.steps = schedule.steps = min(schedule.whole, fitting)
                watchers.on_step(
                    Progress(step=state.step, steps=schedule.steps, loss=found.loss, tokens=tokens, seconds=seconds)
                )
                diverged = skipped >= SKIPPED_STEPS
                if diverged:
                    break
                if schedule.evaluates_after(state.step) and len(held_out):
                    self._evaluate(state, held_out, watchers)
                if schedule.evaluates_after(state.step) or self._clock() - kept_at >= watchers.state_seconds:
                    watchers.on_state(self._kept(state))
                    kept_at = self._clock()
                if schedule.is_stalled(state):
                    break
        finally:
            self._workers.close()
        return self._finish(state, schedule.epochs, diverged=diverged, earlier_seconds=before)

    def _resume(self, state: TrainingState | None) -> TrainingState:
        if state is None or state.step == 0:
            return TrainingState()
        self._master.set_weights(state.weights)
        self._master.set_moments(state.moments)
        self._batch_tokens = state.batch_tokens or self._batch_tokens
        return replace(state)

    def _kept(self, state: TrainingState) -> TrainingState:
        return TrainingState(
            step=state.step,
            steps=state.steps,
            seconds=state.seconds,
            tokens=state.tokens,
            weights=self._master.weights(),
            moments=self._master.moments(),
            best_weights=state.best_weights,
            history=state.history,
            batch_tokens=self._batch_tokens,
        )

    def _gradients(self, step: Step) -> Gradients:
        documents = self._documents
        while True:
            parts = batches(
                step,
                documents.spans,
                batch_tokens=self._batch_tokens,
                special_tokens=len(documents.frame),
                workers=self._workers.count,
            )
            batches_of_step = [documents.batch(part.chunks, part.weights) for part in parts]
            try:
                return step_gradients(self._gradients_of, batches_of_step, self._workers)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or len(parts) == len(step.chunks):
                    raise
                largest = max(len(batch.tokens.token_ids) for batch in batches_of_step)
                self._batch_tokens = min(self._batch_tokens, largest) // 2
                log.warning("out of memory: batches of %d tokens from here on", self._batch_tokens)

    def _batch_gradients(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        device = self._model.device
        return self._vector_gradients(
            self._vectors(batch.tokens), on_device(batch.targets, device), on_device(batch.weights, device)
        )

    def _vector_gradients(self, vectors_BD: Tensor, targets: Tensor, weights_B: Tensor) -> tuple[Tensor, list[Tensor]]:
        features_BD = nn.functional.dropout(vectors_BD.float(), self._config.dropout)
        loss = weighted_loss(self._classifier(features_BD), targets, weights_B, self._config.label_smoothing)
        return loss.detach(), loss_gradients(loss, self._master.working)

    def _vectors(self, batch: TokenBatch) -> Tensor:
        starts = on_device(batch.starts, self._model.device)
        return pool(self._states(batch), starts, self._pooling, self._model)

    def _evaluate(self, state: TrainingState, held_out: Int64, watchers: Watchers) -> None:
        logits_BK = self.logits(held_out)
        targets = self._documents.targets[held_out]
        weights_B = torch.full((len(held_out),), 1 / len(held_out))
        loss = float(weighted_loss(torch.from_numpy(logits_BK), torch.from_numpy(targets), weights_B, 0.0))
        right = logits_BK.argmax(1) == targets if targets.ndim == 1 else ((logits_BK > 0) == targets).all(1)
        evaluation = Evaluation(step=state.step, loss=loss, accuracy=float(right.mean()))
        best = _best(state.history)
        state.history = (*state.history, evaluation)
        if math.isfinite(loss) and (best is None or loss < best.loss):
            state.best_weights = self._master.weights()
        watchers.on_evaluation(evaluation)

    def logits(self, documents: Int64) -> NDArray[np.float32]:
        """The mean of the chunks' logits of each document (B, K), with the weights as they are now."""
        self._model.eval()  # type: ignore[no-untyped-call]
        sums_BK = np.zeros((len(documents), self._classifier.out_features), np.float32)
        counts_B = np.zeros(len(documents), np.float32)

        @torch.no_grad()
        def classify(chosen: tuple[Int64, Int64]) -> tuple[Int64, NDArray[np.float32]]:
            chunks, owners = chosen
            tokens = self._documents.batch(chunks, np.ones(len(chunks), np.float32)).tokens
            return owners, self._classifier(self._vectors(tokens).float()).cpu().numpy()

        parts = evaluation_batches(
            self._documents.spans,
            documents,
            batch_tokens=self._batch_tokens,
            special_tokens=len(self._documents.frame),
            most_chunks=EVALUATED_CHUNKS,
        )
        for owners, logits in self._workers.map(classify, parts):
            np.add.at(sums_BK, owners, logits)
            np.add.at(counts_B, owners, 1)
        self._model.train()
        return sums_BK / counts_B[:, None]

    def _finish(self, state: TrainingState, epochs: float, *, diverged: bool, earlier_seconds: float) -> Finetuned:
        if diverged and not state.best_weights:
            raise TrainingError(
                f"the loss is not a number after step {state.step}, before the first evaluation",
                fix="Lower finetune.learning_rate",
            )
        if state.best_weights:
            self._master.set_weights(state.best_weights)
        self._model.eval()  # type: ignore[no-untyped-call]
        return Finetuned(
            weights=self._master.weights(),
            history=state.history,
            best=_best(state.history),
            epochs=epochs,
            steps=state.step,
            diverged=diverged,
            tokens_per_second=state.tokens / max(1e-9, state.seconds),
            earlier_seconds=earlier_seconds,
        )


def _seed_of(seed: int, step: int) -> int:
    """Of a step's dropout: another for every step, the same in a training that is gone on with.

    On a CPU threads draw from it in any order.
    """
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])


def _best(history: tuple[Evaluation, ...]) -> Evaluation | None:
    finite = [evaluation for evaluation in history if math.isfinite(evaluation.loss)]
    return min(finite, key=lambda evaluation: evaluation.loss, default=None)


class _Schedule:
    """All steps of a training, epoch by epoch, made when they are needed."""

    def __init__(self, documents: ChunkedDocuments, learn: Int64, config: FinetuneConfig, *, steps: int | None) -> None:
        self._documents, self._learn, self._config = documents, learn, config
        per_epoch = len(self._epoch(0))
        lengths_B = documents.spans.lengths_B[learn]
        drawn_share = np.minimum(lengths_B, config.chunks_per_document).sum() / lengths_B.sum()
        self.epochs = config.epochs_for(len(learn), float(drawn_share))
        self.whole = max(1, round(per_epoch * self.epochs))
        self.steps = steps or self.whole
        self._between = max(1, round(per_epoch / config.evaluations_per_epoch))
        self._patience = config.patience_for(self.whole / self._between)

    def _epoch(self, number: int) -> list[Step]:
        return epoch_steps(
            self._documents.spans,
            self._learn,
            epoch=number,
            chunks_per_document=self._config.chunks_per_document,
            step_tokens=self._config.step_tokens,
            special_tokens=len(self._documents.frame),
            seed=self._config.seed,
        )

    def after(self, done: int) -> Iterator[tuple[int, Step]]:
        """(number, step) of every step from number `done` on."""
        number = epoch = 0
        while number < self.steps:
            for step in self._epoch(epoch):
                if done <= number < self.steps:
                    yield number, step
                number += 1
            epoch += 1

    def evaluates_after(self, done: int) -> bool:
        return done % self._between == 0 or done == self.steps

    def is_stalled(self, state: TrainingState) -> bool:
        """Whether the held-out loss has failed to fall for too long."""
        best = _best(state.history)
        since = sum(evaluation.step > best.step for evaluation in state.history) if best else 0
        return since >= self._patience

    def tokens(self, step: Step) -> int:
        spans = self._documents.spans
        return int(spans.count_N[step.chunks].sum()) + len(step.chunks) * len(self._documents.frame)
