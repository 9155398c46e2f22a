"""What `robert import` reads: a data set of the Hugging Face hub, or local CSV, JSON, Parquet or text files.

A name enters; rows of (doc_id, text, label), all strings, leave in small tables. CSV cells are taken as they are
written, so that '007' stays an id and 'None' a label. Never leaves a file or a row out in silence.
"""

import contextlib
import csv
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from robert_pipeline.config import Columns
from robert_pipeline.errors import ConfigError, CorpusError
from robert_pipeline.storage.json_source import json_tables, json_types

if TYPE_CHECKING:
    import datasets

KINDS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "text",
}
ROWS = pa.schema({"doc_id": pa.string(), "text": pa.string(), "label": pa.string()})
BATCH_ROWS = 100
LONGEST_CSV_ROW_BYTES = 32 << 20
LONGEST_REASON = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class _Data:
    """An opened data set: the columns it has, and what streams its tables."""

    features: "datasets.Features"
    tables: Callable[[], Iterator[pa.Table]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A data set found readable."""

    tables: Callable[[], Iterator[pa.Table]]
    has_ids: bool
    """Whether it has a column of ids; if not, `doc_id` is null in every row."""
    row_count: int | None
    """None where it is known only at the end."""
    left_out: tuple[str, ...] = ()
    """Files of the folder that hold no data of a known kind."""


def open_source(source: str, *, columns: Columns, split: str = "train", subset: str | None = None) -> Source:
    """Find a source and check its columns. Raises CorpusError or ConfigError, naming file and column."""
    place = Path(source).expanduser()
    if source.strip() and place.exists():
        return _open_files(source, place, columns)
    if place.suffix.lower() in KINDS or source.startswith((".", "/", "~")) or not source.strip():
        raise CorpusError(f"'{source}' does not exist", fix="Give a file, a folder of files, or a hub name")
    return _open_hub(source, columns, split, subset)


def _open_hub(source: str, columns: Columns, split: str, subset: str | None) -> Source:
    import datasets

    try:
        with _quiet(bars=sys.stderr.isatty()):
            data = datasets.load_dataset(source, subset, split=split)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise CorpusError(
            f"'{source}' is neither a file here nor to be had from the Hugging Face hub: "
            f"{_reason(error.__cause__ or error)}",
            fix="Check the spelling, --split, --subset and the network",
        ) from error
    rows = data.select_columns(_check_columns(source, data.features, columns))
    return Source(
        tables=lambda: _as_rows(_Data(features=rows.features, tables=lambda: _arrow(rows)), columns),
        has_ids=columns.doc_id in rows.features,
        row_count=len(rows),
    )


def _open_files(source: str, place: Path, columns: Columns) -> Source:
    files = [place]
    if place.is_dir():
        inside = [path.relative_to(place) for path in sorted(place.rglob("*")) if path.is_file()]
        files = [place / path for path in inside if not any(part.startswith((".", "_")) for part in path.parts)]
    kinds = {kind for path in files if (kind := KINDS.get(path.suffix.lower()))}
    if len(kinds) != 1:
        found = ", ".join(sorted({path.suffix or path.name for path in files})) or "no files"
        raise CorpusError(f"{source} holds {found}", fix=f"Give files of one kind: {', '.join(KINDS)}")
    (kind,) = kinds
    data = [path for path in files if path.suffix.lower() in KINDS]
    left_out = tuple(str(path.relative_to(place)) for path in files if path not in set(data))
    if kind == "text":
        root = place if place.is_dir() else place.parent
        return Source(tables=lambda: _text_rows(data, root), has_ids=True, row_count=len(data), left_out=left_out)
    if kind == "parquet":
        with _naming(source, data, pq.read_metadata):
            row_count = sum(pq.read_metadata(path).num_rows for path in data)
    else:
        row_count = None
    load = {"csv": _load_csv, "tsv": _load_csv, "json": _load_json, "parquet": _load_parquet}[kind]

    def exhaust(path: Path) -> None:
        for _ in _as_rows(load([path], columns), columns):
            pass

    with _naming(source, data, exhaust):  # what concerns the columns is known before anything is written
        opened = load(data, columns)

    def tables() -> Iterator[pa.Table]:
        with _naming(source, data, exhaust):
            yield from _as_rows(opened, columns)

    has_ids = columns.doc_id in opened.features
    return Source(tables=tables, has_ids=has_ids, row_count=row_count, left_out=left_out)


@contextlib.contextmanager
def _naming(source: str, paths: Sequence[Path], attempt: Callable[[Path], object]) -> Iterator[None]:
    """Turn what readers raise into a CorpusError that names the file: the first with which `attempt` fails."""
    import datasets

    kinds = (datasets.exceptions.DatasetsError, OSError, ValueError, TypeError, KeyError, pa.ArrowException)
    try:
        with _quiet():
            yield
    except kinds as error:
        culprit, cause = source, error
        for path in paths:
            try:
                with _quiet():
                    attempt(path)
            except kinds as own:
                culprit, cause = str(path), own
                break
        raise _unreadable(culprit, cause) from error


def _unreadable(place: str, error: BaseException) -> CorpusError:
    cause = error.__cause__ or error
    is_text = isinstance(cause, UnicodeDecodeError) or "UTF8" in str(cause)
    return CorpusError(
        f"{place} cannot be imported: {_reason(cause)}",
        fix="Convert it to UTF-8, for example with iconv" if is_text else "Mend the file",
    )


def _reason(error: BaseException) -> str:
    return (" ".join(str(error).split())[:LONGEST_REASON].rstrip(".")) or type(error).__name__


@contextlib.contextmanager
def _quiet(*, bars: bool = False) -> Iterator[None]:
    """No log lines and, but for `bars`, no progress of the libraries: what they have to say is in their errors."""
    import datasets

    (datasets.enable_progress_bars if bars else datasets.disable_progress_bars)()
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _stream(builder: str, paths: Sequence[Path], **options: Any) -> "datasets.IterableDataset":
    import datasets

    # Streamed: no second copy of the data in a cache.
    return datasets.load_dataset(
        builder, data_files={"train": [str(path) for path in paths]}, split="train", streaming=True, **options
    )


def _arrow(data: "datasets.Dataset | datasets.IterableDataset") -> Iterator[pa.Table]:
    yield from data.with_format("arrow").iter(batch_size=BATCH_ROWS)


def _load_csv(paths: Sequence[Path], columns: Columns) -> _Data:
    import datasets

    each: list[datasets.Features] = []
    quoted: dict[Path, bool] = {}
    for path in paths:
        quoted[path] = _is_quoted(path)
        names = _header(path, quoted=quoted[path])
        for name in (columns.doc_id, columns.text, columns.label):
            if names.count(name) > 1:
                raise CorpusError(f"{path} has more than one column '{name}'", fix="Rename one of them")
        each.append(datasets.Features(dict.fromkeys(names, datasets.Value("string"))))
    kept = _check_files(paths, each, columns)
    return _Data(
        features=each[0], tables=lambda: (table for path in paths for table in _csv_tables(path, kept, quoted[path]))
    )


def _header(path: Path, *, quoted: bool) -> list[str]:
    """Names of the columns."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        if quoted:
            return next(csv.reader(file, delimiter=_separator(path)), [])
        return file.readline().rstrip("\r\n").split(_separator(path))


def _is_quoted(path: Path) -> bool:
    """Whether quotes enclose cells (RFC 4180), as always in a .csv. In a .tsv they do, or are characters as any other.

    Raises CorpusError where rows would run together without a word: a .csv with a quote that encloses no whole cell, a
    .tsv of which nobody can tell what is meant.
    """
    csv.field_size_limit(LONGEST_CSV_ROW_BYTES)
    is_tsv = _separator(path) == "\t"
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file, delimiter=_separator(path), strict=True)
        try:
            for row in rows:
                if is_tsv and any("\t" in cell and "\n" in cell for cell in row):
                    raise CorpusError(
                        f"{path} cannot be imported: line {rows.line_num} ends a quote that holds tabs and line "
                        "breaks: one cell or several rows",
                        fix="Convert it to .csv or .jsonl",
                    )
        except csv.Error as error:
            if is_tsv:
                return False
            raise CorpusError(
                f"{path} cannot be imported: line {rows.line_num}: {error}",
                fix="Mend the file: quotes enclose the whole cell, and are doubled inside it",
            ) from error
    return True


def _csv_tables(path: Path, names: Sequence[str], quoted: bool) -> Iterator[pa.Table]:
    # Not by way of pandas, which cuts a row that has more cells than the header has names.
    reader = pacsv.open_csv(
        path,
        read_options=pacsv.ReadOptions(block_size=LONGEST_CSV_ROW_BYTES),
        parse_options=pacsv.ParseOptions(
            delimiter=_separator(path), quote_char='"' if quoted else False, newlines_in_values=quoted
        ),
        convert_options=pacsv.ConvertOptions(
            include_columns=names,
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
        ),
    )
    for batch in reader:
        yield pa.Table.from_batches([batch])


def _separator(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _load_json(paths: Sequence[Path], columns: Columns) -> _Data:
    import datasets

    features = datasets.Features()
    for path in paths:
        own = datasets.Features.from_arrow_schema(pa.schema(list(json_types(path).items())))
        for role, name in (("text", columns.text), ("doc-id", columns.doc_id), ("label", columns.label)):
            if name in own:
                _check_type(str(path), own[name], role, name)
        features.update(own)
    if not features:
        raise ValueError("it holds no rows")
    kept = _check_columns(str(paths[0]), features, columns)
    as_text = datasets.Features({**features, **{name: datasets.Value("string") for name in kept}})
    return _Data(features=as_text, tables=lambda: (table for path in paths for table in json_tables(path, kept)))


def _load_parquet(paths: Sequence[Path], columns: Columns) -> _Data:
    import datasets

    each = [datasets.Features.from_arrow_schema(pq.read_schema(path)) for path in paths]
    kept = _check_files(paths, each, columns)
    return _Data(features=each[0], tables=lambda: _arrow(_stream("parquet", paths, columns=kept)))


def _text_rows(paths: Sequence[Path], root: Path) -> Iterator[pa.Table]:
    """A document a file: its id is the file's place, its label the folder it lies in. Bytes are kept as they are."""
    for path in paths:
        place = path.relative_to(root)
        if not _is_text(str(place)):
            raise CorpusError(
                f"{str(root).encode(errors='replace').decode()} holds {str(place)!r}, a name that is not UTF-8",
                fix="Rename the file: its name becomes the id of its document",
            )
        try:
            content = path.read_bytes()
        except OSError as error:
            raise _unreadable(str(path), error) from error
        offsets = pa.array([0, len(content)], pa.int32()).buffers()[1]
        text = pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(content)])
        label = place.parent.name or None
        yield pa.table([pa.array([str(place)]), text, pa.array([label], pa.string())], schema=ROWS)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_files(paths: Sequence[Path], each: "Sequence[datasets.Features]", columns: Columns) -> list[str]:
    """The columns to read, which all files must have."""
    kept = [_check_columns(str(path), features, columns) for path, features in zip(paths, each, strict=True)]
    for path, names in zip(paths, kept, strict=True):
        for name in set(names) ^ set(kept[0]):
            lacking, having = (path, paths[0]) if name in kept[0] else (paths[0], path)
            raise CorpusError(
                f"{lacking} has no column '{name}', {having} has one", fix="Give it to both, or import them apart"
            )
    return kept[0]


def _check_columns(source: str, features: "datasets.Features", columns: Columns) -> list[str]:
    """The columns to read, of those that `columns` names: ids and labels need not be there unless named on purpose."""
    usual = Columns()
    kept: list[str] = []
    for role, name, default in (
        ("text", columns.text, None),
        ("doc-id", columns.doc_id, usual.doc_id),
        ("label", columns.label, usual.label),
    ):
        if name in features:
            _check_type(source, features[name], role, name)
            kept.append(name)
        elif name != default:
            kind = CorpusError if role == "text" else ConfigError
            raise kind(
                f"{source} has no column '{name}'",
                fix=f"Name the right one with --{role}-column; it has: {', '.join(list(features)[:12])}",
            )
    return kept


def _check_type(source: str, feature: object, role: str, name: str) -> None:
    import datasets

    allowed = {
        "text": ("string", "large_string", "string_view", "null"),
        "doc-id": ("string", "int", "uint", "large_string", "string_view", "null"),
        "label": ("string", "int", "uint", "bool", "large_string", "string_view", "null"),
    }[role]
    named = role == "label" and isinstance(feature, datasets.ClassLabel)
    if not named and not (
        isinstance(feature, datasets.Value) and str(feature.dtype).rstrip("0123456789").rstrip() in allowed
    ):
        kind = feature.dtype if isinstance(feature, datasets.Value) else type(feature).__name__
        wanted = "text" if role == "text" else "text or integer"
        raise CorpusError(
            f"column '{name}' of {source} is {kind}, not {wanted}", fix=f"Name another one with --{role}-column"
        )


def _as_rows(data: _Data, columns: Columns) -> Iterator[pa.Table]:
    import datasets

    feature = data.features.get(columns.label)
    label_names = pa.array(feature.names, pa.string()) if isinstance(feature, datasets.ClassLabel) else None
    for table in data.tables():

        def column(name: str, table: pa.Table = table) -> pa.ChunkedArray:
            if name not in table.column_names:
                return pa.chunked_array([pa.nulls(table.num_rows, pa.string())])
            if label_names is None or name != columns.label:
                return table.column(name).cast(pa.string())
            # -1 is how datasets marks a row without a class.
            known = [value if value is not None and value >= 0 else None for value in table.column(name).to_pylist()]
            return pa.chunked_array([label_names.take(pa.array(known, pa.int64()))])

        yield pa.table([column(columns.doc_id), column(columns.text), column(columns.label)], schema=ROWS)
