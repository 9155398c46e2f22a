"""The options that most commands share, turned into Settings."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from robert_pipeline.config import EncoderSource, Settings

SETTINGS_PANEL = "Settings"

Partitions = Annotated[
    list[str] | None, typer.Option("--partition", help="Corpus partition, may be repeated. All where none is given.")
]


def _option(name: str, text: str) -> Any:
    return typer.Option(name, help=text, rich_help_panel=SETTINGS_PANEL, show_default=False)


def _settings(
    like_head: bool,
    corpus: Annotated[str | None, _option("--corpus", "Folder of Parquet files, or one Parquet file.")] = None,
    store: Annotated[str | None, _option("--store", "Folder of the embedding store [store].")] = None,
    model: Annotated[str | None, _option("--model", "Folder of the trained head [model].")] = None,
    warehouse: Annotated[str | None, _option("--warehouse", "Address of the published tables [warehouse].")] = None,
    sink: Annotated[
        str | None, _option("--sink", "iceberg, delta, parquet, postgres, duckdb or bigquery [iceberg].")
    ] = None,
    encoder: Annotated[
        str | None, _option("--encoder", f"BERT-family folder or hub name [{EncoderSource().name}].")
    ] = None,
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
        "warehouse.sink": sink,
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
    return load_settings(options, file=config, like_head=like_head)


def with_settings(command: Callable[..., None], *, like_head: bool = False) -> Callable[..., None]:
    """Give a command every settings option; the command itself takes `settings: Settings` first.

    With `like_head`, an encoder or a chunking that is named nowhere is that of the head in --model.
    """
    shared = [p for p in inspect.signature(_settings).parameters.values() if p.name != "like_head"]
    own = [p for p in inspect.signature(command).parameters.values() if p.name != "settings"]

    @functools.wraps(command)
    def wrapped(**given: object) -> None:
        options = {p.name: given.pop(p.name) for p in shared}
        settings = _settings(like_head, **options)  # type: ignore[arg-type]
        command(settings, **given)

    parameters = [*own, *shared]
    wrapped.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters], return_annotation=None
    )
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped
