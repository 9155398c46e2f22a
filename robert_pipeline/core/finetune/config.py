"""How an encoder is fine-tuned."""

import math
from dataclasses import dataclass

from robert_pipeline.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig:
    """How an encoder is fine-tuned on chunks. The defaults suit encoders of MiniLM's size.

    An epoch draws up to `chunks_per_document` chunks of every document, others in every epoch; a document's chunks
    share its weight, so that each document weighs the same, whatever its length. One optimiser step sees about
    `step_tokens` tokens, gathered from batches of at most `batch_tokens`.

    `layer_decay` multiplies the learning rate once for every layer below the last one (Howard and Ruder 2018,
    discriminative fine-tuning); `frozen_layers` leaves the lowest layers as they are, `train_embeddings=False` the
    token embeddings. `patience` is how many evaluations the held-out loss may fail to fall; the best weights are kept.
    """

    epochs: float = 4.0
    learning_rate: float = 1.5e-4
    classifier_learning_rate: float = 1e-3
    layer_decay: float = 1.0
    frozen_layers: int = 0
    train_embeddings: bool = False
    weight_decay: float = 0.01
    warmup: float = 0.1
    dropout: float = 0.1
    label_smoothing: float = 0.0
    step_tokens: int = 6400
    batch_tokens: int = 3200
    chunks_per_document: int = 4
    evaluations_per_epoch: float = 1.0
    patience: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("step_tokens", "batch_tokens", "chunks_per_document", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"finetune.{name} is {getattr(self, name)}", fix="Give at least 1")
        for name in ("epochs", "learning_rate", "classifier_learning_rate", "layer_decay", "evaluations_per_epoch"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"finetune.{name} is {getattr(self, name)}", fix="Give a positive number")
        for name in ("dropout", "label_smoothing", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"finetune.{name} is {getattr(self, name)}", fix="Give at least 0 and less than 1")
        if self.frozen_layers < 0:
            raise ConfigError(f"finetune.frozen_layers is {self.frozen_layers}", fix="Give at least 0")
