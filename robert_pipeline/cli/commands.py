"""The commands. Each holds one call to the run that does the work; what it imports it imports when called."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robert_pipeline.cli.options import with_settings
from robert_pipeline.config import Columns, Settings, Warehouse
from robert_pipeline.terminal import embedding_progress, say, show_arrow, show_table, training_progress

if TYPE_CHECKING:
    from robert_pipeline.runs.publish import PublishReport

Partitions = Annotated[
    list[str] | None, typer.Option("--partition", help="Corpus partition, may be repeated. All where none is given.")
]


def register(app: typer.Typer) -> None:
    """Give the program its commands, in the order of a first use."""
    app.command("import")(import_)
    for name, command in (
        ("plan", plan),
        ("embed", embed),
        ("train", train),
        ("score", score),
        ("publish", publish),
        ("label", label),
    ):
        app.command(name)(with_settings(command))
    app.command("predict")(predict)
    app.command("query")(query)


def import_(
    source: Annotated[str, typer.Argument(help="Hub name, file, or folder of CSV, JSON, Parquet or text files.")],
    out: Annotated[str, typer.Option("--out", help="Folder of the corpus.")] = "corpus",
    split: Annotated[str, typer.Option("--split", help="Split of a hub data set.")] = "train",
    partition: Annotated[str | None, typer.Option("--partition", help="Name of the partition [split=SPLIT].")] = None,
    doc_id_column: Annotated[str, typer.Option("--doc-id-column", help="Column of the ids.")] = Columns().doc_id,
    text_column: Annotated[str, typer.Option("--text-column", help="Column of the texts.")] = Columns().text,
    label_column: Annotated[str, typer.Option("--label-column", help="Column of the labels.")] = Columns().label,
) -> None:
    """Turn a data set into a corpus.

    Example: `robert import reviews.csv --out corpus --text-column body --partition day=2026-01-31`
    """
    from robert_pipeline.runs.import_corpus import import_corpus

    columns = Columns(doc_id=doc_id_column, text=text_column, label=label_column)
    report = import_corpus(source, out=out, columns=columns, split=split, partition=partition)
    say(f"{report.documents:,} documents, {report.labelled:,} with a label, in partition '{report.partition}'")
    say(f"written to {report.path}")


def plan(settings: Settings, partition: Partitions = None) -> None:
    """Show what there is to embed, reading no text.

    Example: `robert plan --corpus corpus`
    """
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.plan import plan as run_plan

    planned = run_plan(settings, partitions=partition or (), run_id=new_run_id())
    show_table(
        "",
        ("partition", "documents", "text MB", "units", "to embed"),
        [
            (p.partition, f"{p.document_count:,}", f"{p.text_bytes / 1e6:,.1f}", len(p.units), len(p.missing))
            for p in planned.partitions
        ],
    )


def embed(settings: Settings, partition: Partitions = None) -> None:
    """Embed every chunk of every document that has no vectors yet.

    Example: `robert embed --corpus corpus --encoder bert-base-uncased --partition day=2026-01-31`
    """
    from robert_pipeline.runs.embed import EmbedReport, embed_plan
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.plan import plan as run_plan

    planned = run_plan(settings, partitions=partition or (), run_id=new_run_id())
    with embedding_progress(sum(unit.document_count for unit in planned.missing)):
        report: EmbedReport = embed_plan(planned)
    counts = report.counts
    say(
        f"{counts.documents:,} documents: {counts.embedded:,} embedded, {counts.rejected:,} rejected; "
        f"{counts.chunks:,} chunks, {counts.tokens:,} tokens"
    )
    say(
        f"this run: {report.embedded_unit_count} of {report.unit_count} units, "
        f"{report.documents_per_second:,.1f} documents/s, {report.tokens_per_second:,.0f} tokens/s"
    )


def train(
    settings: Settings,
    partition: Partitions = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same head.")] = 0,
    hidden: Annotated[int, typer.Option("--hidden", help="Units of the LSTM.")] = 100,
) -> None:
    """Train a head on the labelled documents of embedded partitions.

    Example: `robert train --corpus corpus --label-column label --model model`
    """
    from robert_pipeline.core.head import HeadConfig
    from robert_pipeline.core.train import TrainingConfig
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.plan import plan as run_plan
    from robert_pipeline.runs.train import TrainRequest
    from robert_pipeline.runs.train import train as run_train

    planned = run_plan(settings, partitions=partition or (), run_id=new_run_id())
    request = TrainRequest(
        settings=settings,
        planned=planned,
        head=HeadConfig(hidden=hidden),
        training=TrainingConfig(seed=seed),
    )
    with training_progress() as on_epoch:
        report = run_train(request, on_epoch=on_epoch)
    say(
        f"head {report.head.fingerprint}: {len(report.head.labels)} labels, learned from "
        f"{report.learned_documents:,} documents in {report.seconds:.1f} s ({len(report.epochs)} epochs)"
    )
    say(f"right on {report.held_out_accuracy:.1%} of {report.held_out_documents:,} documents held out by text")
    say(f"saved in {report.model}")


def score(settings: Settings, partition: Partitions = None) -> None:
    """Label embedded documents with the head in --model. Needs no encoder.

    Example: `robert score --corpus corpus --model model`
    """
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.plan import plan as run_plan
    from robert_pipeline.runs.score import score as run_score

    planned = run_plan(settings, partitions=partition or (), run_id=new_run_id())
    report = run_score(planned, model=settings.model)
    say(f"{report.scored_shard_count} of {report.shard_count} shards scored by head {report.head_fingerprint}")


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


def query(
    sql: Annotated[str, typer.Argument(help="SQL in DuckDB's dialect over `predictions` and `rejects`.")],
    warehouse: Annotated[str, typer.Option("--warehouse", help="Address of the published tables.")] = Warehouse().uri,
) -> None:
    """Ask the published tables.

    Example: `robert query "SELECT label, count(*) AS documents FROM predictions GROUP BY label"`
    """
    from robert_pipeline.runs.query import query as run_query

    show_arrow(run_query(Warehouse(uri=warehouse), sql))


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
