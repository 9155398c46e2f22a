"""Score one embedding shard: chunk vectors in, one prediction shard (and a shard of what could not be scored) out.

Streams the shard a table at a time, reading the next while the head works on this one. No step loops over documents.
Knows no engine.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import pyarrow as pa

from robert_pipeline import __version__
from robert_pipeline.core.model import TrainedHead
from robert_pipeline.core.score import Scores, score
from robert_pipeline.errors import ModelError
from robert_pipeline.stages.progress import Done, report
from robert_pipeline.storage.heads import load_head
from robert_pipeline.storage.predictions import prediction_writer
from robert_pipeline.storage.rejects import reject_rows, write_rejects
from robert_pipeline.storage.shards import ChunkTable, EmbeddingShard, open_shard
from robert_pipeline.storage.store import EmbeddingKey, open_store
from robert_pipeline.types import Reject, Stamp
from schemas import PREDICTIONS

Clock = Callable[[], float]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreJob:
    """What every shard of a run has in common. Travels to the workers with the shards."""

    store: str
    model: str
    head_fingerprint: str
    key: EmbeddingKey
    run_id: str
    contributions: bool = False
    """Write every chunk's contribution to a side table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardName:
    """One embedding shard of the job's key."""

    partition: str
    unit_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreCounts:
    """What became of the documents of a shard. Addable."""

    documents: int = 0
    labelled: int = 0
    """With a prediction row, the withheld ones among them."""
    withheld: int = 0
    rejected: int = 0

    def __add__(self, other: "ScoreCounts") -> "ScoreCounts":
        return ScoreCounts(
            documents=self.documents + other.documents,
            labelled=self.labelled + other.labelled,
            withheld=self.withheld + other.withheld,
            rejected=self.rejected + other.rejected,
        )


@lru_cache(maxsize=1)
def worker_head(model: str, expected_fingerprint: str) -> TrainedHead:
    """The head of this process, loaded once. Raises ModelError where the run was planned with another."""
    head = load_head(model)
    if head.fingerprint != expected_fingerprint:
        raise ModelError(
            f"the head at {model} is {head.fingerprint}, the run was planned with {expected_fingerprint}",
            fix="Run `robert score` again; it was trained anew in the meantime",
        )
    return head


def score_shard(name: ShardName, job: ScoreJob, head: TrainedHead, *, clock: Clock = time.time) -> ScoreCounts:
    """Write the shard's predictions unless they exist; return what became of its documents (nothing where they did).

    Raises ModelError for a shard of another encoder or chunking, StoreError for a damaged one. A document whose
    vectors are not finite becomes a reject.
    """
    store = open_store(job.store)
    target = store.prediction_path(head.fingerprint, job.key, name.partition, name.unit_id)
    if store.files.exists(target):
        return ScoreCounts()
    source = store.embedding_path(job.key, name.partition, name.unit_id)
    shard = open_shard(store.files, source)
    check_shard(head, shard)
    stamp = Stamp(run_id=job.run_id, at_us=int(clock() * 1e6))
    rejects: list[Reject] = []
    counts = ScoreCounts()
    with store.files.writing(target) as temporary, prediction_writer(temporary, target) as writer:
        first_row = 0
        for table in ahead(shard.batches()):
            scores = score(head, table.vectors_ND, table.lengths_B)
            rejects += _rejects(table, scores, source, first_row)
            rows = prediction_rows(table, scores, head, partition=name.partition, stamp=stamp)
            writer.write_table(rows)
            first_row += table.rows.num_rows
            counts += _count(table, scores)
            report(Done(documents=len(table.lengths_B)))
        writer.close()
        # Before the predictions: once these exist the shard is done, and its rejects must be there.
        place = store.unscored_path(head.fingerprint, job.key, name.partition, name.unit_id)
        if rejects:
            write_rejects(store.files, place, reject_rows(rejects, partition=name.partition, stamp=stamp))
        else:
            store.files.delete(place)  # of an earlier scoring of the shard
    return counts


def check_shard(head: TrainedHead, shard: EmbeddingShard) -> None:
    """Raise ModelError unless the shard's vectors are of the kind the head was made for."""
    head.check_shard(
        where=f"shard {shard.files.describe(shard.path)}",
        encoder_fingerprint=shard.header.encoder_fingerprint,
        chunking_fingerprint=shard.header.chunking_fingerprint,
        dimension=shard.header.dimension,
    )


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next one made in a thread while the caller works on this one."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as reader:
        coming = reader.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = reader.submit(next, items, None)
            yield item


def _count(table: ChunkTable, scores: Scores) -> ScoreCounts:
    documents, labelled = len(table.lengths_B), int(scores.finite_B.sum())
    return ScoreCounts(
        documents=documents,
        labelled=labelled,
        withheld=int((scores.needs_review_B & scores.finite_B).sum()),
        rejected=documents - labelled,
    )


def _rejects(table: ChunkTable, scores: Scores, source: str, first_row: int) -> list[Reject]:
    """The documents that could not be scored; their place is the embedding shard, the corpus is not at hand."""
    starts_B = np.cumsum(table.lengths_B) - table.lengths_B
    return [
        Reject(
            doc_id=table.rows.column("doc_id")[int(starts_B[document])].as_py(),
            file=source,
            row=first_row + int(starts_B[document]),
            reason="not_finite",
            detail="a vector in the embedding shard holds NaN or infinity",
        )
        for document in np.flatnonzero(~scores.finite_B)
    ]


def prediction_rows(table: ChunkTable, scores: Scores, head: TrainedHead, *, partition: str, stamp: Stamp) -> pa.Table:
    """Rows of the predictions contract for the documents of `table` that could be scored, in their order."""
    kept = np.flatnonzero(scores.finite_B)
    firsts = (np.cumsum(table.lengths_B) - table.lengths_B)[kept]
    lasts = firsts + table.lengths_B[kept] - 1
    passages = scores.passage_N_of_B[kept]
    columns = {name: table.rows.column(name) for name in ("char_start", "char_end")}
    token_ends = _numbers(table, "token_start", lasts) + _numbers(table, "token_count", lasts)
    count = len(kept)
    labels = pa.array(head.labels, pa.string())
    candidates = labels.take(pa.array(scores.candidate_B[kept]))
    probabilities_BK = scores.probabilities_BK[kept]
    given_BK = scores.given_BK[kept]
    values = {
        "doc_id": table.rows.column("doc_id").take(pa.array(firsts)),
        "partition": pa.repeat(partition, count),
        "text_hash": table.rows.column("text_hash").take(pa.array(firsts)),
        "label": _best_given(labels, probabilities_BK, given_BK),
        "labels": _label_lists(labels, given_BK),
        "candidate_label": candidates,
        "needs_review": pa.array(scores.needs_review_B[kept]),
        "probability": pa.array(probabilities_BK[np.arange(count), scores.candidate_B[kept]]),
        "probabilities": _label_maps(labels, probabilities_BK),
        "tokens_seen": pa.array(token_ends),
        "tokens_total": table.rows.column("document_tokens").take(pa.array(firsts)),
        "chunk_count": pa.array(table.lengths_B[kept].astype(np.int32)),
        "passage_start": columns["char_start"].take(pa.array(passages)),
        "passage_end": columns["char_end"].take(pa.array(passages)),
        "passage_chunk_index": pa.array((passages - firsts).astype(np.int32)),
        "passage_contribution": pa.array(scores.contributions_N[passages]),
        "encoder_fingerprint": pa.repeat(head.origin.encoder_fingerprint, count),
        "chunking_fingerprint": pa.repeat(head.origin.chunking_fingerprint, count),
        "head_fingerprint": pa.repeat(head.fingerprint, count),
        "code_version": pa.repeat(__version__, count),
        "run_id": pa.repeat(stamp.run_id, count),
        "scored_at": pa.repeat(pa.scalar(stamp.at_us, pa.timestamp("us", tz="UTC")), count),
    }
    return pa.table(values, schema=PREDICTIONS.schema)


def _numbers(table: ChunkTable, column: str, rows: np.ndarray) -> np.ndarray:
    numbers: np.ndarray = table.rows.column(column).to_numpy()[rows].astype(np.int64)
    return numbers


def _best_given(labels: pa.Array, probabilities_BK: np.ndarray, given_BK: np.ndarray) -> pa.Array:
    """The most probable label given, null where none was."""
    best_B = np.where(given_BK, probabilities_BK, -1.0).argmax(axis=1)
    return labels.take(pa.array(best_B, mask=~given_BK.any(axis=1)))


def _label_lists(labels: pa.Array, given_BK: np.ndarray) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(given_BK.sum(axis=1))]).astype(np.int32)
    values = labels.take(pa.array(np.nonzero(given_BK)[1]))
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=PREDICTIONS.schema.field("labels").type)


def _label_maps(labels: pa.Array, probabilities_BK: np.ndarray) -> pa.Array:
    count, label_count = probabilities_BK.shape
    keys = labels.take(pa.array(np.tile(np.arange(label_count), count)))
    offsets = pa.array((np.arange(count + 1) * label_count).astype(np.int32))
    return pa.MapArray.from_arrays(offsets, keys, pa.array(probabilities_BK.reshape(-1)))
