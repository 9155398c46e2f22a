"""Embed small corpora without an engine, with an encoder that counts: what a run does, step by step."""

import contextlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from corpora import SMALL_CHUNKS, plan_partition, write_file

from robert_pipeline.config import Embedding, EncoderSource, Settings, text_hash
from robert_pipeline.runs.plan import source_fingerprint
from robert_pipeline.runs.shared import find_shared_texts, remove_scratch
from robert_pipeline.stages.embedding import EmbedJob, embed_shared, embed_unit
from robert_pipeline.stages.survey import survey_unit
from robert_pipeline.storage.content_index import refresh_index
from robert_pipeline.storage.corpus import open_corpus
from robert_pipeline.storage.encoders import EncoderIdentity, LoadedEncoder
from robert_pipeline.storage.rejects import read_rejects
from robert_pipeline.storage.shards import ShardHeader, ShardWriter, chunk_rows, open_shard
from robert_pipeline.storage.store import open_store
from robert_pipeline.types import Counts, EncoderUse

DIMENSION = 8
SMALL_UNITS = Embedding(unit_bytes=400, block_bytes=200)


def sequences_of(batch):
    """The token ids of each sequence of a batch."""
    return np.split(batch.token_ids, batch.starts[1:-1])


class CountingEncoder:
    """Vectors that depend on nothing but the tokens; counts the sequences it is given."""

    dimension = DIMENSION
    concurrency = computed_at_once = 1
    pads = True
    batch_tokens = 4_000
    device = torch.device("cpu")

    def __init__(self):
        self.sequences = 0

    def __call__(self, batch):
        self.sequences += len(batch)
        vectors = [[len(ids), *np.resize(ids % 997, DIMENSION - 1)] for ids in sequences_of(batch)]
        return np.array(vectors, np.float32) / 1000

    @contextlib.contextmanager
    def counting(self, clock):
        yield EncoderUse


def counting_encoder(tokenizer, name="fake"):
    """An encoder ready to run, which costs nothing."""
    fingerprint = text_hash(name.encode())[:16]
    identity = EncoderIdentity(
        folder=Path(name), fingerprint=fingerprint, pooling="mean", precision="float32", dimension=DIMENSION
    )
    return LoadedEncoder(identity=identity, encoder=CountingEncoder(), tokenizer=tokenizer, max_chunk_tokens=500)


def settings_of(corpus, store, *, embedding=SMALL_UNITS, **others):
    """Settings for a corpus and a store."""
    return Settings(corpus=str(corpus), store=str(store), chunking=SMALL_CHUNKS, embedding=embedding, **others)


def job_of(settings, loaded, *, run_id="test", replaces=False):
    """What a run would hand to its workers."""
    return EmbedJob(
        corpus=settings.corpus,
        columns=settings.columns,
        store=settings.store,
        encoder=EncoderSource(name=str(loaded.identity.folder)),
        encoder_fingerprint=loaded.identity.fingerprint,
        chunking=settings.chunking,
        embedding=settings.embedding,
        run_id=run_id,
        source_fingerprint=source_fingerprint(settings),
        replaces=replaces,
    )


def units_of(settings):
    """The units of every partition."""
    names = open_corpus(settings.corpus, settings.columns).partitions()
    size = settings.embedding.unit_bytes
    return [unit for name in names for unit in plan_partition(settings.corpus, name, unit_bytes=size)]


def missing_units(settings, loaded):
    """Those that have no shard."""
    job = job_of(settings, loaded)
    store = open_store(settings.store)
    return [
        u for u in units_of(settings) if not store.files.exists(store.embedding_path(job.key, u.partition, u.unit_id))
    ]


def embed_missing(settings, loaded, *, run_id="test"):
    """What `robert embed` does; gives the counts of the units that were missing."""
    job = job_of(settings, loaded, run_id=run_id)
    units = missing_units(settings, loaded)
    refresh_index(open_store(settings.store), job.key)
    for unit in units:
        survey_unit(unit, job)
    shared = list(find_shared_texts(units, job))
    for texts in shared:
        embed_shared(texts, job, loaded)
    refresh_index(open_store(settings.store), job.key)
    counts = sum((embed_unit(unit, job, loaded) for unit in units), Counts())
    remove_scratch(units, shared, job)
    return counts


def stored(settings, loaded):
    """doc_id to (text hash, vectors) and to the reason of its reject, for every unit that the corpus holds now."""
    job = job_of(settings, loaded)
    store = open_store(settings.store)
    documents, rejected = {}, {}
    for unit in units_of(settings):
        for table in open_shard(store.files, store.embedding_path(job.key, unit.partition, unit.unit_id)).batches():
            firsts = table.first_rows
            names = table.rows.column("doc_id").take(pa.array(firsts)).to_pylist()
            hashes = table.rows.column("text_hash").take(pa.array(firsts)).to_pylist()
            for name, hashed, start, length in zip(names, hashes, firsts, table.lengths_B, strict=True):
                documents[unit.partition, name] = hashed, table.vectors_ND[start : start + length].tolist()
        path = store.reject_path(job.key, unit.partition, unit.unit_id)
        for row in read_rejects(store.files, path).to_pylist():
            rejected[unit.partition, row["row"], row["file"]] = row["reason"]
    return documents, rejected


def write_shard(store, *, unit_id="u" * 16, partition="p", documents=6, chunks=3, dtype="float16", seed=0, groups=2):
    """A shard of random vectors; gives its path."""
    rng = np.random.default_rng(seed)
    header = ShardHeader(
        encoder_fingerprint="e" * 16,
        chunking_fingerprint="c" * 16,
        partition=partition,
        unit_id=unit_id,
        counts=Counts(
            documents=documents, embedded=documents, chunks=documents * chunks, tokens=documents * chunks * 10
        ),
        dimension=DIMENSION,
        vector_dtype=dtype,
        run_id="test",
        embed_seconds=1.0,
    )
    files = open_store(str(store)).files
    with files.writing(header.path) as place:
        writer = ShardWriter(place, dimension=DIMENSION, vector_dtype=dtype)
        for numbers in np.array_split(np.arange(documents), groups):
            document_N = np.repeat(numbers, chunks)
            index_N = np.tile(np.arange(chunks), len(numbers))
            writer.write(
                chunk_rows(
                    writer.schema,
                    doc_ids=pa.array([f"d{number}" for number in document_N]),
                    text_hashes=pa.array([hash_of(f"{seed}-{number}") for number in document_N]),
                    index_N=index_N,
                    char_start_N=index_N * 50,
                    char_end_N=index_N * 50 + 60,
                    token_start_N=index_N * 10,
                    token_count_N=np.full(len(index_N), 12),
                    document_tokens_N=np.full(len(index_N), chunks * 10),
                    token_ids=np.resize(np.arange(1000), 10 * len(index_N)),
                    new_tokens_N=np.full(len(index_N), 10),
                    vectors_ND=rng.normal(size=(len(index_N), DIMENSION)).astype(np.float32),
                )
            )
        writer.close(header)
    return header.path


def hash_of(text):
    """A text's hash."""
    return text_hash(text.encode())


def write_partition(corpus, partition, texts, *, ids=None, row_group_rows=1_000):
    """One file of a corpus; None is a null text."""
    return write_file(
        Path(corpus) / partition / "part-0.parquet",
        doc_id=list(ids or [f"d{i}" for i in range(len(texts))]),
        text=pa.array(texts, pa.string()),
        row_group_rows=row_group_rows,
    )
