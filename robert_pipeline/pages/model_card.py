"""A fitted model as a Markdown page: what it is, what it learned from, what it is worth, and where it ends."""

from collections.abc import Sequence

from robert_pipeline.core.evaluation import Evaluation
from robert_pipeline.pages.evaluation import spread_percent, summary


def model_card(evaluation: Evaluation, facts: Sequence[tuple[str, str]], limits: Sequence[str]) -> str:
    """The card, whole. `facts` are how the model came about, name and value; `limits` what it must not be used for."""
    lines = [
        "# Model card",
        "",
        f"Labels long documents with {len(evaluation.labels)} labels: {_listed(evaluation.labels)}.",
        "",
        *summary(evaluation),
        "",
        "## Scores",
        "",
        f"On {evaluation.test_documents:,} documents held out by text and by group of related documents. Weights, "
        "calibration and thresholds come from the other half of them each time. ± is the deviation over seeds of the "
        "head.",
        "",
        "| model | accuracy | macro-F1 | calibration error | |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {model.name} | {spread_percent(model.accuracy)} | {spread_percent(model.macro_f1)} | "
            f"{spread_percent(model.calibration_error)} | {model.description} |"
            for model in evaluation.models
        ),
        "",
        "Everything, with plots, is in `evaluation.html`.",
        "",
        "## How it was made",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {_cell(value)} |" for name, value in facts),
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in limits),
        "",
        "## Use",
        "",
        "```sh",
        "robert predict documents.parquet --model THIS_FOLDER --out labelled.parquet",
        "robert label --corpus CORPUS --model THIS_FOLDER",
        "```",
        "",
    ]
    return "\n".join(lines)


def _cell(value: str) -> str:
    return " ".join(value.split()).replace("|", "\\|")


def _listed(labels: Sequence[str], *, most: int = 40) -> str:
    shown = ", ".join(f"`{_cell(label)}`" for label in labels[:most])
    return shown + (f" and {len(labels) - most} more" if len(labels) > most else "")
