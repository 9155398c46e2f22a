"""Commands that give labels: `score`, `publish`, all in one (`label`), and `predict` without a warehouse."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robert_pipeline.cli.options import Partitions, with_settings
from robert_pipeline.config import Columns, Settings
from robert_pipeline.terminal import embedding_progress, say, show_table

if TYPE_CHECKING:
    from robert_pipeline.runs.publish import PublishReport


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("score")(with_settings(score))
    app.command("publish")(with_settings(publish))
    app.command("label")(with_settings(label))
    app.command("predict")(predict)


def score(
    settings: Settings,
    partition: Partitions = None,
    contributions: Annotated[
        bool, typer.Option("--contributions", help="Write what every chunk contributed to a side table in the store.")
    ] = False,
) -> None:
    """Label embedded documents with the head in --model.

    Example: `robert score --corpus corpus --model model`
    """
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.plan import plan as run_plan
    from robert_pipeline.runs.score import score as run_score

    planned = run_plan(settings, partitions=partition or (), run_id=new_run_id())
    report = run_score(planned, model=settings.model, contributions=contributions)
    say(f"{report.scored_shard_count} of {report.shard_count} shards scored by head {report.head_fingerprint}")
    if contributions:
        say(f"contributions of every chunk are in {settings.store}/contributions/{report.head_fingerprint}")


def publish(settings: Settings, partition: Partitions = None) -> None:
    """Replace partitions of the published table by their scored documents.

    Example: `robert publish --corpus corpus --warehouse warehouse --partition day=2026-01-31`
    """
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.plan import plan as run_plan
    from robert_pipeline.runs.publish import publish as run_publish

    planned = run_plan(settings, partitions=partition or (), run_id=new_run_id())
    _show_published(run_publish(settings, planned))


def label(settings: Settings, partition: Partitions = None) -> None:
    """Plan, embed, score and publish, in one go.

    Example: `robert label --corpus corpus --model model --partition day=2026-01-31`
    """
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.label import label as run_label
    from robert_pipeline.runs.plan import plan as run_plan

    run_id = new_run_id()
    planned = run_plan(settings, partitions=partition or (), run_id=run_id)
    with embedding_progress(sum(unit.document_count for unit in planned.missing)):
        report = run_label(settings, planned)
    _show_published(report.publish)


def predict(
    source: Annotated[Path, typer.Argument(metavar="IN.parquet", help="Documents to label.")],
    model: Annotated[str, typer.Option("--model", help="Folder of the trained head.")] = "model",
    out: Annotated[Path, typer.Option("--out", help="Where the prediction rows go.")] = Path("predictions.parquet"),
    store: Annotated[str | None, typer.Option("--store", help="Keep vectors here [they are not kept].")] = None,
    doc_id_column: Annotated[str, typer.Option("--doc-id-column", help="Column of the ids.")] = Columns().doc_id,
    text_column: Annotated[str, typer.Option("--text-column", help="Column of the texts.")] = Columns().text,
) -> None:
    """Label a Parquet file into another: the quickest way to try a model.

    Example: `robert predict articles.parquet --model model --out labelled.parquet`
    """
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.plan import corpus_documents
    from robert_pipeline.runs.predict import predict as run_predict

    columns = Columns(doc_id=doc_id_column, text=text_column)
    with embedding_progress(corpus_documents(str(source), columns)):
        report = run_predict(str(source), model=model, out=str(out), columns=columns, store=store, run_id=new_run_id())
    say(f"{report.labelled:,} documents labelled: {report.path}")
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
