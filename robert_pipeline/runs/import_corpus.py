"""Turn any `datasets` source into a corpus: a hub name, or local CSV, JSON, Parquet or text files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from robert_pipeline.config import Columns
from robert_pipeline.errors import ConfigError, CorpusError
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.store import partition_folder
from schemas import DOCUMENTS

if TYPE_CHECKING:
    import datasets

BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "text"}
ROW_GROUP_ROWS = 1_000
BATCH_ROWS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportReport:
    """The corpus file that was written."""

    path: str
    partition: str
    documents: int
    labelled: int


def import_corpus(
    source: str, *, out: str, columns: Columns, split: str = "train", partition: str | None = None
) -> ImportReport:
    """Write one split of `source` as one partition (`split=<split>` unless named) of the corpus at `out`.

    Rows are kept as they are, the unusable ones too: those are rejected, with a reason, when they are embedded. Where
    there is no id column, ids are `<partition>-<row>`. Text files become one document each. Raises CorpusError or
    ConfigError, naming file and column.
    """
    data = _load(source, split)
    _check_columns(source, data, columns)
    name = partition or f"split={split}"
    path = f"{partition_folder(name)}/part-00000.parquet"
    labelled = 0
    files = Files(out)
    with (
        files.writing(path) as temporary,
        pq.ParquetWriter(
            temporary, _as_nullable(DOCUMENTS.schema), compression="zstd", write_page_checksum=True
        ) as writer,
    ):
        for rows in _tables(data, columns, name):
            labelled += rows.num_rows - rows.column("label").null_count
            writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)
    return ImportReport(path=files.describe(path), partition=name, documents=len(data), labelled=labelled)


def _load(source: str, split: str) -> "datasets.Dataset":
    import datasets

    datasets.disable_progress_bars()
    place = Path(source).expanduser()
    if not place.exists() and (place.suffix in BUILDERS or source.startswith((".", "/", "~"))):
        raise CorpusError(f"{source} does not exist", fix="Give a file, a folder of files, or a hub name")
    try:
        if not place.exists():
            return datasets.load_dataset(source, split=split)
        found = sorted(p for p in place.rglob("*") if p.suffix in BUILDERS) if place.is_dir() else [place]
        kinds = sorted({p.suffix for p in found})
        if len({BUILDERS.get(kind) for kind in kinds}) != 1 or kinds[0] not in BUILDERS:
            raise CorpusError(
                f"{source} holds {', '.join(kinds) or 'no data files'}",
                fix=f"Give files of one kind: {', '.join(BUILDERS)}",
            )
        options = {".tsv": {"sep": "\t"}, ".txt": {"sample_by": "document"}}.get(kinds[0], {})
        return datasets.load_dataset(
            BUILDERS[kinds[0]], data_files={split: [str(p) for p in found]}, split=split, **options
        )
    except (datasets.exceptions.DatasetsError, OSError, ValueError, pa.ArrowException) as error:
        cause = error.__cause__ or error
        problem = str(cause).strip().split("\n")[0].rstrip(".") or type(cause).__name__
        raise CorpusError(
            f"{source} cannot be imported: {problem}", fix="Check the name, the split and the file"
        ) from error


def _check_columns(source: str, data: "datasets.Dataset", columns: Columns) -> None:
    import datasets

    if columns.text not in data.column_names:
        raise CorpusError(
            f"{source} has no column '{columns.text}'",
            fix=f"Name the right one with --text-column; it has: {', '.join(data.column_names[:12])}",
        )
    feature = data.features[columns.text]
    if not isinstance(feature, datasets.Value) or "string" not in str(feature.dtype):
        raise CorpusError(
            f"column '{columns.text}' of {source} is {feature}, not text", fix="Name a text column with --text-column"
        )
    defaults = Columns()
    for option, name, default in (
        ("doc-id", columns.doc_id, defaults.doc_id),
        ("label", columns.label, defaults.label),
    ):
        if name != default and name not in data.column_names:
            raise ConfigError(
                f"{source} has no column '{name}'",
                fix=f"Name the right one with --{option}-column; it has: {', '.join(data.column_names[:12])}",
            )


def _tables(data: "datasets.Dataset", columns: Columns, partition: str) -> Iterator[pa.Table]:
    import datasets

    label_names = None
    if columns.label in data.column_names and isinstance(data.features[columns.label], datasets.ClassLabel):
        label_names = pa.array(data.features[columns.label].names, pa.string())
    kept = [c for c in (columns.doc_id, columns.text, columns.label) if c in data.column_names]
    arrow = data.select_columns(kept).with_format("arrow")
    at = 0
    for rows in arrow.iter(batch_size=BATCH_ROWS):
        count = rows.num_rows
        ids = pa.array([f"{partition}-{at + i}" for i in range(count)], pa.string())
        labels = pa.nulls(count, pa.string())
        if columns.doc_id in kept:
            ids = rows.column(columns.doc_id).cast(pa.string())
        if columns.label in kept:
            values = rows.column(columns.label)
            # -1 is how datasets marks a row without a class.
            known = values.cast(pa.int64()).to_pylist() if label_names is not None else values.cast(pa.string())
            labels = (
                label_names.take(pa.array([v if v is not None and v >= 0 else None for v in known], pa.int64()))
                if label_names is not None
                else known
            )
        text = rows.column(columns.text).cast(pa.string())
        # Nullable here: a row without id or text is the corpus' to keep and the run's to reject.
        yield pa.table([ids, text, labels], schema=_as_nullable(DOCUMENTS.schema))
        at += count


def _as_nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_nullable(True) for field in schema], metadata=schema.metadata)
