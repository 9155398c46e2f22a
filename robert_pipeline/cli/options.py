"""The options that commands share, turned into Settings: each stands for one setting of `robert.toml`."""

import functools
import inspect
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from robert_pipeline.config import EncoderSource

Partitions = Annotated[
    list[str] | None, typer.Option("--partition", help="Corpus partition, may be repeated. All where none is given.")
]

Force = Annotated[bool, typer.Option("--force", help="Publish also what is outside the bounds of the settings.")]


@dataclass(frozen=True, slots=True)
class SettingOption:
    """An option, the setting it gives (by dotted name), and its help; `[...]` there is the default."""

    flag: str
    setting: str
    kind: Any
    text: str

    @property
    def name(self) -> str:
        """As a Python name."""
        return self.flag.strip("-").replace("-", "_")

    def parameter(self, panel: str) -> inspect.Parameter:
        """As a parameter of a command, None where it is not given."""
        option = typer.Option(self.flag, help=self.text, rich_help_panel=panel, show_default=False)
        annotation: Any = Annotated[Optional[self.kind], option]  # noqa: UP045 - a type known when it runs
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


Panel = tuple[str, tuple[SettingOption, ...]]
_o = SettingOption

SETTINGS: Panel = (
    "Settings",
    (
        _o("--corpus", "corpus", str, "Folder of Parquet files, or one Parquet file [corpus]."),
        _o("--store", "store", str, "Folder of the embedding store [store]."),
        _o("--model", "model", str, "Folder of the trained head [model]."),
        _o("--warehouse", "warehouse.uri", str, "Address of the published tables [warehouse]."),
        _o("--sink", "warehouse.sink", str, "iceberg, delta, parquet, postgres, duckdb or bigquery [iceberg]."),
        _o("--encoder", "encoder.name", str, f"BERT-family folder or hub name [{EncoderSource().name}]."),
        _o("--encoder-revision", "encoder.revision", str, "Hub commit, tag or branch."),
        _o("--pooling", "encoder.pooling", str, "auto, cls, mean or pooler."),
        _o("--precision", "encoder.precision", str, "auto, float32 or bfloat16."),
        _o("--chunk-tokens", "chunking.chunk_tokens", int, "Tokens of a chunk [200]."),
        _o("--overlap-tokens", "chunking.overlap_tokens", int, "Tokens repeated by the next chunk [50]."),
        _o("--max-chunks", "chunking.max_chunks", int, "Chunks read of one document [all]."),
        _o("--doc-id-column", "columns.doc_id", str, "Corpus column of the ids [doc_id]."),
        _o("--text-column", "columns.text", str, "Corpus column of the texts [text]."),
        _o("--label-column", "columns.label", str, "Corpus column of the true labels [label]."),
    ),
)
ENGINE: Panel = (
    "Engine",
    (
        _o("--engine", "engine.name", str, "local, dask, dask://host:port, flink://host:port, … [local]."),
        _o("--engine-workers", "engine.workers", int, "Workers that dask starts [one a GPU, else one a core]."),
        _o("--engine-resources", "engine.resources", str, "What dask:// workers must offer, such as GPU=1."),
        _o("--engine-option", "engine.options", list[str], "For Beam, such as --parallelism=8; may be repeated."),
        _o("--engine-patience", "engine.patience_seconds", int, "Seconds without any worker, then it ends [60]."),
    ),
)
OUTPUT = _o("--output", "head.output", str, "binary, multiclass, multilabel, or auto: as many labels as there are.")
HEAD: Panel = (
    "Head",
    (
        _o("--head", "head.kind", str, "robert, or to compare it: mean, first-chunk, tobert [robert]."),
        OUTPUT,
        _o("--hidden", "head.hidden", int, "Units of the LSTM; width of ToBERT [100]."),
        _o("--layers", "head.layers", int, "Layers of the LSTM or of ToBERT [1]."),
        _o("--bidirectional", "head.bidirectional", bool, "Read chunks backwards as well."),
        _o("--dropout", "head.dropout", float, "Share of the document vector dropped while learning [0]."),
        _o("--dense-units", "head.dense_units", int, "A ReLU layer before the logits; the paper has 30 [none]."),
        _o("--attention-heads", "head.attention_heads", int, "Attention heads of ToBERT [4]."),
    ),
)
LABELS_WITH: Panel = (
    SETTINGS[0],
    (_o("--model", "model", str, "Folder of the head that labels [the one promoted last, else `model`]."),),
)
GATE: Panel = (
    "Gate",
    (
        _o("--max-flip-share", "gate.max_flip_share", float, "Documents that may get another label [0.05]."),
        _o(
            "--max-distribution-change",
            "gate.max_distribution_change",
            float,
            "How far the distribution of labels may shift (total variation) [0.05].",
        ),
        _o(
            "--max-accuracy-drop",
            "gate.max_accuracy_drop",
            float,
            "Accuracy that may be lost where the truth is known [0].",
        ),
        _o("--min-documents", "gate.min_documents", int, "Documents that must have been compared [100]."),
    ),
)
VECTORS = frozenset(option.setting for option in SETTINGS[1] if option.setting.startswith(("encoder.", "chunking.")))
"""What decides vectors: means nothing to a command that makes none and reads those that a head was made for."""
TARGET_PRECISION = _o(
    "--target-precision",
    "training.target_precision",
    float,
    "Withhold labels for review below the probability that gives this precision [none are].",
)
LABEL_SEPARATOR = _o("--label-separator", "training.label_separator", str, "Between labels, if multilabel [|].")
TRAINING: Panel = (
    "Training",
    (
        _o("--seed", "training.seed", int, "The same seed gives the same head [0]."),
        _o("--epochs", "training.epochs", int, "At most so many passes over the documents [40]."),
        _o("--patience", "training.patience", int, "Epochs without a better validation loss before it ends [6]."),
        _o("--learning-rate", "training.learning_rate", float, "Of AdamW [0.002]."),
        _o("--weight-decay", "training.weight_decay", float, "Of AdamW [0.01]."),
        _o("--batch-documents", "training.batch_documents", int, "Documents of a step [64]."),
        _o(
            "--validation-fraction",
            "training.validation_fraction",
            float,
            "Share of the texts held out to stop and calibrate by [0.15].",
        ),
        _o("--class-weight", "training.class_weight", str, "balanced: rare labels count as much [none]."),
        _o("--positive-label", "training.positive_label", str, "Which of two labels is the positive one."),
        _o(
            "--positive-threshold",
            "training.positive_threshold",
            float,
            "Probability from which on the positive label is given [0.5].",
        ),
        TARGET_PRECISION,
        LABEL_SEPARATOR,
    ),
)
FINETUNE: Panel = (
    "Fine-tuning",
    (
        _o("--epochs", "finetune.epochs", float, "Passes over the documents [4; 8 for few, 16 for long ones]."),
        _o("--learning-rate", "finetune.learning_rate", float, "Of AdamW, for the last layer [0.00015]."),
        _o("--layer-decay", "finetune.layer_decay", float, "Each layer below learns so many times as fast [1]."),
        _o("--frozen-layers", "finetune.frozen_layers", int, "Lowest layers that stay as they are [0]."),
        _o("--dropout", "finetune.dropout", float, "Share of activations dropped while learning [0.1]."),
        _o("--chunks-per-document", "finetune.chunks_per_document", int, "Chunks of a document in an epoch [4]."),
        _o("--step-tokens", "finetune.step_tokens", int, "Tokens of an optimiser step [6400]."),
        _o("--batch-tokens", "finetune.batch_tokens", int, "Tokens computed at once [3200; a step on a GPU]."),
        _o("--patience", "finetune.patience", int, "Evaluations without a lower loss before it ends [3 or a third]."),
        _o("--seed", "finetune.seed", int, "Of chunks, weights and dropout [0]."),
    ),
)


def store_address(store: str | None, config: Path | None) -> str:
    """The store's address, for commands that need no corpus."""
    from robert_pipeline.storage.settings import load_settings

    return load_settings({"store": store}, file=config).store


def with_settings(
    command: Callable[..., None], *panels: Panel, like_head: bool = False, without: Container[str] = ()
) -> Callable[..., None]:
    """Give a command every settings option, and those of `panels`; it takes `settings: Settings` first.

    Where the command has an option of the same name, that is its own; `without` are settings that mean nothing to it.
    With `like_head`, the command gets the head that labels (see `load_settings`), and an encoder or a chunking that is
    named nowhere is that of this head.
    """
    own = [p for p in inspect.signature(command).parameters.values() if p.name != "settings"]
    taken = {p.name for p in own}
    shared: dict[str, tuple[SettingOption, str]] = {}
    for panel, options in (*panels, SETTINGS):
        for option in options:
            if option.name not in taken and option.setting not in without:
                shared.setdefault(option.name, (option, panel))
    config = typer.Option("--config", help="Settings file [./robert.toml].", rich_help_panel=SETTINGS[0])

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        from robert_pipeline.storage.settings import load_settings

        values = {option.setting: given.pop(name) for name, (option, _) in shared.items()}
        command(load_settings(values, file=given.pop("config"), like_head=like_head), **given)

    parameters = [
        *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own),
        *(option.parameter(panel) for option, panel in shared.values()),
        inspect.Parameter(
            "config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[Path | None, config]
        ),
    ]
    wrapped.__signature__ = inspect.Signature(parameters, return_annotation=None)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped
