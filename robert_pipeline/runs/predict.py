"""A Parquet file in, prediction rows out: no warehouse, and no store that stays unless one is named."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from robert_pipeline.config import Columns, Embedding, Settings
from robert_pipeline.errors import ConfigError, StoreError
from robert_pipeline.runs.embed import EmbedReport, embed_plan
from robert_pipeline.runs.outcome import Outcome, partition_outcome
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.score import load_head_for, score
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.heads import load_head
from robert_pipeline.storage.rejects import write_rejects
from robert_pipeline.telemetry.instruments import DOCUMENTS, Point
from robert_pipeline.telemetry.watch import observed
from schemas import PREDICTIONS

PREDICTED = {"doc_id", "candidate_label", "head_fingerprint", "run_id"}
REJECTED = {"doc_id", "reason", "run_id"}
"""Columns by which rows of this package are known, whatever their contract's version."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictReport:
    """What was written where. `rejects_path` is None where every row was labelled."""

    path: str
    labelled: int
    rejected: int
    rejects_path: str | None
    embed: EmbedReport

    def points(self) -> Iterator[Point]:
        """What became of the documents; a file has no partition."""
        yield DOCUMENTS.point(self.labelled, stage="predict", partition="", result="labelled")
        yield DOCUMENTS.point(self.rejected, stage="predict", partition="", result="rejected")


@observed("predict")
def predict(
    source: str,
    *,
    model: str,
    out: str,
    columns: Columns | None = None,
    embedding: Embedding | None = None,
    store: str | None = None,
    run_id: str,
) -> PredictReport:
    """Label every document of a Parquet file (or folder) with the head in folder `model` and the encoder it names.

    Rows of the predictions contract go to the local file `out`, in the order of the input; rows that cannot be labelled
    to `<out>.rejects.parquet`. With `store`, vectors are kept there and found again. Raises a RobertError, before
    anything is embedded where `out` cannot be written or would change what is read.
    """
    _check_out(out, source)
    head = load_head(model)
    with tempfile.TemporaryDirectory(prefix="robert-predict-") as temporary:
        settings = Settings(
            corpus=source,
            store=store or temporary,
            model=model,
            encoder=head.origin.encoder,
            chunking=head.origin.chunking,
            columns=columns or Columns(),
            embedding=embedding or Embedding(),
        )
        planned = plan(settings, run_id=run_id)
        load_head_for(planned, model=model)
        embedded = embed_plan(planned)
        planned = planned.embedded()
        scored = score(planned, model=model)
        outcomes = [partition_outcome(planned, part, scored.head_fingerprint) for part in planned.partitions]
        _write_predictions(out, outcomes)
        rejects_path = _write_rejects(out, outcomes)
    return PredictReport(
        path=out,
        labelled=sum(outcome.labelled for outcome in outcomes),
        rejected=sum(outcome.rejects.num_rows for outcome in outcomes),
        rejects_path=rejects_path,
        embed=embedded,
    )


def _check_out(out: str, source: str) -> None:
    place = Path(out).absolute()
    if "://" in out or place.suffix != ".parquet":
        raise ConfigError(f"--out is '{out}'", fix="Give a local file name that ends in .parquet")
    if "://" not in source:
        read = Path(source).expanduser().resolve()
        if read in (place.resolve(), _rejects_place(out).resolve()) or (
            read.is_dir() and place.resolve().is_relative_to(read)
        ):
            raise ConfigError(
                f"--out is '{out}', which lies in what is read, '{source}'", fix="Give a place outside of it"
            )
    for there, columns in ((place, PREDICTED), (_rejects_place(out), REJECTED)):
        if there.exists() and not _has_columns(there, columns):
            raise ConfigError(
                f"--out is '{out}', but {there} is there, and not of an earlier predict",
                fix="Give another name, or move that file away",
            )
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place.parent):
            pass
    except OSError as error:
        raise StoreError(
            f"cannot write {out}: {error.strerror}", fix="Give --out a place that can be written"
        ) from error


def _has_columns(file: Path, columns: set[str]) -> bool:
    try:
        return columns <= set(pq.read_schema(file).names)
    except (pa.ArrowInvalid, OSError):
        return False


def _rejects_place(out: str) -> Path:
    return Path(f"{out.removesuffix('.parquet')}.rejects.parquet").absolute()


def _write_predictions(out: str, outcomes: Sequence[Outcome]) -> None:
    files = Files(str(Path(out).absolute().parent))
    with (
        files.writing(Path(out).name) as place,
        pq.ParquetWriter(place, PREDICTIONS.schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for outcome in outcomes:
            for batch in outcome.predictions():
                writer.write_batch(batch)


def _write_rejects(out: str, outcomes: Sequence[Outcome]) -> str | None:
    place = _rejects_place(out)
    rows = pa.concat_tables([outcome.rejects for outcome in outcomes])
    if not rows.num_rows:
        place.unlink(missing_ok=True)  # of an earlier run with the same name
        return None
    write_rejects(Files(str(place.parent)), place.name, rows)
    return f"{out.removesuffix('.parquet')}.rejects.parquet"
