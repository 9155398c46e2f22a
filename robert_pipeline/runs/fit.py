"""From labelled documents to a model that can be published with: fine-tune, embed, train, weigh, calibrate, judge.

One folder comes out: the encoder, the head with its words, `evaluation.json` and `evaluation.html`, and a model card.
A fit that was killed goes on where it was when it is started again.
"""

import contextlib
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from robert_pipeline import __version__
from robert_pipeline.config import Settings, TrainingConfig
from robert_pipeline.core.compare import NAMES, OnStep
from robert_pipeline.core.evaluation import Evaluation, to_json
from robert_pipeline.core.examples import Integers
from robert_pipeline.core.finetune.loop import Progress, Watchers
from robert_pipeline.core.finetune.pace import TimeBudget
from robert_pipeline.core.fused_recipe import FusedRecipe, HeldOut, train_fused
from robert_pipeline.core.fusion import Floats
from robert_pipeline.core.judge import evaluate
from robert_pipeline.core.model import TrainedHead
from robert_pipeline.core.related import RARE_DOCUMENTS, RARE_SHARE
from robert_pipeline.core.split import group_fractions
from robert_pipeline.core.targets import Targets, make_targets
from robert_pipeline.core.tfidf import DESCRIPTION, tfidf_margins
from robert_pipeline.errors import ConfigError, TrainingError
from robert_pipeline.pages.evaluation import evaluation_page
from robert_pipeline.pages.model_card import model_card
from robert_pipeline.runs.embed import embed_plan
from robert_pipeline.runs.evaluate import JSON_FILE, PAGE_FILE
from robert_pipeline.runs.finetune import (
    STATE_FOLDER,
    FinetuneReport,
    Material,
    local_folder,
    read_material,
    report_of,
    tune,
    write_encoder,
)
from robert_pipeline.runs.labelled import origin_of, read_texts, read_training_set
from robert_pipeline.runs.labelled_copy import LabelledCopy, copy_labelled
from robert_pipeline.runs.plan import Plan
from robert_pipeline.runs.plan import plan as run_plan
from robert_pipeline.storage.encoders.checkpoint import load_checkpoint
from robert_pipeline.storage.encoders.learned import load_learned
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.heads import has_head, save_head
from robert_pipeline.storage.training_set import TrainingSet
from robert_pipeline.telemetry.watch import observed

CARD_FILE = "README.md"
ENCODER_FOLDER = "encoder"
STORE_FOLDER = ".store"
LABELLED_FOLDER = ".labelled"
SEEDS = 3
RECIPE = ("learning_rate", "chunks_per_document", "step_tokens", "dropout", "layer_decay", "frozen_layers", "seed")
SECONDS_AFTERWARDS = 120.0
"""For the heads, the words and the comparison."""
SMALL_CORPUS = 1000
"""Labelled documents below which a larger share is held out."""
SMALL_CORPUS_SHARE = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class FitReport:
    """The model that was made, and what it is worth."""

    model: str
    head: TrainedHead
    evaluation: Evaluation
    finetune: FinetuneReport
    embedded_documents: int
    seconds: float


def sane_settings(settings: Settings, documents: int) -> Settings:
    """`settings` with the share of held-out documents that suits so many labelled ones, unless one was chosen."""
    share = settings.training.validation_fraction
    if documents >= SMALL_CORPUS or share != TrainingConfig().validation_fraction:
        return settings
    return replace(settings, training=replace(settings.training, validation_fraction=SMALL_CORPUS_SHARE))


@observed("fit")
def fit(
    settings: Settings,
    planned: Plan,
    *,
    out: str,
    max_minutes: float = 50.0,
    on_step: OnStep = lambda _text, _done: None,
) -> FitReport:
    """Make a model of the planned partitions' labelled documents in the local folder `out`.

    Fine-tuning takes what `max_minutes` leave for it. `settings.encoder` is where it begins. Raises TrainingError where
    labels or documents are too few or the loss is not a number, CorpusError, EncoderError or StoreError.
    """
    started = time.monotonic()
    place = local_folder(out)
    _check_replaces_a_model(place, planned)
    asked = settings
    on_step("reading documents", 0.0)
    with (
        tempfile.TemporaryDirectory(prefix="robert-fit-") as temporary,
        _labelled_in(place / LABELLED_FOLDER, settings, planned) as copied,
    ):
        checkpoint = load_checkpoint(planned.encoder)
        settings = sane_settings(copied.settings, copied.documents)
        planned = run_plan(settings, run_id=planned.job.run_id)
        material = read_material(settings, planned, checkpoint, Path(temporary))
        if len(material.held_out) < 2:
            raise TrainingError(
                f"{len(material.documents)} labelled documents leave {len(material.held_out)} to judge by",
                fix="Add documents that the encoder has not learned from: some dozens, each label in several",
            )
        done, way = tune(
            settings,
            checkpoint,
            material,
            states=Files(str(place / STATE_FOLDER)),
            budget=_budget(settings, material, seconds=60 * max_minutes - (time.monotonic() - started)),
            watchers=_shown(on_step),
        )
        encoder = write_encoder(place / ENCODER_FOLDER, checkpoint, material, done)
        tuned = report_of(encoder, material, done, way)
        tuned = replace(
            tuned,
            unlabelled_documents=copied.unlabelled,
            rejected_documents=copied.rejected + tuned.rejected_documents,
        )
        on_step("embedding", 0.75)
        settings = replace(settings, encoder=encoder, store=str(place / STORE_FOLDER))
        planned = run_plan(settings, run_id=planned.job.run_id)
        embedded = embed_plan(planned)
        planned = planned.embedded()
        data = read_training_set(settings, planned, Path(temporary) / "vectors.arrow")
        facts = [("corpus", asked.corpus), ("label column", asked.columns.label)]
        recipe, evaluation = _train_and_judge(settings, planned, data, material, facts, on_step)
        learned_keys = np.concatenate([data.text_key_B, load_learned(planned.encoder.folder)])
    card = model_card(evaluation, _facts(asked, material, tuned, recipe, started), _limits(material, tuned))
    save_head(str(place), recipe.head, learned_keys=learned_keys)
    _write_pages(place, evaluation, card)
    on_step("done", 1.0)
    return FitReport(
        model=str(place),
        head=recipe.head,
        evaluation=evaluation,
        finetune=tuned,
        embedded_documents=embedded.counts.embedded,
        seconds=time.monotonic() - started,
    )


def _write_pages(place: Path, evaluation: Evaluation, card: str) -> None:
    """What people read of a model; then what its making left goes."""
    files = Files(str(place))
    files.write_bytes(JSON_FILE, to_json(evaluation).encode())
    files.write_bytes(PAGE_FILE, evaluation_page(evaluation).encode())
    files.write_bytes(CARD_FILE, card.encode())
    for leftover in (STATE_FOLDER, STORE_FOLDER):
        shutil.rmtree(place / leftover, ignore_errors=True)


def _shown(on_step: OnStep) -> Watchers:
    """Watchers who tell of the fine-tuning as a part of the fit."""

    def show(progress: Progress) -> None:
        text = f"fine-tuning: loss {progress.loss:.3f}, {progress.tokens_per_second:,.0f} tokens/s"
        on_step(text, 0.05 + 0.7 * progress.step / progress.steps)

    return Watchers(on_step=show)


@contextlib.contextmanager
def _labelled_in(folder: Path, settings: Settings, planned: Plan) -> Iterator[LabelledCopy]:
    """A copy for as long as it is needed, in a place that stays the same: a fit that goes on knows its units by it."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield copy_labelled(settings, planned, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_replaces_a_model(place: Path, planned: Plan) -> None:
    """Raise ConfigError where somebody's own files would be replaced, or the encoder that the fit begins with."""
    if (place / ENCODER_FOLDER).resolve() == planned.encoder.folder.resolve():
        raise ConfigError(
            f"--out is '{place}', whose encoder would be replaced, and is the one that the fit begins with",
            fix="Give another folder with --out",
        )
    made = (CARD_FILE, JSON_FILE, PAGE_FILE, ENCODER_FOLDER, STORE_FOLDER)
    there = [name for name in made if (place / name).exists()]
    if there and not has_head(str(place)) and not (place / STATE_FOLDER).exists():
        raise ConfigError(
            f"--out is '{place}', where {there[0]} is no model's and would be replaced",
            fix="Give a new folder, or that of an earlier model",
        )


def _budget(settings: Settings, material: Material, *, seconds: float) -> TimeBudget:
    """What of the `seconds` that are left fine-tuning may take: documents are embedded and heads trained afterwards."""
    chunking = settings.chunking
    overlap = chunking.chunk_tokens / (chunking.chunk_tokens - chunking.overlap_tokens)
    return TimeBudget(
        seconds=max(60.0, seconds - SECONDS_AFTERWARDS),
        tokens_afterwards=int(int(material.documents.tokens_B.sum()) * overlap),
    )


def _train_and_judge(
    settings: Settings,
    planned: Plan,
    data: TrainingSet,
    material: Material,
    facts: Sequence[tuple[str, str]],
    on_step: OnStep,
) -> tuple[FusedRecipe, Evaluation]:
    training = settings.training
    keys_B = material.documents.labelled.text_key_B
    held_B = np.isin(data.text_key_B, keys_B[material.held_out])
    learned, held = np.flatnonzero(~held_B), np.flatnonzero(held_B)
    targets = make_targets(data.labelled, np.arange(len(data)), settings.head, training)
    halves_B = group_fractions(keys_B, material.groups_B, f"halves/{training.split}") < 0.5
    first_half_B = np.isin(data.text_key_B[held], keys_B[halves_B])
    if not 0 < first_half_B.sum() < len(held):
        first_half_B = np.arange(len(held)) % 2 == 0

    def step(text: str, done: float) -> None:
        on_step(text, 0.9 + 0.09 * done)

    step("reading texts", 0.0)
    rival = _tfidf(settings, planned, data, targets, learned, held)
    recipe = train_fused(
        data.labelled,
        data.tokens,
        targets,
        learned=learned,
        held_out=HeldOut(documents=held, first_half_B=first_half_B),
        head=settings.head,
        training=training,
        origin=origin_of(planned),
        seeds=range(training.seed, training.seed + SEEDS),
        others=[(NAMES["tfidf"], DESCRIPTION, rival)],
        on_step=step,
    )
    evaluation = evaluate(
        recipe.contenders,
        targets.truth_BK[held],
        data.lengths_B[held],
        labels=targets.labels,
        output=recipe.head.config.output,
        learned_documents=len(learned),
        held_out_documents=len(held),
        facts=facts,
    )
    return recipe, evaluation


def _tfidf(
    settings: Settings, planned: Plan, data: TrainingSet, targets: Targets, learned: Integers, held: Integers
) -> Floats:
    texts = read_texts(settings, planned, data.text_key_B)
    values, count = targets.values, len(targets.labels)
    logit_count = 1 if settings.head.resolved(count).output == "binary" else count
    return tfidf_margins(
        [texts[i] for i in learned], values[learned], [texts[i] for i in held], logit_count=logit_count
    )


def _facts(
    settings: Settings,
    material: Material,
    tuned: FinetuneReport,
    recipe: FusedRecipe,
    started: float,
) -> list[tuple[str, str]]:
    head, fusion, chunking = recipe.head, recipe.head.fusion, settings.chunking
    weights: list[tuple[str, float]] = (
        [("LSTM" if head.config.kind == "robert" else head.config.kind, fusion.head_weight)] if fusion else []
    )
    weights += (
        [(str(view.view), w) for view, w in zip(fusion.views, fusion.view_weights, strict=True)] if fusion else []
    )
    best = f"; best after {tuned.best.step} (held-out loss {tuned.best.loss:.3f})" if tuned.best else ""
    finetune = settings.finetune
    changed = {
        name: value for name, value in dataclasses.asdict(finetune).items() if name in RECIPE and value is not None
    }
    return [
        ("corpus", f"{settings.corpus}, label column '{settings.columns.label}'"),
        ("data fingerprint", material.documents.fingerprint),
        ("documents", f"{tuned.learned_documents:,} learned from, {tuned.held_out_documents:,} held out"),
        ("groups of related documents", f"{tuned.groups:,}"),
        ("left out", f"{tuned.unlabelled_documents:,} without a label, {tuned.rejected_documents:,} not usable"),
        ("encoder", f"{tuned.encoder_fingerprint}, {tuned.encoder.pooling} pooling, {tuned.encoder.precision}"),
        ("chunks", f"{chunking.chunk_tokens} tokens, {chunking.overlap_tokens} of overlap"),
        (
            "fine-tuning",
            f"{tuned.steps} steps of at most {tuned.epochs:.3g} epochs{best}"
            + ("; the loss diverged after that" if tuned.diverged else ""),
        ),
        ("recipe", ", ".join(f"{name} {value}" for name, value in changed.items())),
        ("pace", f"{tuned.tokens_per_second:,.0f} tokens/s ({tuned.way})"),
        ("head", f"{head.fingerprint}, {head.config.kind}"),
        ("weights of the parts", ", ".join(f"{name} {weight:.2f}" for name, weight in weights)),
        ("calibration", f"{head.calibration.method}, on {head.calibration.documents:,} held-out documents"),
        ("minutes", f"{(time.monotonic() - started + tuned.earlier_seconds) / 60:.0f}"),
        ("code version", __version__),
    ]


def _limits(material: Material, tuned: FinetuneReport) -> list[str]:
    limits = [
        "It knows these labels only: a document of none of them gets the one that it resembles most. Withhold unsure "
        "labels with `robert set-thresholds`.",
        "Its figures hold for documents like those it learned from; judge it again when sources or time change.",
        "The words' part has learned from the held-out documents too, after they were used to judge.",
        "Encoder and heads stopped learning where they did best on the held-out documents: their figures are a little "
        "too good beside that of TF-IDF, which stops nowhere.",
    ]
    if tuned.groups < len(material.documents):
        limits.append(
            "Documents that share rare words (chapters of one book, posts of one thread) were kept on one side of the "
            f"split. A book or thread of more than {RARE_SHARE:.0%} of the documents, or more than {RARE_DOCUMENTS} of "
            "them, is not found: where there are such, the figures are of documents whose relatives were learned from."
        )
    return limits
