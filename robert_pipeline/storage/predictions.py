"""Prediction shards: one Parquet file a scored embedding shard, a row a labelled document.

Chunk tables and what a head made of them enter, rows of the contract leave; no step loops over documents.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from robert_pipeline import __version__
from robert_pipeline.core.model import TrainedHead
from robert_pipeline.core.score import Scores
from robert_pipeline.errors import StoreError
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.sealed import SealedWriter, open_footer, open_sealed
from robert_pipeline.storage.shards import ChunkTable
from robert_pipeline.types import Stamp
from schemas import PREDICTIONS

_REBUILD = "Run `robert store verify`, which sets it aside, and `robert score` again"
_BROKEN = (ValueError, KeyError, pa.ArrowException, OSError)  # bytes in hand: not Parquet, not text, not the contract's


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionShard:
    """A shard whose footer was found in its contract's shape."""

    files: Files
    path: str
    row_count: int

    def batches(self, *, check_pages: bool = False) -> Iterator[pa.RecordBatch]:
        """The rows, in corpus order, in the contract's schema: those of an earlier version are upgraded.

        Raises StoreError, before the first, for any damage.
        """
        place = self.files.describe(self.path)
        try:
            with open_sealed(self.files, self.path, check_pages=check_pages) as file:
                for batch in file.iter_batches():
                    rows = pa.Table.from_batches([batch])
                    yield from PREDICTIONS.upgraded(rows, where=self.path).to_batches()
        except FileNotFoundError as error:
            raise _missing(place) from error
        except _BROKEN as error:
            raise _damaged(place, error) from error


def open_predictions(files: Files, path: str) -> PredictionShard:
    """Read a shard's footer and check it against the contract. Raises StoreError."""
    place = files.describe(path)
    try:
        file = open_footer(files, path)
        PREDICTIONS.version_of(file.schema_arrow, where=place)
        return PredictionShard(files=files, path=path, row_count=file.metadata.num_rows)
    except FileNotFoundError as error:
        raise _missing(place) from error
    except _BROKEN as error:
        raise _damaged(place, error) from error


def prediction_writer(place: Path, path: str) -> SealedWriter:
    """A writer of the predictions contract; the shard is going to be at `path`."""
    repeated = ["partition", "label", "candidate_label", "labels.list.element", "probabilities.key_value.key"]
    thresholds = [f"{kind}_thresholds.key_value.{part}" for kind in ("decision", "review") for part in ("key", "value")]
    constant = ["encoder_fingerprint", "chunking_fingerprint", "head_fingerprint", "code_version", "run_id"]
    return SealedWriter(
        place,
        PREDICTIONS.schema,
        name=path,
        compression="zstd",
        compression_level=1,
        use_dictionary=[*repeated, *thresholds, *constant, "scored_at"],
    )


def _missing(place: str) -> StoreError:
    return StoreError(f"prediction shard {place} does not exist", fix="Run `robert score`")


def _damaged(place: str, error: Exception) -> StoreError:
    problem = str(error).strip().split("\n")[0].rstrip(".")
    return StoreError(f"prediction shard {place} is damaged: {problem}", fix=_REBUILD)


def prediction_rows(table: ChunkTable, scores: Scores, head: TrainedHead, *, partition: str, stamp: Stamp) -> pa.Table:
    """Rows of the predictions contract for the documents of `table` that could be scored, in their order."""
    kept = np.flatnonzero(scores.finite_B)
    firsts = (np.cumsum(table.lengths_B) - table.lengths_B)[kept]
    lasts = firsts + table.lengths_B[kept] - 1
    passages = scores.passage_B[kept]
    columns = {name: table.rows.column(name) for name in ("char_start", "char_end")}
    token_ends = _numbers(table, "token_start", lasts) + _numbers(table, "token_count", lasts)
    count = len(kept)
    labels = pa.array(head.labels, pa.string())
    candidates = labels.take(pa.array(scores.candidate_B[kept]))
    probabilities_BK = scores.probabilities_BK[kept]
    given_BK = scores.given_BK[kept]
    decision_BK, review_BK = (
        np.tile(row_K, (count, 1)) for row_K in (head.thresholds.decision, head.thresholds.review)
    )
    by_label = _label_maps(labels, (probabilities_BK, decision_BK, review_BK))
    values = {
        "doc_id": table.rows.column("doc_id").take(pa.array(firsts)),
        "partition": pa.repeat(partition, count),
        "text_hash": table.rows.column("text_hash").take(pa.array(firsts)),
        "label": _best_given(labels, probabilities_BK, given_BK),
        "labels": _label_lists(labels, given_BK),
        "candidate_label": candidates,
        "needs_review": pa.array(scores.needs_review_B[kept]),
        "probability": pa.array(probabilities_BK[np.arange(count), scores.candidate_B[kept]]),
        "probabilities": by_label[0],
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
        "decision_thresholds": by_label[1],
        "review_thresholds": by_label[2],
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


def _label_maps(labels: pa.Array, values_BK: Sequence[np.ndarray]) -> list[pa.Array]:
    """A map from label to value for every document, once for each of several sets of values."""
    count, label_count = values_BK[0].shape
    keys = labels.take(pa.array(np.tile(np.arange(label_count), count)))
    offsets = pa.array((np.arange(count + 1) * label_count).astype(np.int32))
    return [pa.MapArray.from_arrays(offsets, keys, pa.array(values.reshape(-1))) for values in values_BK]
