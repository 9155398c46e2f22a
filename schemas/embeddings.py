"""Embeddings, version 1: one row per chunk, in document order. Width and dtype of the vector follow the encoder."""

import pyarrow as pa

from schemas.contract import Contract, field

VECTOR_DTYPES = {"float16": pa.float16(), "float32": pa.float32()}


def _fields(vector: pa.DataType) -> tuple[pa.Field, ...]:
    return (
        field("doc_id", pa.string(), "Identifier of the document the chunk belongs to."),
        field("text_hash", pa.string(), "SHA-256 of the document's UTF-8 text, 64 hexadecimal digits."),
        field("chunk_index", pa.int32(), "Position of the chunk in its document, from 0."),
        field(
            "char_start",
            pa.int64(),
            "First character of the chunk in the text (Unicode code points, from 0).",
        ),
        field("char_end", pa.int64(), "One past the last character of the chunk."),
        field("token_start", pa.int64(), "First token of the chunk in the document, special tokens not counted."),
        field("token_count", pa.int32(), "Tokens in the chunk, special tokens not counted."),
        field("document_tokens", pa.int64(), "Tokens in the whole document, special tokens not counted."),
        field(
            "token_ids",
            pa.list_(pa.field("element", pa.int32(), nullable=False)),
            "The chunk's tokens that no earlier chunk of the document has, so that its tokens follow one another.",
        ),
        field("vector", vector, "The chunk's embedding; values of the encoder's pooled output."),
    )


EMBEDDINGS = Contract(
    name="embeddings",
    version=1,
    description=(
        "One row per chunk, documents in corpus order, chunks in text order. The file's metadata carries the "
        "contract version, the fingerprints of encoder and chunking, and the unit's counts."
    ),
    fields=_fields(pa.list_(pa.field("element", pa.float16(), nullable=False), 1)),
)


def embeddings_schema(dimension: int, dtype: str) -> pa.Schema:
    """The contract's schema for vectors of `dimension` values of `dtype` ('float16' or 'float32')."""
    vector = pa.list_(pa.field("element", VECTOR_DTYPES[dtype], nullable=False), dimension)
    return pa.schema(list(_fields(vector)), metadata=EMBEDDINGS.schema.metadata)
