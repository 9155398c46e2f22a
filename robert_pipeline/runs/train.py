"""Train a head on the embedded documents of some partitions that carry a label, and save it."""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robert_pipeline.config import Settings
from robert_pipeline.core.model import TrainedHead
from robert_pipeline.core.recipe import split_validation, train_head
from robert_pipeline.core.targets import make_targets
from robert_pipeline.core.train import Epoch
from robert_pipeline.runs.labelled import known_to_encoder, origin_of, read_training_set
from robert_pipeline.runs.plan import Plan
from robert_pipeline.storage.encoders.learned import load_learned
from robert_pipeline.storage.heads import save_head
from robert_pipeline.telemetry.instruments import TRAIN_ACCURACY, Point
from robert_pipeline.telemetry.watch import observed


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

    def points(self) -> Iterator[Point]:
        """How good the head is."""
        yield TRAIN_ACCURACY.point(self.held_out_accuracy, head=self.head.fingerprint)


@observed("train")
def train(settings: Settings, planned: Plan, *, on_epoch: Callable[[Epoch], None] = lambda _: None) -> TrainReport:
    """Train `settings.head` on the planned partitions, all of whose shards must exist; calibrate; save the head.

    It goes to `settings.model`. Documents that the encoder has learned from are not held out. Raises TrainingError,
    CorpusError or StoreError; the old head stays until then.
    """
    started = time.monotonic()
    training = settings.training
    with tempfile.TemporaryDirectory(prefix="robert-train-") as folder:
        data = read_training_set(settings, planned, Path(folder) / "vectors.arrow")
        everything = np.arange(len(data))
        targets = make_targets(data.labelled, everything, settings.head, training)
        known_B = known_to_encoder(planned, data.text_key_B)
        learned, held_out = split_validation(data.labelled, everything, targets, training, known_B=known_B)
        done = train_head(
            data.labelled,
            targets,
            learned=learned,
            held_out=held_out,
            config=settings.head,
            training=training,
            origin=origin_of(planned),
            on_epoch=on_epoch,
        )
    learned_keys = np.concatenate([data.text_key_B, load_learned(planned.encoder.folder)])
    save_head(settings.model, done.head, learned_keys=learned_keys)
    return TrainReport(
        head=done.head,
        model=settings.model,
        learned_documents=done.learned_documents,
        held_out_documents=done.held_out_documents,
        unlabelled_documents=data.unlabelled,
        not_finite_documents=data.not_finite,
        held_out_accuracy=done.held_out_accuracy,
        epochs=done.fit.epochs,
        best_epoch=done.fit.best_epoch,
        seconds=time.monotonic() - started,
    )
