"""What the card of a fitted model says of how it was made, and of where it ends."""

import dataclasses

from robert_pipeline import __version__
from robert_pipeline.config import Settings
from robert_pipeline.core.evaluation import Evaluation
from robert_pipeline.core.model import TrainedHead
from robert_pipeline.runs.finetune import FinetuneReport, Material

RECIPE = ("learning_rate", "chunks_per_document", "step_tokens", "dropout", "layer_decay", "frozen_layers", "seed")


def facts_of(
    settings: Settings,
    material: Material,
    tuned: FinetuneReport,
    head: TrainedHead,
    evaluation: Evaluation,
    *,
    trials: int,
    seconds: float,
) -> list[tuple[str, str]]:
    """How a model came about, name and value. `tuned` is the training of its encoder."""
    fusion, chunking, finetune = head.fusion, settings.chunking, settings.finetune
    weights: list[tuple[str, float]] = (
        [("LSTM" if head.config.kind == "robert" else head.config.kind, fusion.head_weight)] if fusion else []
    )
    weights += (
        [(str(view.view), w) for view, w in zip(fusion.views, fusion.view_weights, strict=True)] if fusion else []
    )
    if tuned.best:
        most = finetune.epochs_for(tuned.learned_documents)
        length = f"of at most {most:g} epochs; best after {tuned.best.step} (held-out loss {tuned.best.loss:.3f})"
    else:
        length = "as many as were best in the trainings that held documents out"
    changed = {
        name: value for name, value in dataclasses.asdict(finetune).items() if name in RECIPE and value is not None
    }
    return [
        ("corpus", f"{settings.corpus}, label column '{settings.columns.label}'"),
        ("data fingerprint", material.documents.fingerprint),
        (
            "documents",
            f"{tuned.learned_documents:,} learned from; {evaluation.test_documents:,} judged, each by a model that had "
            f"not learned from it; {trials} {'training' if trials == 1 else 'trainings'} held documents out",
        ),
        ("groups of related documents", f"{tuned.groups:,}"),
        ("left out", f"{tuned.unlabelled_documents:,} without a label, {tuned.rejected_documents:,} not usable"),
        ("encoder", f"{tuned.encoder_fingerprint}, {tuned.encoder.pooling} pooling, {tuned.encoder.precision}"),
        ("chunks", f"{chunking.chunk_tokens} tokens, {chunking.overlap_tokens} of overlap"),
        (
            "fine-tuning",
            f"{tuned.steps} steps, {length}" + ("; the loss diverged after that" if tuned.diverged else ""),
        ),
        ("recipe", ", ".join(f"{name} {value}" for name, value in changed.items())),
        ("pace", f"{tuned.tokens_per_second:,.0f} tokens/s ({tuned.way})"),
        ("head", f"{head.fingerprint}, {head.config.kind}"),
        ("weights of the parts", ", ".join(f"{name} {weight:.2f}" for name, weight in weights)),
        ("calibration", f"{head.calibration.method}, on {head.calibration.documents:,} held-out documents"),
        ("minutes", f"{seconds / 60:.0f}"),
        ("code version", __version__),
    ]


def limits_of(material: Material, tuned: FinetuneReport) -> list[str]:
    """What a model must not be used for, and what its figures do not say."""
    limits = [
        "It knows these labels only: a document of none of them gets the one that it resembles most. Withhold unsure "
        "labels with `robert set-thresholds`.",
        "Its figures hold for documents like those it learned from; judge it again when sources or time change.",
        "The words' part has learned from the held-out documents too, after they were used to judge."
        if tuned.held_out_documents
        else "The figures are of models of the same recipe that learned from fewer documents. This one has learned "
        "from all, those that judged among them.",
    ]
    if tuned.groups < len(material.documents):
        limits.append(
            "Documents that share rare words (chapters of one book, posts of one thread) were kept on one side of the "
            "split: the figures are for documents unrelated to those learned from."
        )
    return limits
