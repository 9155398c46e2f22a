"""Score one embedding shard: chunk vectors in, one prediction shard out, and shards of what else there is to say.

Streams the shard a table at a time: this thread reads and writes while others score. Knows no engine.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from robert_pipeline.core.model import TrainedHead
from robert_pipeline.core.score import Scores, score
from robert_pipeline.core.threads import in_threads
from robert_pipeline.errors import ModelError
from robert_pipeline.stages.progress import Done, report
from robert_pipeline.storage.contributions import contribution_rows, contribution_writer
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.heads import load_head
from robert_pipeline.storage.predictions import prediction_rows, prediction_writer
from robert_pipeline.storage.rejects import reject_rows, write_rejects
from robert_pipeline.storage.sealed import SealedWriter
from robert_pipeline.storage.shards import ChunkTable, EmbeddingShard, open_shard
from robert_pipeline.storage.store import EmbeddingKey, Store, open_store
from robert_pipeline.types import Reject, Stamp

Clock = Callable[[], float]


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
    """Write what is missing of the shard's predictions (and contributions, if the job wants them).

    Returns what became of its documents, nothing where all was there. A document whose vectors are not finite becomes
    a reject. Raises ModelError for a shard of another encoder or chunking, StoreError for a damaged one.
    """
    store = open_store(job.store)
    place = (head.fingerprint, job.key, name.partition, name.unit_id)
    target, side = store.prediction_path(*place), store.contribution_path(*place)
    if store.files.exists(target) and (not job.contributions or store.files.exists(side)):
        return ScoreCounts()
    source = store.embedding_path(job.key, name.partition, name.unit_id)
    shard = open_shard(store.files, source)
    check_shard(head, shard)
    stamp = Stamp(run_id=job.run_id, at_us=int(clock() * 1e6))
    rejects: list[Reject] = []
    counts = ScoreCounts()
    with contextlib.ExitStack() as stack:
        # Closed in reverse: once the predictions exist the shard is done, and the rest must be there.
        predictions = stack.enter_context(_shard_file(store.files, target, prediction_writer))
        rows_of = {prediction_rows: predictions}
        if job.contributions:
            rows_of[contribution_rows] = stack.enter_context(_shard_file(store.files, side, contribution_writer))
        first_row = 0
        tables = (table for table in shard.batches() if len(table.lengths_B))
        for table, scores in in_threads(lambda table: (table, score_table(head, table)), tables):
            for rows, writer in rows_of.items():
                writer.write_table(rows(table, scores, head, partition=name.partition, stamp=stamp))
            rejects += _rejects(table, scores, source, first_row)
            first_row += table.rows.num_rows
            counts += _count(table, scores)
            report(Done(stage="scoring", documents=len(table.lengths_B)))
        _put_rejects(store, place, rejects, stamp)
    return counts


def score_table(head: TrainedHead, table: ChunkTable) -> Scores:
    """Label the documents of a table with all that the head reads of them."""
    return score(head, table.vectors_ND, table.lengths_B, None if head.fusion is None else table.tokens)


@contextlib.contextmanager
def _shard_file(files: Files, path: str, writer: Callable[[Path, str], SealedWriter]) -> Iterator[SealedWriter]:
    """A writer of a file that is in place when the block ends well."""
    with files.writing(path) as temporary, writer(temporary, path) as opened:
        yield opened


def _put_rejects(store: Store, place: tuple[str, EmbeddingKey, str, str], rejects: list[Reject], stamp: Stamp) -> None:
    path = store.unscored_path(*place)
    if rejects:
        write_rejects(store.files, path, reject_rows(rejects, partition=place[2], stamp=stamp))
    else:
        store.files.delete(path)  # of a shard that was embedded anew


def check_shard(head: TrainedHead, shard: EmbeddingShard) -> None:
    """Raise ModelError unless the shard's vectors are of the kind the head was made for."""
    head.check_shard(
        where=f"shard {shard.files.describe(shard.path)}",
        encoder_fingerprint=shard.header.encoder_fingerprint,
        chunking_fingerprint=shard.header.chunking_fingerprint,
        dimension=shard.header.dimension,
    )


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
