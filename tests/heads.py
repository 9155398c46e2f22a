"""Make documents of chunk vectors, heads and shards of them, without an encoder."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from hypothesis import strategies as st

from robert_pipeline.config import Chunking, EncoderSource, HeadConfig
from robert_pipeline.core.family import build_head
from robert_pipeline.core.model import TrainedHead, default_thresholds, no_calibration, weights_sha256
from robert_pipeline.core.origin import VectorOrigin
from robert_pipeline.storage.shards import ShardHeader, ShardWriter, chunk_rows, open_shard
from robert_pipeline.storage.store import EmbeddingKey, open_store
from robert_pipeline.types import Counts

DIMENSION = 6
ORIGIN = VectorOrigin(encoder=EncoderSource(name="enc"), encoder_fingerprint="e" * 16, chunking=Chunking())
KEY = EmbeddingKey(
    encoder_fingerprint=ORIGIN.encoder_fingerprint,
    chunking_fingerprint=ORIGIN.chunking_fingerprint,
    vector_dtype="float32",
)

lengths = st.lists(st.integers(1, 9), min_size=1, max_size=12)

SHAPES = {
    "robert": {},
    "dense": {"dense_units": 5},
    "two layers": {"layers": 2},
    "bidirectional": {"bidirectional": True},
    "two layers, bidirectional, dense": {"layers": 2, "bidirectional": True, "dense_units": 5},
    "mean": {"kind": "mean"},
    "mean, dense": {"kind": "mean", "dense_units": 5},
    "first chunk": {"kind": "first-chunk"},
    "tobert": {"kind": "tobert", "layers": 2},
}


def documents(lengths, *, seed=0, dimension=DIMENSION):
    """Random vectors of documents of these lengths, one tensor each."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, dimension, generator=generator) for length in lengths]


def module(seed=0, *, labels=3, dimension=DIMENSION, **config):
    """A head with random weights, in evaluation mode."""
    torch.manual_seed(seed)
    return build_head(
        HeadConfig(**{"hidden": 8, "output": "multiclass", **config}), dimension=dimension, label_count=labels
    ).eval()


def flat(texts):
    """Documents the way heads read them: all vectors, and lengths."""
    return torch.cat(texts), torch.tensor([len(each) for each in texts])


def trained(
    names=("a", "b", "c"), *, seed=0, calibration=None, thresholds=None, origin=ORIGIN, dimension=DIMENSION, **config
):
    """A head that could be scored with, its weights random."""
    resolved = HeadConfig(**{"hidden": 8, **config}).resolved(len(names))
    made = module(seed, labels=len(names), dimension=dimension, **{**resolved.values()})
    return TrainedHead(
        module=made,
        config=resolved,
        labels=tuple(names),
        dimension=dimension,
        origin=origin,
        calibration=calibration or no_calibration(made.out.out_features),
        thresholds=thresholds or default_thresholds(len(names)),
        weights_sha256=weights_sha256(made),
    )


def write_shard(
    store, unit_id, texts, *, partition="day=1", key=KEY, doc_ids=None, row_group_documents=3, dimension=None
):
    """An embedding shard of documents given as arrays of vectors; gives its path."""
    store = open_store(str(store))
    path = store.embedding_path(key, partition, unit_id)
    doc_ids = doc_ids or [f"{unit_id}-{number}" for number in range(len(texts))]
    dimension = dimension or texts[0].shape[1]
    with store.files.writing(path) as place:
        writer = ShardWriter(place, dimension=dimension, vector_dtype=key.vector_dtype)
        for first in range(0, len(texts), row_group_documents):
            group = slice(first, first + row_group_documents)
            writer.write(_rows(writer.schema, doc_ids[group], texts[group]))
        chunks = sum(map(len, texts))
        writer.close(
            ShardHeader(
                encoder_fingerprint=key.encoder_fingerprint,
                chunking_fingerprint=key.chunking_fingerprint,
                partition=partition,
                unit_id=unit_id,
                counts=Counts(documents=len(texts), embedded=len(texts), chunks=chunks, tokens=10 * chunks),
                dimension=dimension,
                vector_dtype=key.vector_dtype,
                run_id="test",
                embed_seconds=1.0,
            )
        )
    return path


def _rows(schema, doc_ids, texts):
    lengths_B = np.array([len(text) for text in texts])
    document_N = np.repeat(np.arange(len(texts)), lengths_B)
    index_N = np.concatenate([np.arange(length) for length in lengths_B])
    hashes = [f"{abs(hash(doc_id)) % 16**15:015x}".ljust(64, "0") for doc_id in doc_ids]
    return chunk_rows(
        schema,
        doc_ids=pa.array(doc_ids).take(pa.array(document_N)),
        text_hashes=pa.array(hashes).take(pa.array(document_N)),
        index_N=index_N,
        char_start_N=index_N * 30,
        char_end_N=index_N * 30 + 40,
        token_start_N=index_N * 7,
        token_count_N=np.full(len(index_N), 10),
        document_tokens_N=(lengths_B * 7 + 3)[document_N],
        token_ids=np.concatenate([np.arange(7 * length + 3) for length in lengths_B]).astype(np.int32),
        new_tokens_N=np.where(index_N == 0, 10, 7),
        vectors_ND=np.concatenate([np.asarray(text, np.float32) for text in texts]),
    )


def rewrite_shard(store, path, *, document, value):
    """Put `value` into one component of a document's last chunk; give its doc_id."""
    place = store.files.full_path(path)
    file = pq.ParquetFile(place)
    table = file.read()
    doc_ids = table.column("doc_id").to_pylist()
    doc_id = list(dict.fromkeys(doc_ids))[document]
    vectors = table.column("vector").combine_chunks()
    width = vectors.type.list_size
    values = np.array(vectors.flatten())
    values[(len(doc_ids) - 1 - doc_ids[::-1].index(doc_id)) * width] = value
    changed = pa.FixedSizeListArray.from_arrays(pa.array(values, vectors.type.value_type), type=vectors.type)
    index = table.schema.get_field_index("vector")
    table = table.set_column(index, table.schema.field(index), changed)
    header = open_shard(store.files, path).header
    writer = ShardWriter(Path(place), dimension=header.dimension, vector_dtype=header.vector_dtype)
    writer.write(table.cast(writer.schema))
    writer.close(header)
    return doc_id
