"""Commands that give labels: `score`, `publish`, all in one (`label`), and `predict` without a warehouse."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robert_pipeline.cli.options import LABELS_WITH, Force, Partitions, with_settings
from robert_pipeline.config import Settings
from robert_pipeline.terminal import counted, say, show_table, work_progress

if TYPE_CHECKING:
    from robert_pipeline.runs.publish import PublishReport


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("score")(with_settings(score, LABELS_WITH, like_head=True))
    app.command("publish")(with_settings(publish, LABELS_WITH, like_head=True))
    app.command("label")(with_settings(label, LABELS_WITH, like_head=True))
    app.command("predict")(predict)


def score(
    settings: Settings,
    partition: Partitions = None,
    contributions: Annotated[
        bool, typer.Option("--contributions", help="Write what every chunk contributed to a side table in the store.")
    ] = False,
) -> None:
    """Label embedded documents with the head that was promoted last, or the one in --model.

    The encoder and the chunking are those of the head, unless others are named.

    Example: `robert score --corpus corpus --model model`
    """
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.plan import plan as run_plan
    from robert_pipeline.runs.score import score as run_score

    planned = run_plan(settings, partitions=partition or (), run_id=new_run_id())
    with work_progress({"scoring": planned.document_count}):
        report = run_score(planned, model=settings.model, contributions=contributions)
    say(f"{report.scored_shard_count} of {report.shard_count} shards scored by head {report.head_fingerprint}")
    if contributions:
        say(f"contributions of every chunk are in {settings.store}/contributions/{report.head_fingerprint}")


def publish(settings: Settings, partition: Partitions = None, force: Force = False) -> None:
    """Replace partitions of the published table by their scored documents.

    Example: `robert publish --corpus corpus --warehouse warehouse --partition day=2026-01-31`
    """
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.plan import plan as run_plan
    from robert_pipeline.runs.publish import publish as run_publish

    planned = run_plan(settings, partitions=partition or (), run_id=new_run_id())
    _show_published(run_publish(settings, planned, force=force))


def label(settings: Settings, partition: Partitions = None, force: Force = False) -> None:
    """Embed, score and publish, in one go.

    The encoder and the chunking are those of the head, unless others are named.

    Example: `robert label --corpus corpus --model model --partition day=2026-01-31`
    """
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.label import label as run_label
    from robert_pipeline.runs.plan import plan as run_plan

    run_id = new_run_id()
    planned = run_plan(settings, partitions=partition or (), run_id=run_id)
    with work_progress({"embedding": planned.missing_document_count, "scoring": planned.document_count}):
        report = run_label(settings, planned, force=force)
    _show_published(report.publish)


def predict(
    source: Annotated[Path, typer.Argument(metavar="IN.parquet", help="Documents to label.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Folder of a head [the one promoted last, else `model`].")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Where the prediction rows go.")] = Path("predictions.parquet"),
    store: Annotated[str | None, typer.Option("--store", help="Keep vectors here [they are not kept].")] = None,
    doc_id_column: Annotated[str | None, typer.Option("--doc-id-column", help="Column of the ids [doc_id].")] = None,
    text_column: Annotated[str | None, typer.Option("--text-column", help="Column of the texts [text].")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Settings file [./robert.toml].")] = None,
) -> None:
    """Label a Parquet file into another: the quickest way to try a model.

    Needs no corpus and no store, and with --model no warehouse; the head names its encoder. Rows that cannot be
    labelled go to OUT.rejects.parquet, with a reason.

    Example: `robert predict articles.parquet --model model --out labelled.parquet`
    """
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.plan import corpus_documents
    from robert_pipeline.runs.predict import predict as run_predict
    from robert_pipeline.storage.settings import load_settings

    options = {"model": model, "columns.doc_id": doc_id_column, "columns.text": text_column}
    settings = load_settings(options, file=config, like_head=True)
    documents = corpus_documents(str(source), settings.columns)
    with work_progress({"embedding": documents, "scoring": documents}):
        report = run_predict(
            str(source),
            model=settings.model,
            out=str(out),
            columns=settings.columns,
            embedding=settings.embedding,
            store=store,
            run_id=new_run_id(),
        )
    say(f"{counted(report.labelled, 'document')} labelled: {report.path}")
    if report.rejects_path:
        say(f"{report.rejected:,} rejected, with reasons: {report.rejects_path}")


def _show_published(report: "PublishReport") -> None:
    show_table(
        "",
        ("partition", "documents", "labelled", "rejected", "table"),
        [
            (p.partition, f"{p.documents:,}", f"{p.labelled:,}", f"{p.rejected:,}", str(p.commit))
            for p in report.partitions
        ],
    )
    say(f"published in {report.location}")
