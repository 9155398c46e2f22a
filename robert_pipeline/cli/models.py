"""Commands about models: `embed` the texts to learn from, `train` a head on them."""

from typing import Annotated

import typer

from robert_pipeline.cli.options import Partitions, with_settings
from robert_pipeline.config import Settings
from robert_pipeline.terminal import embedding_progress, say, training_progress


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("embed")(with_settings(embed))
    app.command("train")(with_settings(train))


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
    counts, done = report.counts, report.embedded
    say(
        f"{counts.documents:,} documents: {counts.embedded:,} embedded, {counts.rejected:,} rejected; "
        f"{counts.chunks:,} chunks, {counts.tokens:,} tokens"
    )
    say(
        f"this run: {report.embedded_unit_count} of {report.unit_count} units, {done.embedded:,} documents embedded "
        f"({done.reused:,} of them found in the store); {report.documents_per_second:,.1f} documents/s, "
        f"{report.tokens_per_second:,.0f} tokens/s encoded"
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
