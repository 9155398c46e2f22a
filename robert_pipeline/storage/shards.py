"""Embedding shards: one Parquet file a work unit, a row a chunk, documents in corpus order.

Chunk tables enter and leave; counts and fingerprints ride in the file's metadata. No vector is handed out before the
file's seal, its name and its contract are checked; what does not fit raises StoreError naming the file.
Axes: B documents, N chunks, D embedding.
"""

import json
import zlib
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
from robert_pipeline.storage.sealed import NAME_KEY, SealedWriter, open_footer, open_sealed
from robert_pipeline.storage.store import EmbeddingKey, partition_folder
from robert_pipeline.types import Counts, EncoderUse
from schemas import embeddings_schema
from schemas.contract import check_fields

HEADER_KEY = b"robert.shard"
_REBUILD = "Run `robert store verify`, which sets it aside and embeds its texts again"


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
    """Of the worker, since it last wrote a shard: of units that it embeds at once, only the sum says something."""
    encoder_name: str = ""
    """What the encoder was called, for people; nothing is decided by it."""
    source_fingerprint: str = ""
    """Identity of the corpus and of the settings that cut it into units; empty where the shard is of neither."""

    @property
    def key(self) -> EmbeddingKey:
        """What besides the texts decided the vectors."""
        return EmbeddingKey(
            encoder_fingerprint=self.encoder_fingerprint,
            chunking_fingerprint=self.chunking_fingerprint,
            vector_dtype=self.vector_dtype,
        )

    @property
    def path(self) -> str:
        """Where in a store the shard belongs."""
        return f"embeddings/{self.key.folder}/{partition_folder(self.partition)}/{self.unit_id}.parquet"

    def to_json(self) -> bytes:
        """As it stands in the file's metadata, with a checksum of its own: it is read without the rest of the file."""
        values = asdict(self)
        return _dump({**values, "crc32": zlib.crc32(_dump(values))})

    @classmethod
    def from_json(cls, text: bytes) -> "ShardHeader":
        """Raises ValueError, KeyError or TypeError where the text is not a header."""
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("its header is not one")
        if values.pop("crc32") != zlib.crc32(_dump(values)):
            raise ValueError("its header is not the one that was written")
        values["counts"] = Counts(**values["counts"])
        values["encoder_use"] = EncoderUse(**values["encoder_use"])
        return cls(**{f.name: values[f.name] for f in fields(cls)})


def _dump(values: dict[str, object]) -> bytes:
    return json.dumps(values, sort_keys=True).encode()


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

    @property
    def first_rows(self) -> NDArray[np.int64]:
        """The row of each document's first chunk."""
        rows_B: NDArray[np.int64] = np.cumsum(self.lengths_B) - self.lengths_B
        return rows_B


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedShard:
    """A shard in memory, every byte of it checked: as large as its file."""

    place: str
    header: ShardHeader
    file: pq.ParquetFile

    @property
    def table_count(self) -> int:
        """Row groups, each of whole documents."""
        return int(self.file.metadata.num_row_groups)

    def table(self, number: int) -> ChunkTable:
        """One row group. Raises StoreError where it cannot be decoded."""
        try:
            return _chunk_table(self.file.read_row_group(number), self.header)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _damaged(self.place, error) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingShard:
    """A shard whose footer was found in its contract's shape and to be what the file's name says."""

    files: Files
    path: str
    header: ShardHeader

    def load(self, *, check_pages: bool = False) -> LoadedShard:
        """Read the file and check its seal, with `check_pages` its page checksums too. Raises StoreError."""
        place = self.files.describe(self.path)
        try:
            file = open_sealed(self.files, self.path, check_pages=check_pages)
        except FileNotFoundError as error:
            raise _missing(place) from error
        except (ValueError, pa.ArrowException, OSError) as error:
            raise _damaged(place, error) from error
        return LoadedShard(place=place, header=self.header, file=file)

    def batches(self) -> Iterator[ChunkTable]:
        """The shard's row groups: each holds whole documents. Raises StoreError, before the first, for any damage."""
        loaded = self.load()
        for number in range(loaded.table_count):
            yield loaded.table(number)


def open_shard(files: Files, path: str) -> EmbeddingShard:
    """Read a shard's footer and check it against the contract and against its name. Raises StoreError."""
    place = files.describe(path)
    try:
        file = open_footer(files, path)
        header = _header(place, file)
        expected = embeddings_schema(header.dimension, header.vector_dtype)
        check_fields(expected, file.schema_arrow, where=place, contract="embeddings v1")
        if file.metadata.num_rows != header.counts.chunks:
            raise ValueError(f"it has {file.metadata.num_rows} rows, its header says {header.counts.chunks}")
    except FileNotFoundError as error:
        raise _missing(place) from error
    except (ValueError, KeyError, TypeError, pa.ArrowException, OSError) as error:
        raise _damaged(place, error) from error
    if path != header.path:
        raise StoreError(f"shard {place} is damaged: it was written as {header.path}", fix=_REBUILD)
    return EmbeddingShard(files=files, path=path, header=header)


def _header(place: str, file: pq.ParquetFile) -> ShardHeader:
    metadata = file.metadata.metadata or {}
    if HEADER_KEY not in metadata:
        raise StoreError(f"{place} is not an embedding shard of robert_pipeline", fix=_REBUILD)
    return ShardHeader.from_json(metadata[HEADER_KEY])


def _missing(place: str) -> StoreError:
    return StoreError(f"shard {place} does not exist", fix="Run `robert embed`")


def _damaged(place: str, error: Exception) -> StoreError:
    problem = str(error).strip().split("\n")[0].rstrip(".")
    return StoreError(f"shard {place} is damaged: {problem}", fix=_REBUILD)


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
        # `python -m benchmarks.read_shards` compares these with the other encodings.
        self._writer = SealedWriter(
            place,
            self.schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=["doc_id", "text_hash", "document_tokens"],
            use_byte_stream_split=["vector.list.element"],
            store_schema=True,
        )

    def write(self, rows: pa.Table) -> None:
        """One row group."""
        self._writer.write_table(rows, row_group_size=max(1, rows.num_rows))

    def close(self, header: ShardHeader) -> None:
        """Finish the file."""
        self._writer.close({NAME_KEY: header.path, HEADER_KEY.decode(): header.to_json()})


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
