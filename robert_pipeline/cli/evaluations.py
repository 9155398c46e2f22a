"""The command about what heads are worth: `evaluate`."""

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from robert_pipeline.cli.options import HEAD, TRAINING, Partitions, with_settings
from robert_pipeline.config import Settings
from robert_pipeline.errors import ConfigError
from robert_pipeline.terminal import say, show_table, working_progress

if TYPE_CHECKING:
    from robert_pipeline.core.evaluation import Evaluation


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("evaluate")(with_settings(evaluate, HEAD, TRAINING))


def evaluate(
    settings: Settings,
    partition: Partitions = None,
    train_partition: Annotated[
        list[str] | None,
        typer.Option("--train-partition", help="Learn from this one, judge on --partition; may be repeated."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Judge the head in this folder as it is, instead of training any.")
    ] = None,
    test_fraction: Annotated[
        float, typer.Option("--test-fraction", help="Without --train-partition: share of the texts to judge on.")
    ] = 0.2,
    seeds: Annotated[int, typer.Option("--seeds", help="How many times each model is trained.")] = 3,
    against: Annotated[
        list[str] | None,
        typer.Option("--against", help="mean, first-chunk, tobert or tfidf; may be repeated. All where none is given."),
    ] = None,
    out: Annotated[str, typer.Option("--out", help="Folder of evaluation.json and evaluation.html.")] = "evaluation",
) -> None:
    """Find out what a head is worth on documents it has not learned from, beside simpler models.

    Trains the head and its rivals anew, on the same documents, and judges them on the same others: a share of the
    texts of all partitions given, or whole partitions with --train-partition. No head is saved. With --model, the head
    in that folder is judged instead, on the labelled documents that it has not learned from.

    Example: `robert evaluate --corpus corpus --train-partition day=2026-01-01 --partition day=2026-01-02`
    """
    from robert_pipeline.core.compare import RIVALS
    from robert_pipeline.runs import evaluate as runs
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.plan import plan as run_plan

    learn_from, judge_on = tuple(train_partition or ()), tuple(partition or ())
    if model is not None:
        if learn_from:
            raise ConfigError("--model and --train-partition are both given", fix="Leave one out")
        settings = dataclasses.replace(settings, model=model)
        planned = run_plan(settings, partitions=judge_on, run_id=new_run_id())
        report = runs.evaluate_head(settings, planned, out=out)
    else:
        rivals = tuple(against) if against else RIVALS
        comparison = runs.Comparison(
            learn_from=learn_from,
            judge_on=judge_on,
            test_fraction=test_fraction,
            seeds=seeds,
            against=rivals,  # type: ignore[arg-type]  # checked when made
        )
        planned = run_plan(settings, partitions=[*learn_from, *judge_on], run_id=new_run_id())
        with working_progress("evaluating") as on_step:
            report = runs.evaluate(settings, planned, comparison, out=out, on_step=on_step)
    _show(report.evaluation)
    say(f"written to {report.json_path} and {report.page_path}")


def _show(evaluation: "Evaluation") -> None:
    from robert_pipeline.pages.evaluation import band_name, spread_percent, summary

    show_table(
        f"{evaluation.test_documents:,} documents",
        ("model", "accuracy", "macro-F1", "ECE"),
        [
            (model.name, *map(spread_percent, (model.accuracy, model.macro_f1, model.calibration_error)))
            for model in evaluation.models
        ],
    )
    show_table(
        "accuracy by length",
        ("model", *map(band_name, evaluation.bands)),
        [
            (model.name, *(f"{model.accuracy_in_band(number).mean:.1%}" for number in range(len(evaluation.bands))))
            for model in evaluation.models
        ],
    )
    for sentence in summary(evaluation):
        say(sentence)
    for name, value in evaluation.facts:
        if name in ("split", "left out", "learned from"):
            say(f"{name}: {value}")
