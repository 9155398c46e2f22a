"""Write small corpora, plan them, and read back what was made of them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robert_pipeline.config import Chunking, Columns, Embedding
from robert_pipeline.core.plan import plan_units, repeated_ids
from robert_pipeline.errors import CorpusError
from robert_pipeline.stages.embedding import EmbedJob
from robert_pipeline.storage.corpus import open_corpus
from robert_pipeline.storage.encoders import identify_encoder
from robert_pipeline.storage.rejects import read_rejects
from robert_pipeline.storage.shards import open_shard
from robert_pipeline.storage.store import open_store
from robert_pipeline.types import Document

COLUMNS = Columns()
SMALL_CHUNKS = Chunking(chunk_tokens=16, overlap_tokens=4)


def write_file(path, *, row_group_rows=1_000, **columns):
    """A Parquet file of these columns, page checksums on."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: values if isinstance(values, pa.Array) else pa.array(values) for name, values in columns.items()}
    pq.write_table(pa.table(arrays), path, row_group_size=row_group_rows, write_page_checksum=True)
    return path


def write_texts(path, texts, *, row_group_rows=1_000, prefix="d"):
    """A corpus file of texts under ids d0, d1, ..."""
    ids = [f"{prefix}{index}" for index in range(len(texts))]
    return write_file(
        path, doc_id=pa.array(ids, pa.string()), text=pa.array(texts, pa.string()), row_group_rows=row_group_rows
    )


def invalid_utf8(values):
    """A string array of arbitrary bytes, as a writer that does not check leaves it."""
    offsets = [0]
    for value in values:
        offsets.append(offsets[-1] + len(value))
    buffers = [None, pa.array(offsets, pa.int32()).buffers()[1], pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def plan_partition(uri, partition="all", *, unit_bytes=8 << 20, columns=COLUMNS):
    """The work units of one partition."""
    corpus = open_corpus(str(uri), columns)
    fragments = corpus.find_large(corpus.fragments(partition), above_bytes=unit_bytes)
    repeats = repeated_ids(lambda: corpus.doc_ids(fragments))
    return plan_units(partition, fragments, unit_bytes=unit_bytes, duplicates=repeats)


def read_corpus(uri, partition="all", *, unit_bytes=8 << 20, columns=COLUMNS):
    """Every row of a partition, as documents and rejects."""
    corpus = open_corpus(str(uri), columns)
    units = plan_partition(uri, partition, unit_bytes=unit_bytes, columns=columns)
    return [row for unit in units for row in corpus.read(unit)]


def look(uri, partition=None):
    """Find the corpus and the fragments of one or all partitions, as planning does."""
    corpus = open_corpus(str(uri), COLUMNS)
    return [corpus.fragments(name) for name in ([partition] if partition else corpus.partitions())]


def complaint(uri, *, partition=None):
    """What a run over the corpus is told before anything is read."""
    with pytest.raises(CorpusError) as raised:
        look(uri, partition)
    assert raised.value.fix
    assert "\n" not in str(raised.value)
    return str(raised.value)


def outcomes(rows):
    """(doc_id, text or reason) of each row."""
    return [(row.doc_id, row.text if isinstance(row, Document) else row.reason) for row in rows]


def embed_job(corpus, store, source, *, chunking=SMALL_CHUNKS, embedding=None, run_id="test"):
    """What `robert plan` hands to the workers."""
    return EmbedJob(
        corpus=str(corpus),
        columns=COLUMNS,
        store=str(store),
        encoder=source,
        encoder_fingerprint=identify_encoder(source).fingerprint,
        chunking=chunking,
        embedding=embedding or Embedding(),
        run_id=run_id,
    )


def shard_of(job, unit):
    """The unit's embedding shard."""
    store = open_store(job.store)
    return open_shard(store.files, store.embedding_path(job.key, unit.partition, unit.unit_id))


def shard_rows(job, unit):
    """The rows of the unit's embedding shard."""
    return [row for batch in shard_of(job, unit).batches() for row in batch.rows.to_pylist()]


def reject_rows_of(job, unit):
    """The rows of the unit's reject shard."""
    store = open_store(job.store)
    return read_rejects(store.files, store.reject_path(job.key, unit.partition, unit.unit_id)).to_pylist()
