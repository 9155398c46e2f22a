"""The labelled, embedded documents of planned partitions: what training, calibration and evaluation start from."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robert_pipeline.config import Settings
from robert_pipeline.core.examples import logits
from robert_pipeline.core.model import TrainedHead
from robert_pipeline.core.origin import VectorOrigin
from robert_pipeline.core.split import Booleans, Integers, text_keys
from robert_pipeline.runs.plan import Plan
from robert_pipeline.storage.corpus import open_corpus
from robert_pipeline.storage.encoders.learned import load_learned
from robert_pipeline.storage.shards import EmbeddingShard, open_shard
from robert_pipeline.storage.store import open_store
from robert_pipeline.storage.training_set import TrainingSet, build_training_set
from robert_pipeline.types import Document

WORDS_AT_ONCE = 2048
"""Documents whose words are read at once."""


def read_training_set(settings: Settings, planned: Plan, path: Path) -> TrainingSet:
    """The labelled documents of the planned partitions, vectors in an Arrow file at `path`.

    Raises StoreError for a missing or damaged shard, TrainingError where no document has a label.
    """
    return build_training_set(planned_shards(planned), open_corpus(settings.corpus, settings.columns).labels, path)


def planned_shards(planned: Plan) -> Iterator[EmbeddingShard]:
    """The shards of a plan, partition by partition, in corpus order. Raises StoreError for one that is missing."""
    planned.require_embedded()
    store = open_store(planned.job.store)
    for partition in planned.partitions:
        for unit in partition.units:
            yield open_shard(store.files, store.embedding_path(planned.job.key, partition.partition, unit.unit_id))


def known_to_encoder(planned: Plan, text_key_B: Integers) -> Booleans:
    """Which texts the plan's encoder has learned from (B,). Raises EncoderError."""
    known_B: Booleans = np.isin(text_key_B, load_learned(planned.encoder.folder))
    return known_B


def origin_of(planned: Plan) -> VectorOrigin:
    """What made the plan's vectors."""
    job = planned.job
    return VectorOrigin(encoder=job.encoder, encoder_fingerprint=job.encoder_fingerprint, chunking=job.chunking)


def head_logits(head: TrainedHead, data: TrainingSet, documents: Integers) -> NDArray[np.float64]:
    """Logits (B, K) of all that the head reads of these documents."""
    logits_BK = logits(head.module, data, documents)
    if head.fusion is None:
        return logits_BK
    for first in range(0, len(documents), WORDS_AT_ONCE):
        some = slice(first, first + WORDS_AT_ONCE)
        logits_BK[some] = head.fusion.logits(logits_BK[some], data.tokens(documents[some]))
    return logits_BK


def read_texts(settings: Settings, planned: Plan, text_key_B: Integers) -> list[str]:
    """The text of every key, in order, from the corpus; holds each distinct text once."""
    wanted = set(text_key_B.tolist())
    found: dict[int, str] = {}
    corpus = open_corpus(settings.corpus, settings.columns)
    for partition in planned.partitions:
        for unit in partition.units:
            for row in corpus.read(unit):
                if isinstance(row, Document) and (key := int(text_keys([row.text_hash])[0])) in wanted:
                    found.setdefault(key, row.text)
    return [found[key] for key in text_key_B.tolist()]
