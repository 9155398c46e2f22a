"""Embedding shards: one Parquet file a work unit, a row a chunk, documents in corpus order.

Chunk tables enter and leave; counts and fingerprints ride in the file's metadata. Every read checks page checksums and
the contract; what does not fit raises StoreError naming the file. Axes: B documents, N chunks, D embedding.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from robert_pipeline.core.terms import ChunkTokens
from robert_pipeline.errors import StoreError
from robert_pipeline.storage.files import Files
from robert_pipeline.types import Counts, EncoderUse
from schemas import ContractError, embeddings_schema
from schemas.contract import check_fields

HEADER_KEY = b"robert.shard"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardHeader:
    """What a shard says of itself."""

    encoder_fingerprint: str
    chunking_fingerprint: str
    partition: str
    unit_id: str
    counts: Counts
    dimension: int
    vector_dtype: str
    run_id: str
    embed_seconds: float
    encoder_use: EncoderUse = field(default_factory=EncoderUse)

    def to_json(self) -> bytes:
        """As it stands in the file's metadata."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "ShardHeader":
        """Raises ValueError, KeyError or TypeError where the text is not a header."""
        values = json.loads(text)
        values["counts"] = Counts(**values["counts"])
        values["encoder_use"] = EncoderUse(**values["encoder_use"])
        return cls(**{f.name: values[f.name] for f in fields(cls)})


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkTable:
    """Whole documents: their chunk rows, the vectors as an array, and how many chunks each document has."""

    rows: pa.Table
    vectors_ND: NDArray[np.float16] | NDArray[np.float32]
    lengths_B: NDArray[np.int64]

    @property
    def tokens(self) -> ChunkTokens:
        """The tokens of the chunks."""
        return tokens_of(self.rows.column("token_ids").combine_chunks())


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingShard:
    """A shard that was found whole and in its contract's shape."""

    files: Files
    path: str
    header: ShardHeader

    def batches(self) -> Iterator[ChunkTable]:
        """The shard's row groups: each holds whole documents. Raises StoreError where a page fails its checksum."""
        place = self.files.describe(self.path)
        try:
            with _parquet(self.files, self.path) as file:
                for group in range(file.metadata.num_row_groups):
                    yield _chunk_table(file.read_row_group(group), self.header)
        except (pa.ArrowException, OSError) as error:
            raise StoreError(f"shard {place} is damaged: {_first_line(error)}", fix=_REBUILD) from error


_REBUILD = "Delete it and run `robert embed` again"


def open_shard(files: Files, path: str) -> EmbeddingShard:
    """Read a shard's footer and check it against the contract. Raises StoreError."""
    place = files.describe(path)
    try:
        with _parquet(files, path) as file:
            metadata = file.schema_arrow.metadata or {}
            metadata = {**metadata, **(file.metadata.metadata or {})}
            if HEADER_KEY not in metadata:
                raise StoreError(f"{place} is not an embedding shard of robert_pipeline", fix=_REBUILD)
            header = ShardHeader.from_json(metadata[HEADER_KEY])
            expected = embeddings_schema(header.dimension, header.vector_dtype)
            check_fields(expected, file.schema_arrow, where=place, contract="embeddings v1")
            if file.metadata.num_rows != header.counts.chunks:
                raise StoreError(
                    f"shard {place} has {file.metadata.num_rows} rows, its header says {header.counts.chunks}",
                    fix=_REBUILD,
                )
    except FileNotFoundError as error:
        raise StoreError(f"shard {place} does not exist", fix="Run `robert embed`") from error
    except (ContractError, ValueError, KeyError, TypeError, pa.ArrowException, OSError) as error:
        raise StoreError(f"shard {place} is damaged: {_first_line(error)}", fix=_REBUILD) from error
    return EmbeddingShard(files=files, path=path, header=header)


def _parquet(files: Files, path: str) -> pq.ParquetFile:
    return pq.ParquetFile(files.open(path), page_checksum_verification=True)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")


def _chunk_table(rows: pa.Table, header: ShardHeader) -> ChunkTable:
    vectors = rows.column("vector").combine_chunks()
    starts = np.append(np.flatnonzero(rows.column("chunk_index").to_numpy() == 0), rows.num_rows)
    return ChunkTable(
        rows=rows,
        vectors_ND=vectors.flatten().to_numpy().reshape(rows.num_rows, header.dimension),
        lengths_B=np.diff(starts).astype(np.int64),
    )


def tokens_of(lists: pa.ListArray) -> ChunkTokens:
    """A column of token ids as arrays."""
    return ChunkTokens(
        token_ids=lists.flatten().to_numpy(), new_tokens_N=np.diff(lists.offsets.to_numpy()).astype(np.int64)
    )


class ShardWriter:
    """Writes one shard to a local file, a row group of whole documents at a time; `close` puts the header in."""

    def __init__(self, place: Path, *, dimension: int, vector_dtype: str) -> None:
        self.schema = embeddings_schema(dimension, vector_dtype)
        self.is_float16 = vector_dtype == "float16"
        self._writer = pq.ParquetWriter(
            place,
            self.schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=["doc_id", "text_hash", "document_tokens"],
            write_page_checksum=True,
            store_schema=True,
        )

    def write(self, rows: pa.Table) -> None:
        """One row group."""
        self._writer.write_table(rows, row_group_size=max(1, rows.num_rows))

    def close(self, header: ShardHeader) -> None:
        """Finish the file."""
        self._writer.add_key_value_metadata({HEADER_KEY: header.to_json()})
        self._writer.close()


def chunk_rows(
    schema: pa.Schema,
    *,
    doc_ids: pa.Array,
    text_hashes: pa.Array,
    index_N: NDArray[np.int64],
    char_start_N: NDArray[np.int64],
    char_end_N: NDArray[np.int64],
    token_start_N: NDArray[np.int64],
    token_count_N: NDArray[np.int64],
    document_tokens_N: NDArray[np.int64],
    token_ids: NDArray[np.int32],
    new_tokens_N: NDArray[np.int64],
    vectors_ND: NDArray[np.float32],
) -> pa.Table:
    """Rows of the embeddings contract; vectors are rounded to the schema's dtype.

    `token_ids` are those of all chunks, one after the other, `new_tokens_N` of each.
    """
    vector_type = schema.field("vector").type
    dtype = np.float16 if pa.types.is_float16(vector_type.value_type) else np.float32
    values = pa.array(np.ascontiguousarray(vectors_ND, dtype).reshape(-1))
    return pa.Table.from_arrays(
        [
            doc_ids,
            text_hashes,
            pa.array(index_N, pa.int32()),
            pa.array(char_start_N, pa.int64()),
            pa.array(char_end_N, pa.int64()),
            pa.array(token_start_N, pa.int64()),
            pa.array(token_count_N, pa.int32()),
            pa.array(document_tokens_N, pa.int64()),
            pa.ListArray.from_arrays(
                pa.array(np.concatenate([[0], np.cumsum(new_tokens_N)]), pa.int32()),
                pa.array(token_ids, pa.int32()),
                type=schema.field("token_ids").type,
            ),
            pa.FixedSizeListArray.from_arrays(values, type=vector_type),
        ],
        schema=schema,
    )
