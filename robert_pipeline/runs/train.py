"""Train a head on the embedded documents of some partitions that carry a label, and save it."""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from robert_pipeline.config import Settings
from robert_pipeline.core.head import HeadConfig
from robert_pipeline.core.model import TrainedHead, VectorOrigin
from robert_pipeline.core.recipe import LabelledVectors, Recipe, train_head
from robert_pipeline.core.train import Epoch, TrainingConfig
from robert_pipeline.runs.plan import Plan
from robert_pipeline.storage.corpus import open_corpus
from robert_pipeline.storage.heads import save_head
from robert_pipeline.storage.shards import EmbeddingShard, open_shard
from robert_pipeline.storage.store import open_store
from robert_pipeline.storage.training_set import TrainingSet, build_training_set


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRequest:
    """What to train. `settings.model` is where the head goes."""

    settings: Settings
    planned: Plan
    """The partitions to learn from; all their shards must exist."""
    head: HeadConfig = field(default_factory=HeadConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainReport:
    """What was learned from, and what came of it."""

    head: TrainedHead
    model: str
    learned_documents: int
    held_out_documents: int
    unlabelled_documents: int
    not_finite_documents: int
    held_out_accuracy: float
    epochs: tuple[Epoch, ...]
    best_epoch: int
    seconds: float


def train(request: TrainRequest, *, on_epoch: Callable[[Epoch], None] = lambda _: None) -> TrainReport:
    """Train, calibrate and save. Raises TrainingError, CorpusError or StoreError; the old head stays until then."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="robert-train-") as folder:
        data = read_training_set(request.settings, request.planned, Path(folder) / "vectors.arrow")
        done = train_on(data, request.settings, request.planned, request.head, request.training, on_epoch=on_epoch)
    save_head(request.settings.model, done.head)
    return TrainReport(
        head=done.head,
        model=request.settings.model,
        learned_documents=done.learned_documents,
        held_out_documents=done.held_out_documents,
        unlabelled_documents=data.unlabelled,
        not_finite_documents=data.not_finite,
        held_out_accuracy=done.held_out_accuracy,
        epochs=done.fit.epochs,
        best_epoch=done.fit.best_epoch,
        seconds=time.monotonic() - started,
    )


def train_on(
    data: TrainingSet,
    settings: Settings,
    planned: Plan,
    head: HeadConfig,
    training: TrainingConfig,
    *,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> Recipe:
    """Train on all documents of a training set."""
    import numpy as np

    origin = VectorOrigin(
        encoder=settings.encoder,
        encoder_fingerprint=planned.job.encoder_fingerprint,
        chunking=settings.chunking,
    )
    labelled = LabelledVectors(
        vectors=data,
        label_names=data.label_names,
        label_B=data.label_B,
        fraction_B=data.fractions(training.split),
    )
    return train_head(labelled, np.arange(len(data)), config=head, training=training, origin=origin, on_epoch=on_epoch)


def read_training_set(settings: Settings, planned: Plan, path: Path) -> TrainingSet:
    """The labelled documents of the planned partitions, vectors in an Arrow file at `path`."""
    return build_training_set(planned_shards(planned), open_corpus(settings.corpus, settings.columns).labels, path)


def planned_shards(planned: Plan) -> Iterator[EmbeddingShard]:
    """The shards of a plan, partition by partition, in corpus order. Raises StoreError for one that is missing."""
    planned.require_embedded()
    store = open_store(planned.job.store)
    for partition in planned.partitions:
        for unit in partition.units:
            yield open_shard(store.files, store.embedding_path(planned.job.key, partition.partition, unit.unit_id))
