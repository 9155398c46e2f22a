"""What a run is told: frozen values, checked when made, each with a fingerprint where its value decides what is stored.

Holds no paths of open files and reads nothing; `robert_pipeline.storage.settings` reads `robert.toml` into these.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from robert_pipeline.engine import Engine
from robert_pipeline.errors import ConfigError
from robert_pipeline.secrets import refuse_secret

Plain = str | int | float | bool | None
Pooling = Literal["auto", "cls", "mean", "pooler"]
Precision = Literal["auto", "float32", "bfloat16"]
LabelledBy = Literal["promoted", "model"]
SinkKind = Literal["iceberg", "delta", "parquet", "postgres", "duckdb", "bigquery"]
HeadKind = Literal["robert", "mean", "first-chunk", "tobert"]
Output = Literal["auto", "binary", "multiclass", "multilabel"]
ClassWeight = Literal["none", "balanced"]

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

    `unit_bytes` is the text of one work unit, what a crash can cost; a document of more is a unit of its own.
    `block_bytes` is the text that is embedded together, larger documents one by one; `batch_tokens` the tokens of one
    encoder batch (by default what suits the device). Of these only `vector_dtype` changes what is stored.
    """

    unit_bytes: int = 8 << 20
    block_bytes: int = 2 << 20
    batch_tokens: int | None = None
    vector_dtype: Literal["float16", "float32"] = "float16"

    def __post_init__(self) -> None:
        for name in ("unit_bytes", "block_bytes", "batch_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"embedding.{name} is {value}", fix="Give at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """Which head. The defaults are RoBERT's: one unidirectional LSTM layer of 100, its last state, a linear map.

    `kind` is 'robert' or one that it is compared with: 'mean' of the chunk vectors, 'first-chunk' only, 'tobert' (a
    transformer over chunk vectors). `output='auto'` is one logit for two labels and a softmax for more.
    `dense_units=30` is the ReLU layer of Pappagari et al. 2019, section 3.2. For 'tobert', `hidden` is the
    transformer's width, which `attention_heads` must divide, and `layers` its blocks. `dropout` acts on the document
    vector, and between layers.
    """

    kind: HeadKind = "robert"
    output: Output = "auto"
    hidden: int = 100
    layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0
    dense_units: int | None = None
    attention_heads: int = 4

    def __post_init__(self) -> None:
        _check_choices("head", self, kind=get_args(HeadKind), output=get_args(Output))
        _check_at_least_1("head", self, "hidden", "layers", "attention_heads")
        if self.dense_units is not None and self.dense_units < 1:
            raise ConfigError(f"head.dense_units is {self.dense_units}", fix="Give at least 1, or leave it out")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"head.dropout is {self.dropout}", fix="Give at least 0 and less than 1")
        if self.kind == "tobert" and (self.hidden % self.attention_heads or self.hidden % 2):
            raise ConfigError(
                f"head.hidden is {self.hidden} with {self.attention_heads} attention heads",
                fix="Give an even multiple of the attention heads",
            )
        if self.bidirectional and self.kind != "robert":
            raise ConfigError(f"head.bidirectional is set for kind '{self.kind}'", fix="Only 'robert' recurs")
        if self.layers > 1 and self.kind not in ("robert", "tobert"):
            raise ConfigError(f"head.layers is {self.layers} for kind '{self.kind}'", fix="It has no layers: give 1")

    def resolved(self, label_count: int) -> "HeadConfig":
        """The same head with `output` decided. Raises ConfigError where labels and output do not fit."""
        if label_count < 2 and self.output != "multilabel":
            raise ConfigError(f"a head needs at least 2 labels, there is {label_count}", fix="Give more labels")
        if self.output == "binary" and label_count != 2:
            raise ConfigError(
                f"head.output is 'binary' but there are {label_count} labels", fix="Use 'multiclass' or 'auto'"
            )
        if self.output == "auto":
            return replace(self, output="binary" if label_count == 2 else "multiclass")
        return self

    def values(self) -> dict[str, Plain]:
        """Every field by name, for fingerprints and files."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How a head is trained. The defaults suit vectors of a frozen sentence encoder, 500 documents and more.

    `patience` is how many epochs the validation loss may fail to fall. `batch_chunks` bounds the memory of a batch.
    `validation_fraction` of the texts, chosen by their hash, is kept from learning: to stop by, to calibrate and to
    choose thresholds; `split` names the choice, another name holds other documents out.

    `class_weight='balanced'` weighs every class the same in the loss, whatever its size; the label is then chosen as
    if all labels were equally frequent, while the probability stays what it is. `positive_label` is the label that a
    binary head's logit speaks for, the last one in sorted order where it is not given; it is given from a probability
    of `positive_threshold` on: a half, or with balanced classes its share of the documents learned from.
    `target_precision` chooses for every label the probability below which it is withheld for review.
    `label_separator` stands between the labels of a document where the head is multi-label.
    """

    epochs: int = 40
    batch_documents: int = 64
    batch_chunks: int = 16384
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    patience: int = 6
    validation_fraction: float = 0.15
    class_weight: ClassWeight = "none"
    positive_label: str | None = None
    positive_threshold: float | None = None
    target_precision: float | None = None
    label_separator: str = "|"
    split: str = "1"
    seed: int = 0

    def __post_init__(self) -> None:
        _check_choices("training", self, class_weight=get_args(ClassWeight))
        _check_at_least_1("training", self, "epochs", "batch_documents", "batch_chunks", "patience")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"training.learning_rate is {self.learning_rate}", fix="Give a positive number")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"training.weight_decay is {self.weight_decay}", fix="Give 0 or more")
        if not 0 <= self.validation_fraction < 1:
            raise ConfigError(
                f"training.validation_fraction is {self.validation_fraction}", fix="Give at least 0, less than 1"
            )
        for name in ("positive_threshold", "target_precision"):
            if (value := getattr(self, name)) is not None and not 0 <= value <= 1:
                raise ConfigError(f"training.{name} is {value}", fix="Give a probability from 0 to 1")
        if not self.label_separator:
            raise ConfigError("training.label_separator is empty", fix="Give the text that separates labels")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"training.seed is {self.seed}", fix="Give a whole number from 0 on")


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig:
    """How an encoder is fine-tuned on chunks. The defaults suit encoders of MiniLM's size.

    An epoch draws up to `chunks_per_document` chunks of every document, others until all were drawn; a document's
    chunks share its weight, so that each document weighs the same, whatever its length. One optimiser step sees about
    `step_tokens` tokens, gathered from batches of at most `batch_tokens`: None is 3,200 on a CPU, the step on a GPU.

    `layer_decay` multiplies the learning rate once for every layer below the last one (Howard and Ruder 2018,
    discriminative fine-tuning); `frozen_layers` leaves the lowest layers as they are, `train_embeddings=False` the
    token embeddings. `epochs` None is 4, up to 8 where there are fewer than 1,000 documents, and up to 16 where fewer
    than 4,000 documents are so long that it takes as many to draw every chunk once. `patience` is how many evaluations
    the held-out loss may fail to fall, None 3 or a third of those planned (a time limit may allow fewer) where that is
    more: the loss of rare passages begins to fall late. The best weights are kept.
    """

    epochs: float | None = None
    learning_rate: float = 1.5e-4
    classifier_learning_rate: float = 1e-3
    layer_decay: float = 1.0
    frozen_layers: int = 0
    train_embeddings: bool = False
    weight_decay: float = 0.01
    warmup: float = 0.1
    dropout: float = 0.1
    label_smoothing: float = 0.0
    step_tokens: int = 6400
    batch_tokens: int | None = None
    chunks_per_document: int = 4
    evaluations_per_epoch: float = 1.0
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("step_tokens", "batch_tokens", "chunks_per_document", "patience"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"finetune.{name} is {value}", fix="Give at least 1")
        for name in ("epochs", "learning_rate", "classifier_learning_rate", "layer_decay", "evaluations_per_epoch"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise ConfigError(f"finetune.{name} is {value}", fix="Give a positive number")
        for name in ("dropout", "label_smoothing", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"finetune.{name} is {getattr(self, name)}", fix="Give at least 0 and less than 1")
        if self.frozen_layers < 0:
            raise ConfigError(f"finetune.frozen_layers is {self.frozen_layers}", fix="Give at least 0")

    def epochs_for(self, documents: int, drawn_share: float) -> float:
        """Passes over so many documents, of whose chunks each draws this share: few or long ones take more of them."""
        if self.epochs is not None:
            return self.epochs
        for_few, for_long = 4000 / max(1, documents), min(1 / drawn_share, 16_000 / max(1, documents))
        return max(4.0, min(8.0, for_few), min(16.0, for_long))

    def patience_for(self, evaluations: float) -> int:
        """Evaluations without a better one, of so many that are planned, after which training stops."""
        return self.patience if self.patience is not None else max(3, round(evaluations / 3))


def _check_choices(group: str, config: object, **choices: tuple[str, ...]) -> None:
    for name, allowed in choices.items():
        if (value := getattr(config, name)) not in allowed:
            raise ConfigError(f"{group}.{name} is '{value}'", fix=f"Give one of {', '.join(allowed)}")


def _check_at_least_1(group: str, config: object, *names: str) -> None:
    for name in names:
        if (value := getattr(config, name)) < 1:
            raise ConfigError(f"{group}.{name} is {value}", fix="Give at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Warehouse:
    """Where labelled tables are published: what kind of tables they are, and the address that kind has.

    `uri` is a folder (iceberg, delta, parquet), a file (duckdb), `postgresql://user@host/database` (postgres) or
    `bigquery://project?location=EU` (bigquery). `namespace` is what the kind has: namespace, folder, schema, data set.
    `catalog` is Iceberg's: nothing for a SQLite file in the folder, else `postgresql://…` or the `https://…` of a REST
    catalog. No address holds a secret: in one of a database or a catalog `${NAME}` stands for an environment variable,
    which is read when connecting.
    """

    uri: str = "warehouse"
    sink: SinkKind = "iceberg"
    namespace: str = "robert"
    catalog: str = ""

    def __post_init__(self) -> None:
        for name in ("uri", "catalog"):
            refuse_secret(f"warehouse.{name}", getattr(self, name))
        if not all(self.namespace.split(".")):
            raise ConfigError(f"warehouse.namespace is '{self.namespace}'", fix="Give a name, such as 'robert'")
        if self.catalog and self.sink != "iceberg":
            raise ConfigError(
                f"warehouse.catalog is given, but warehouse.sink is '{self.sink}'",
                fix="Take it out: only Iceberg tables have a catalog",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """What a candidate must keep to become the current head, on the documents that both heads have labelled.

    `max_flip_share` is the share of documents whose published labels change; `max_distribution_change` the share that
    would have to move to another label to turn the old distribution of labels into the new one (total variation);
    `max_accuracy_drop` how much smaller the share of right labels may be where the truth is known: 0.01 is one point.
    On fewer than `min_documents` nothing is promoted.
    """

    max_flip_share: float = 0.05
    max_distribution_change: float = 0.05
    max_accuracy_drop: float = 0.0
    min_documents: int = 100

    def __post_init__(self) -> None:
        for name in ("max_flip_share", "max_distribution_change", "max_accuracy_drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"gate.{name} is {getattr(self, name)}", fix="Give a share from 0 to 1")
        if self.min_documents < 0:
            raise ConfigError(f"gate.min_documents is {self.min_documents}", fix="Give at least 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What a partition must keep to be published without `--force`. None sets no bound.

    `max_reject_share` is the share of documents that may be rejected; `max_distribution_change` the share that would
    have to move to another label to turn the labels of the partition before into those of this one (total variation).
    A partition of fewer than `min_documents` is held against neither.
    """

    max_reject_share: float | None = None
    max_distribution_change: float | None = None
    min_documents: int = 1

    def __post_init__(self) -> None:
        for name in ("max_reject_share", "max_distribution_change"):
            if (value := getattr(self, name)) is not None and not 0 <= value <= 1:
                raise ConfigError(f"bounds.{name} is {value}", fix="Give a share from 0 to 1")
        _check_at_least_1("bounds", self, "min_documents")


@dataclass(frozen=True, kw_only=True, slots=True)
class Operations:
    """How scheduled runs and backfills are run.

    `claims` is the folder in which a run says which partition it works on, on a disk that all machines share; by
    default it is in the store, which must then be a folder. `partition_format` turns a day into the partition of that
    day, for schedules (strftime). `price_per_hour` is what an hour of this machine costs, in any currency.
    """

    claims: str | None = None
    partition_format: str = "day=%Y-%m-%d"
    max_active: int = 1
    price_per_hour: float | None = None

    def __post_init__(self) -> None:
        _check_at_least_1("operations", self, "max_active")
        if self.price_per_hour is not None and not 0 <= self.price_per_hour < math.inf:
            raise ConfigError(f"operations.price_per_hour is {self.price_per_hour}", fix="Give 0 or more")
        if "%" not in self.partition_format:
            raise ConfigError(
                f"operations.partition_format is '{self.partition_format}', the same for every day",
                fix="Write it like day=%Y-%m-%d",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Everything a run needs to know, and nothing it finds out for itself.

    `corpus`, `store` and the warehouse are local paths or object-store addresses; `model` is the folder of the head
    that training writes. `labelled_by='promoted'` labels with the head that was promoted last, which lies in the folder
    `registry` under its fingerprint, and with that of `model` as long as none was; 'model' always with the latter.
    """

    corpus: str = "corpus"
    store: str = "store"
    model: str = "model"
    registry: str = "models"
    labelled_by: LabelledBy = "promoted"
    warehouse: Warehouse = field(default_factory=Warehouse)
    encoder: EncoderSource = field(default_factory=EncoderSource)
    columns: Columns = field(default_factory=Columns)
    chunking: Chunking = field(default_factory=Chunking)
    embedding: Embedding = field(default_factory=Embedding)
    head: HeadConfig = field(default_factory=HeadConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    gate: Gate = field(default_factory=Gate)
    engine: Engine = field(default_factory=Engine)
    bounds: Bounds = field(default_factory=Bounds)
    operations: Operations = field(default_factory=Operations)
