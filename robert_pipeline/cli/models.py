"""Commands about models: `embed` the texts to learn from, `train` a head on them or `import-head`, and tune it."""

from typing import TYPE_CHECKING, Annotated

import typer

from robert_pipeline.cli.options import (
    HEAD,
    LABEL_SEPARATOR,
    OUTPUT,
    TARGET_PRECISION,
    TRAINING,
    Partitions,
    with_settings,
)
from robert_pipeline.config import Settings
from robert_pipeline.errors import ConfigError
from robert_pipeline.terminal import counted, encoder_speed, say, show_table, training_progress, work_progress

if TYPE_CHECKING:
    from robert_pipeline.core.model import TrainedHead


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("embed")(with_settings(embed))
    app.command("train")(with_settings(train, HEAD, TRAINING))
    app.command("import-head")(with_settings(import_head, ("Head", (OUTPUT,))))
    app.command("calibrate")(with_settings(calibrate, ("Training", (TARGET_PRECISION, LABEL_SEPARATOR))))
    app.command("set-thresholds")(with_settings(set_thresholds))


def embed(settings: Settings, partition: Partitions = None) -> None:
    """Embed every chunk of every document that has no vectors yet.

    Vectors are kept in the store. A run that was stopped goes on where it was when it is started again.

    Example: `robert embed --corpus corpus --encoder bert-base-uncased --partition day=2026-01-31`
    """
    from robert_pipeline.runs.embed import EmbedReport, embed_plan
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.plan import plan as run_plan

    planned = run_plan(settings, partitions=partition or (), run_id=new_run_id())
    with work_progress({"embedding": planned.missing_document_count}):
        report: EmbedReport = embed_plan(planned)
    counts, done = report.counts, report.embedded
    say(
        f"{counted(counts.documents, 'document')}: {counts.embedded:,} embedded, {counts.rejected:,} rejected; "
        f"{counts.chunks:,} chunks, {counts.tokens:,} tokens"
    )
    say(
        f"this run: {report.embedded_unit_count} of {report.unit_count} units, {done.embedded:,} documents embedded "
        f"({done.reused:,} of them found in the store); {report.documents_per_second:,.1f} documents/s, "
        f"{report.tokens_per_second:,.0f} tokens/s encoded"
    )
    if report.encoder_use.encoded_tokens:
        say(f"encoder: {encoder_speed(report)}")


def train(settings: Settings, partition: Partitions = None) -> None:
    """Train a head on the labelled documents of embedded partitions.

    Documents without a label are left out; a part of those with one is held out, by text, to stop in time, to
    calibrate probabilities and to report accuracy.

    Example: `robert train --corpus corpus --label-column label --model model`
    """
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.plan import plan as run_plan
    from robert_pipeline.runs.train import train as run_train

    planned = run_plan(settings, partitions=partition or (), run_id=new_run_id())
    with training_progress() as on_epoch:
        report = run_train(settings, planned, on_epoch=on_epoch)
    say(
        f"head {report.head.fingerprint}: {len(report.head.labels)} labels, learned from "
        f"{report.learned_documents:,} documents in {report.seconds:.1f} s ({len(report.epochs)} epochs)"
    )
    if report.unlabelled_documents or report.not_finite_documents:
        say(
            f"left out: {report.unlabelled_documents:,} documents without a label, "
            f"{report.not_finite_documents:,} with vectors that are not finite"
        )
    if report.held_out_documents:
        say(f"right on {report.held_out_accuracy:.1%} of {report.held_out_documents:,} documents held out by text")
    _say_calibration(report.head)
    say(f"saved in {report.model}")


def import_head(
    settings: Settings,
    weights: Annotated[str, typer.Argument(metavar="WEIGHTS.safetensors", help="A state_dict with lstm.*, out.*.")],
    label: Annotated[list[str], typer.Option("--label", help="A label; once for each, in the order of the logits.")],
) -> None:
    """Make a head of weights that were trained elsewhere.

    Sizes are read from the weights. Name the encoder, its pooling and the chunking that they were trained on: 'pooler'
    for vectors that are BERT's pooled output. Of a single logit, give the label it speaks for last.

    Example: `robert import-head weights.safetensors --label ham --label spam --encoder bert-base-uncased
    --pooling pooler --model model`
    """
    from robert_pipeline.runs.import_head import import_head as run_import_head

    report = run_import_head(settings, weights, label)
    chunking = report.head.origin.chunking
    say(f"head {report.head.fingerprint}: {len(report.head.labels)} labels, {report.head.config.output}")
    say(
        f"for chunks of {chunking.chunk_tokens} tokens with {chunking.overlap_tokens} of overlap, embedded by "
        f"{report.head.origin.encoder.name}, pooling {report.pooling}"
    )
    _say_calibration(report.head)
    say(f"saved in {report.model}")


def calibrate(settings: Settings, partition: Partitions = None) -> None:
    """Fit a head's probabilities to labelled documents that it has not learned from.

    Example: `robert calibrate --corpus corpus --model model --partition day=2026-01-31 --target-precision 0.95`
    """
    from robert_pipeline.runs.calibrate import calibrate as run_calibrate
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.plan import plan as run_plan

    planned = run_plan(settings, partitions=partition or (), run_id=new_run_id())
    report = run_calibrate(settings, planned)
    say(f"head {report.head.fingerprint}: right on {report.accuracy:.1%} of {report.documents:,} documents")
    if report.learned_documents:
        say(f"left out: {report.learned_documents:,} documents that it has learned from")
    _say_calibration(report.head)
    say(f"saved in {report.model}")


def set_thresholds(
    settings: Settings,
    decision: Annotated[
        list[str] | None,
        typer.Option("--decision", help="LABEL=PROBABILITY from which on the label is given; may be repeated."),
    ] = None,
    review: Annotated[
        list[str] | None,
        typer.Option("--review", help="LABEL=PROBABILITY below which the label is withheld; may be repeated."),
    ] = None,
) -> None:
    """Show a head's thresholds, or change some: nothing is trained or embedded again.

    Example: `robert set-thresholds --model model --review sport=0.9 --review tech=0.8`
    """
    from robert_pipeline.runs.thresholds import set_thresholds as run_set_thresholds

    report = run_set_thresholds(
        settings.model, decision=_by_label("--decision", decision), review=_by_label("--review", review)
    )
    thresholds = report.head.thresholds
    rows = [
        (label, f"{given:.3f}", f"{below:.3f}")
        for label, given, below in zip(report.head.labels, thresholds.decision, thresholds.review, strict=True)
    ]
    show_table("", ("label", "decision", "withheld below"), rows)
    changed = report.head.fingerprint != report.before.fingerprint
    say(f"head {report.before.fingerprint}" + (f" is now {report.head.fingerprint}" if changed else ", unchanged"))


def _by_label(option: str, given: list[str] | None) -> dict[str, float]:
    thresholds = {}
    for each in given or ():
        label, equals, value = each.rpartition("=")
        try:
            thresholds[label] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise ConfigError(f"{option} is '{each}'", fix=f"Write it as LABEL=PROBABILITY: {option} sport=0.9")
    return thresholds


def _say_calibration(head: "TrainedHead") -> None:
    if head.calibration.method == "none":
        say("not calibrated: `robert calibrate` does it, with labelled documents that it has not learned from")
    else:
        say(f"calibrated by {head.calibration.method} on {head.calibration.documents:,} documents")
    if any(head.thresholds.review):
        lowest, highest = min(head.thresholds.review), max(head.thresholds.review)
        say(f"labels are withheld for review below {lowest:.2f} to {highest:.2f} (`robert set-thresholds` shows all)")
