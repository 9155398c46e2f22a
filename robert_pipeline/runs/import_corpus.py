"""Turn any `datasets` source into a corpus: a hub name, or local CSV, JSON, Parquet or text files."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from robert_pipeline.config import Columns
from robert_pipeline.errors import ConfigError, CorpusError
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.sources import open_source
from robert_pipeline.telemetry.watch import observed
from schemas import DOCUMENTS

FILE_NAME = "part-00000.parquet"
ROW_GROUP_ROWS = 1_000
ROW_GROUP_BYTES = 8 << 20

OnRows = Callable[[int, int | None], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportReport:
    """The corpus file that was written. `left_out` are files of a folder that are no data of a known kind."""

    path: str
    partition: str
    documents: int
    labelled: int
    left_out: tuple[str, ...]


@observed("import")
def import_corpus(
    source: str,
    *,
    out: str,
    columns: Columns | None = None,
    split: str = "train",
    subset: str | None = None,
    partition: str | None = None,
    replace: bool = False,
    on_rows: OnRows = lambda _rows, _of: None,
) -> ImportReport:
    """Write one split of `source` as one partition (`split=<split>` unless named) of the corpus at `out`.

    Rows are kept as they are, the unusable ones too: those are rejected, with a reason, when they are embedded. Where
    there is no id column, ids are `<partition>-<row>`. A text file becomes one document: its id is its place, its label
    the folder below `source` that it lies in. `subset` is the configuration of a hub data set that has several.
    `on_rows` is told the rows written and, where it is known, of how many. Raises ConfigError or CorpusError, naming
    file and column; CorpusError too where the partition holds data already, unless `replace` is set.
    """
    name = f"split={split}" if partition is None else partition
    _check_partition(name)
    files = Files(out)
    present = [entry.path for entry in files.list(name) if entry.path.rpartition("/")[0] == name]
    if present and not replace:
        raise CorpusError(
            f"partition '{name}' of corpus {out} holds data already, {present[0]} first",
            fix="Give another --partition, or replace what it holds with --replace",
        )
    data = open_source(source, columns=columns or Columns(), split=split, subset=subset)
    path = f"{name}/{FILE_NAME}"
    rows = labelled = 0
    with (
        files.writing(path) as temporary,
        pq.ParquetWriter(
            temporary, _as_nullable(DOCUMENTS.schema), compression="zstd", write_page_checksum=True
        ) as writer,
    ):
        for table in _row_groups(data.tables()):
            group = table if data.has_ids else _with_ids(table, name, rows)
            writer.write_table(group.cast(writer.schema), row_group_size=max(1, group.num_rows))
            rows += group.num_rows
            labelled += group.num_rows - group.column("label").null_count
            on_rows(rows, data.row_count)
        if not rows:
            raise CorpusError(f"{source} holds no rows", fix="Give a source with at least one document")
    for other in present:
        if other != path:
            files.delete(other)
    return ImportReport(
        path=files.describe(path), partition=name, documents=rows, labelled=labelled, left_out=data.left_out
    )


def _check_partition(name: str) -> None:
    """A partition is a folder of the corpus that its readers see."""
    for part in name.split("/"):
        if not part.strip() or part.startswith((".", "_")) or not part.isprintable():
            raise ConfigError(
                f"--partition is '{name}'",
                fix="Give names of folders, such as day=2026-01-31, that do not start with '.' or '_'",
            )


def _row_groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The tables put together until they are worth a row group."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if (
            sum(part.num_rows for part in held) >= ROW_GROUP_ROWS
            or sum(part.nbytes for part in held) >= ROW_GROUP_BYTES
        ):
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _with_ids(rows: pa.Table, partition: str, first_row: int) -> pa.Table:
    ids = pa.array([f"{partition}-{first_row + row}" for row in range(rows.num_rows)], pa.string())
    return pa.table([ids, rows.column("text"), rows.column("label")], schema=rows.schema)


def _as_nullable(schema: pa.Schema) -> pa.Schema:
    # A row without id or text is the corpus' to keep and the run's to reject.
    return pa.schema([field.with_nullable(True) for field in schema], metadata=schema.metadata)
