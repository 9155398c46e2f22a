"""The options that most commands share, turned into Settings."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from robert_pipeline.config import Settings

SETTINGS_PANEL = "Settings"

Partitions = Annotated[
    list[str] | None, typer.Option("--partition", help="Corpus partition, may be repeated. All where none is given.")
]


def _option(name: str, text: str) -> Any:
    return typer.Option(name, help=text, rich_help_panel=SETTINGS_PANEL, show_default=False)


def _settings(
    corpus: Annotated[str | None, _option("--corpus", "Folder of Parquet files, or one Parquet file.")] = None,
    store: Annotated[str | None, _option("--store", "Folder of the embedding store [store].")] = None,
    model: Annotated[str | None, _option("--model", "Folder of the trained head [model].")] = None,
    warehouse: Annotated[str | None, _option("--warehouse", "Address of the published tables [warehouse].")] = None,
    encoder: Annotated[str | None, _option("--encoder", "BERT-family folder or Hugging Face hub name.")] = None,
    revision: Annotated[str | None, _option("--encoder-revision", "Hub commit, tag or branch.")] = None,
    pooling: Annotated[str | None, _option("--pooling", "auto, cls, mean or pooler.")] = None,
    precision: Annotated[str | None, _option("--precision", "auto, float32 or bfloat16.")] = None,
    chunk_tokens: Annotated[int | None, _option("--chunk-tokens", "Tokens of a chunk [200].")] = None,
    overlap_tokens: Annotated[
        int | None, _option("--overlap-tokens", "Tokens repeated by the next chunk [50].")
    ] = None,
    max_chunks: Annotated[int | None, _option("--max-chunks", "Chunks read of one document [all].")] = None,
    doc_id_column: Annotated[str | None, _option("--doc-id-column", "Corpus column of the ids [doc_id].")] = None,
    text_column: Annotated[str | None, _option("--text-column", "Corpus column of the texts [text].")] = None,
    label_column: Annotated[str | None, _option("--label-column", "Corpus column of the true labels [label].")] = None,
    config: Annotated[Path | None, _option("--config", "Settings file [./robert.toml].")] = None,
) -> Settings:
    from robert_pipeline.storage.settings import load_settings

    options = {
        "corpus": corpus,
        "store": store,
        "model": model,
        "warehouse.uri": warehouse,
        "encoder.name": encoder,
        "encoder.revision": revision,
        "encoder.pooling": pooling,
        "encoder.precision": precision,
        "chunking.chunk_tokens": chunk_tokens,
        "chunking.overlap_tokens": overlap_tokens,
        "chunking.max_chunks": max_chunks,
        "columns.doc_id": doc_id_column,
        "columns.text": text_column,
        "columns.label": label_column,
    }
    return load_settings(options, file=config)


def store_address(store: str | None, config: Path | None) -> str:
    """The store's address, for commands that need no corpus."""
    from robert_pipeline.storage.settings import load_settings

    return load_settings({"store": store, "corpus": "."}, file=config).store


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command every settings option; the command itself takes `settings: Settings` first."""
    shared = inspect.signature(_settings)
    own = [p for p in inspect.signature(command).parameters.values() if p.name != "settings"]

    @functools.wraps(command)
    def wrapped(**given: object) -> None:
        settings = _settings(**{name: given.pop(name) for name in shared.parameters})  # type: ignore[arg-type]
        command(settings, **given)

    parameters = [*own, *shared.parameters.values()]
    wrapped.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters], return_annotation=None
    )
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped
