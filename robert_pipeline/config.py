"""What a run is told: frozen values, checked when made, each with a fingerprint where its value decides what is stored.

Holds no paths of open files and reads nothing; `robert_pipeline.storage.settings` reads `robert.toml` into these.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from robert_pipeline.errors import ConfigError

Plain = str | int | float | bool | None
Pooling = Literal["auto", "cls", "mean", "pooler"]
Precision = Literal["auto", "float32", "bfloat16"]

FINGERPRINT_DIGITS = 16


def fingerprint(kind: str, values: Mapping[str, Plain | Sequence[Plain]]) -> str:
    """Identity of a configuration: 16 hexadecimal digits of the SHA-256 of its canonical JSON.

    `kind` keeps two kinds of configuration with the same values apart.
    """
    text = json.dumps([kind, values], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_DIGITS]


def text_hash(text_utf8: bytes) -> str:
    """Identity of a text: SHA-256 of its UTF-8 bytes, 64 hexadecimal digits; the same as SQL's sha256(text)."""
    return hashlib.sha256(text_utf8).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunking:
    """How a document is cut: windows of `chunk_tokens`, each repeating the last `overlap_tokens` of the one before.

    Special tokens ([CLS], [SEP]) come on top. The defaults, 200 and 50, are those of Pappagari et al. 2019,
    "Hierarchical Transformers for Long Document Classification", section 4. `max_chunks` bounds the cost of a
    document; what it leaves out shows as tokens_seen < tokens_total in the published row.
    """

    chunk_tokens: int = 200
    overlap_tokens: int = 50
    max_chunks: int | None = None

    def __post_init__(self) -> None:
        if self.chunk_tokens < 1:
            raise ConfigError(f"chunking.chunk_tokens is {self.chunk_tokens}", fix="Give at least 1")
        if not 0 <= self.overlap_tokens < self.chunk_tokens:
            raise ConfigError(
                f"chunking.overlap_tokens is {self.overlap_tokens}",
                fix=f"Give at least 0 and less than chunk_tokens ({self.chunk_tokens})",
            )
        if self.max_chunks is not None and self.max_chunks < 1:
            raise ConfigError(f"chunking.max_chunks is {self.max_chunks}", fix="Give at least 1, or leave it out")

    @property
    def fingerprint(self) -> str:
        """Changes when any document could be cut differently."""
        return fingerprint(
            "chunking/1",
            {"tokens": self.chunk_tokens, "overlap": self.overlap_tokens, "max": self.max_chunks},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderSource:
    """Which encoder, and how its output becomes one vector a chunk.

    `name` is a folder in Hugging Face layout or a hub name; `revision` a hub commit, tag or branch.
    `pooling='auto'` follows the checkpoint (sentence-transformers' 1_Pooling/config.json), else the mean of the
    tokens. `precision='auto'` is bfloat16 where the machine multiplies it faster than float32 (a CUDA device, AMX,
    AVX512-BF16), else float32; it is part of the encoder's fingerprint, so pin it when machines of both kinds share a
    store.
    """

    name: str = "sentence-transformers/all-MiniLM-L6-v2"
    revision: str | None = None
    pooling: Pooling = "auto"
    precision: Precision = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Names of the corpus columns; `label` need not exist where nothing is trained or evaluated."""

    doc_id: str = "doc_id"
    text: str = "text"
    label: str = "label"

    def __post_init__(self) -> None:
        for name in ("doc_id", "text", "label"):
            if not getattr(self, name):
                raise ConfigError(f"columns.{name} is empty", fix="Give the name of a corpus column")
        if self.doc_id == self.text:
            raise ConfigError(
                f"columns.doc_id and columns.text are both '{self.text}'", fix="Give two columns of the corpus"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedding:
    """How embedding work is cut and stored.

    `unit_bytes` is the text of one work unit, what a crash can cost; `block_bytes` the text held in memory at once;
    `batch_tokens` the tokens of one encoder batch (by default what suits the device). Of these only `vector_dtype`
    changes what is stored.
    """

    unit_bytes: int = 8 << 20
    block_bytes: int = 4 << 20
    batch_tokens: int | None = None
    vector_dtype: Literal["float16", "float32"] = "float16"

    def __post_init__(self) -> None:
        for name in ("unit_bytes", "block_bytes", "batch_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"embedding.{name} is {value}", fix="Give at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Warehouse:
    """Where labelled tables are published. `uri` is the sink's own address: a folder, a catalog, a database."""

    uri: str = "warehouse"
    sink: Literal["iceberg"] = "iceberg"
    namespace: str = "robert"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Everything a run needs to know, and nothing it finds out for itself.

    `corpus`, `store` and the warehouse are local paths or object-store addresses; `model` is the folder of the head.
    """

    corpus: str = "corpus"
    store: str = "store"
    model: str = "model"
    warehouse: Warehouse = field(default_factory=Warehouse)
    encoder: EncoderSource = field(default_factory=EncoderSource)
    columns: Columns = field(default_factory=Columns)
    chunking: Chunking = field(default_factory=Chunking)
    embedding: Embedding = field(default_factory=Embedding)
