"""Commands that make models of labelled documents: the whole recipe (`fit`), and its first stage (`finetune`)."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from robert_pipeline.cli.options import FINETUNE, Partitions, with_settings
from robert_pipeline.config import Settings
from robert_pipeline.terminal import counted, say, show_table, working_progress


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("fit")(with_settings(fit, FINETUNE))
    app.command("finetune")(with_settings(finetune, FINETUNE))


def fit(
    settings: Settings,
    source: Annotated[Path, typer.Argument(metavar="CORPUS", help="Labelled documents: a Parquet file or a folder.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the model.")] = Path("model"),
    partition: Partitions = None,
    max_minutes: Annotated[float, typer.Option("--max-minutes", help="Time for all of it.", min=1)] = 50.0,
) -> None:
    """Make a model of labelled documents: the whole recipe, with defaults that suit the corpus and the machine.

    Fine-tunes the encoder on chunks, embeds the documents, trains the LSTM and linear models of the words, weighs and
    calibrates them on documents held out, and compares with simpler models. The folder can be given to `predict`,
    `score`, `label` and the flows as it is. Killed, it goes on where it was when it is started again.

    Example: `robert fit corpus.parquet --out model`
    """
    from robert_pipeline.pages.evaluation import spread_percent, summary
    from robert_pipeline.runs.fit import fit as run_fit
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.plan import plan as run_plan

    settings = dataclasses.replace(settings, corpus=str(source), model=str(out))
    planned = run_plan(settings, partitions=partition or (), run_id=new_run_id())
    with working_progress("fit") as on_step:
        report = run_fit(settings, planned, out=str(out), max_minutes=max_minutes, on_step=on_step)
    evaluation = report.evaluation
    show_table(
        f"{evaluation.test_documents:,} documents held out",
        ("model", "accuracy", "macro-F1", "ECE"),
        [
            (model.name, *map(spread_percent, (model.accuracy, model.macro_f1, model.calibration_error)))
            for model in evaluation.models
        ],
    )
    for sentence in summary(evaluation):
        say(sentence)
    tuned = report.finetune
    if tuned.unlabelled_documents or tuned.rejected_documents:
        say(
            f"left out: {counted(tuned.unlabelled_documents, 'document')} without a label, "
            f"{tuned.rejected_documents:,} not usable"
        )
    if tuned.diverged:
        say("the loss was not a number in the end; the best weights before that were kept: lower --learning-rate")
    say(f"head {report.head.fingerprint}, in {report.seconds / 60:.0f} minutes; card: {report.model}/README.md")


def finetune(
    settings: Settings,
    out: Annotated[Path, typer.Option("--out", help="Folder of the new encoder.")] = Path("encoder"),
    partition: Partitions = None,
    max_minutes: Annotated[
        float | None, typer.Option("--max-minutes", help="Time for it [as long as it takes].", min=1)
    ] = None,
) -> None:
    """Fine-tune the encoder on labelled documents, and write it as a checkpoint that any tool can load.

    Every chunk carries its document's label, and every document weighs the same. Stops early by documents held out.
    Killed, it goes on where it was when it is started again. Then `embed` and `train` with --encoder OUT.

    Example: `robert finetune --corpus corpus --encoder bert-base-uncased --out encoder`
    """
    from robert_pipeline.core.finetune.loop import Evaluation, Progress
    from robert_pipeline.runs.finetune import finetune as run_finetune
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.plan import plan as run_plan

    planned = run_plan(settings, partitions=partition or (), run_id=new_run_id())
    with working_progress("fine-tuning") as on_step:

        def show(progress: Progress) -> None:
            text = f"loss {progress.loss:.3f}, {progress.tokens_per_second:,.0f} tokens/s"
            on_step(text, progress.step / progress.steps)

        def tell(evaluation: Evaluation) -> None:
            say(f"step {evaluation.step}: held-out loss {evaluation.loss:.4f}, accuracy {evaluation.accuracy:.1%}")

        report = run_finetune(
            settings,
            planned,
            out=str(out),
            max_seconds=None if max_minutes is None else 60 * max_minutes,
            on_progress=show,
            on_evaluation=tell,
        )
    say(
        f"learned from {counted(report.learned_documents, 'document')}, {report.held_out_documents:,} held out, "
        f"{report.steps:,} steps, {report.tokens_per_second:,.0f} tokens/s ({report.way})"
    )
    if report.unlabelled_documents or report.rejected_documents:
        say(
            f"left out: {counted(report.unlabelled_documents, 'document')} without a label, "
            f"{report.rejected_documents:,} not usable"
        )
    if report.diverged:
        say("the loss was not a number in the end; the best weights before that were kept: lower --learning-rate")
    say(f"encoder {report.encoder_fingerprint} is in {report.encoder.name}")
