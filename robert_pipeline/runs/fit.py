"""From labelled documents to a model that can be published with: fine-tune, embed, train, weigh, calibrate, judge.

One folder comes out: the encoder, the head with its words, `evaluation.json` and `evaluation.html`, and a model card.
Where documents are few, several trainings hold different ones out, so that more of them judge, and the model is a last
training on all. A fit that was killed goes on where it was when it is started again.
"""

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from robert_pipeline.config import Settings
from robert_pipeline.core.compare import NAMES, OnStep
from robert_pipeline.core.evaluation import Evaluation, to_json
from robert_pipeline.core.examples import Integers
from robert_pipeline.core.finetune.loop import Progress, Watchers
from robert_pipeline.core.finetune.pace import TimeBudget
from robert_pipeline.core.fused_recipe import (
    FusedRecipe,
    Trial,
    fuse,
    joined,
    likeliest_kind,
    train_on_all,
    try_parts,
)
from robert_pipeline.core.fusion import Floats, fit_views
from robert_pipeline.core.judge import evaluate
from robert_pipeline.core.model import TrainedHead
from robert_pipeline.core.split import group_fractions
from robert_pipeline.core.targets import Targets, make_targets, truth_mask
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
from robert_pipeline.runs.fit_card import facts_of, limits_of
from robert_pipeline.runs.labelled import origin_of, read_texts, read_training_set
from robert_pipeline.runs.plan import Plan
from robert_pipeline.runs.plan import plan as run_plan
from robert_pipeline.storage.encoders.checkpoint import load_checkpoint
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.heads import save_head
from robert_pipeline.storage.training_set import TrainingSet
from robert_pipeline.telemetry.watch import observed

CARD_FILE = "README.md"
ENCODER_FOLDER = "encoder"
STORE_FOLDER = ".store"
SEEDS = 3
SECONDS_AFTERWARDS = 120.0
"""For the heads, the words and the comparison, as long as nobody has seen how long they take."""
FEW_DOCUMENTS = 3000
"""From so many on, one training that holds some out loses little and has enough to judge by."""
FOLDS = 2
"""Trainings of a smaller corpus that hold documents out."""
FEW_HELD_OUT = 0.2
"""Share of a smaller corpus that each of them holds out."""
LAST_TRAINING = 1.3
"""Time of the training on all documents, in that of one with some held out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FitReport:
    """The model that was made, and what it is worth."""

    model: str
    head: TrainedHead
    evaluation: Evaluation
    finetune: FinetuneReport
    """The training that made the model's encoder."""
    trials: int
    """Trainings with documents held out; the last of all was on all documents where there are several."""
    embedded_documents: int
    seconds: float


@observed("fit")
def fit(
    settings: Settings,
    planned: Plan,
    *,
    out: str,
    max_minutes: float = 50.0,
    folds: int | None = None,
    on_step: OnStep = lambda _text, _done: None,
) -> FitReport:
    """Make a model of the planned partitions' labelled documents in the local folder `out`.

    Fine-tuning takes what `max_minutes` leave for it, and `folds` trainings hold documents out as far as there is time
    for them and for one on all documents. `settings.encoder` is where it begins. Raises TrainingError where labels or
    documents are too few or the loss is not a number, CorpusError, ConfigError, EncoderError or StoreError.
    """
    started = time.monotonic()
    place = local_folder(out)
    settings, folds = sane_settings(settings, planned.document_count, folds)
    with tempfile.TemporaryDirectory(prefix="robert-fit-") as temporary:
        on_step("reading documents", 0.0)
        material = read_material(settings, planned, load_checkpoint(planned.encoder), Path(temporary))
        if len(material.held_out) < 2:
            raise TrainingError(
                f"{len(material.documents)} labelled documents leave {len(material.held_out)} to judge by",
                fix="Add documents: some dozens are needed, each label in several",
            )
        trainings = _Trainings(
            settings=settings,
            planned=planned,
            material=material,
            place=place,
            temporary=Path(temporary),
            ends=started + 60 * max_minutes,
            most=folds + 1 if folds > 1 else 1,
            on_step=on_step,
        )
        trials, trained = trainings.run(folds)
        recipe, evaluation = trainings.settle(trials, trained)
        save_head(str(place), recipe.head, learned_keys=trained.data.text_key_B)
    seconds = time.monotonic() - started
    files = Files(str(place))
    files.write_bytes(JSON_FILE, to_json(evaluation).encode())
    files.write_bytes(PAGE_FILE, evaluation_page(evaluation).encode())
    facts = facts_of(settings, material, trained.tuned, recipe.head, evaluation, trials=len(trials), seconds=seconds)
    limits = limits_of(material, trained.tuned)
    files.write_bytes(CARD_FILE, model_card(evaluation, facts, limits).encode())
    for leftover in (STATE_FOLDER, STORE_FOLDER):
        shutil.rmtree(place / leftover, ignore_errors=True)
    on_step("done", 1.0)
    return FitReport(
        model=str(place),
        head=recipe.head,
        evaluation=evaluation,
        finetune=trained.tuned,
        trials=len(trials),
        embedded_documents=trained.embedded_documents,
        seconds=seconds,
    )


def sane_settings(settings: Settings, documents: int, folds: int | None) -> tuple[Settings, int]:
    """`settings` with the share of held-out documents that suits the size of the corpus, and how often to hold out.

    Raises ConfigError where there are not as many documents as are to be held out.
    """
    few = documents < FEW_DOCUMENTS
    share = FEW_HELD_OUT if few else settings.training.validation_fraction
    wanted = (FOLDS if few else 1) if folds is None else folds
    most = int(1 / share + 1e-9) if share else 1
    if not 1 <= wanted <= most:
        raise ConfigError(
            f"--folds is {wanted}, and each holds {share:.0%} of the documents out", fix=f"Give 1 to {most}"
        )
    return replace(settings, training=replace(settings.training, validation_fraction=share)), wanted


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trained:
    """An encoder that was fine-tuned, and all documents as it sees them."""

    tuned: FinetuneReport
    planned: Plan
    data: TrainingSet
    targets: Targets
    embedded_documents: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trainings:
    """The trainings of one fit, and what they have in common."""

    settings: Settings
    planned: Plan
    material: Material
    place: Path
    temporary: Path
    ends: float
    """On the monotonic clock."""
    most: int
    """Trainings that there are at most."""
    on_step: OnStep

    def run(self, folds: int) -> tuple[list[Trial], _Trained]:
        """Up to `folds` trainings with documents held out, and one on all where these are several; the last one."""
        trials: list[Trial] = []
        epochs: list[float] = []
        first: _Trained | None = None
        took = rest = 0.0
        while first is None or (len(trials) < folds and self._seconds_left() >= (1 + LAST_TRAINING) * took):
            began = time.monotonic()
            seconds = self._seconds_left() - (LAST_TRAINING * took + rest if first else SECONDS_AFTERWARDS)
            material = self.material.holding_out(self.settings.training.validation_fraction, fold=len(trials))
            trained = self._train(len(trials), material, seconds=seconds)
            embedded = time.monotonic()
            trials.append(self._try(len(trials), trained, material))
            epochs += [trained.tuned.best.epochs] if trained.tuned.best else []
            first = first or trained
            took, rest = time.monotonic() - began, time.monotonic() - embedded
        if folds == 1 or not epochs or self._seconds_left() < LAST_TRAINING * took:
            return trials, first
        everything = self.material.holding_out(0.0)
        seconds = self._seconds_left() - rest
        return trials, self._train(len(trials), everything, seconds=seconds, stop_epochs=float(np.mean(epochs)))

    def _seconds_left(self) -> float:
        return self.ends - time.monotonic()

    def _step(self, number: int, text: str, done: float) -> None:
        prefix = f"training {number + 1} of {self.most}, " if self.most > 1 else ""
        self.on_step(f"{prefix}{text}", (number + done) / self.most)

    def _train(self, number: int, material: Material, *, seconds: float, stop_epochs: float | None = None) -> _Trained:
        """Fine-tune on what is not held out, and embed all documents."""
        is_model = number == 0 or not len(material.held_out)
        states = self.place / STATE_FOLDER / f"training-{number}"
        settings = self.settings
        chunking, tokens = settings.chunking, int(material.documents.tokens_B.sum())
        overlap = chunking.chunk_tokens / (chunking.chunk_tokens - chunking.overlap_tokens)

        def show(progress: Progress) -> None:
            text = f"fine-tuning: loss {progress.loss:.3f}, {progress.tokens_per_second:,.0f} tokens/s"
            self._step(number, text, 0.7 * progress.step / progress.steps)

        checkpoint = load_checkpoint(self.planned.encoder)
        done, way = tune(
            settings,
            checkpoint,
            material,
            states=Files(str(states)),
            budget=TimeBudget(seconds=max(60.0, seconds), tokens_afterwards=int(tokens * overlap)),
            watchers=Watchers(on_step=show),
            stop_epochs=stop_epochs,
        )
        encoder = write_encoder((self.place if is_model else states) / ENCODER_FOLDER, checkpoint, done)
        self._step(number, "embedding", 0.7)
        settings = replace(settings, encoder=encoder, store=str(self.place / STORE_FOLDER))
        partitions = [partition.partition for partition in self.planned.partitions]
        planned = run_plan(settings, partitions=partitions, run_id=self.planned.job.run_id)
        embedded = embed_plan(planned)
        planned = planned.embedded()
        data = read_training_set(settings, planned, self.temporary / f"vectors-{number}.arrow")
        return _Trained(
            tuned=report_of(encoder, material, done, way),
            planned=planned,
            data=data,
            targets=make_targets(data.labelled, np.arange(len(data)), settings.head, settings.training),
            embedded_documents=embedded.counts.embedded,
        )

    def _try(self, number: int, trained: _Trained, material: Material) -> Trial:
        """Train heads and words on what was not held out, and ask them of the rest."""
        data = trained.data
        held_B = np.isin(data.text_key_B, material.documents.labelled.text_key_B[material.held_out])
        learned, held_out = np.flatnonzero(~held_B), np.flatnonzero(held_B)
        self._step(number, "reading texts", 0.9)
        training = self.settings.training
        return try_parts(
            data.labelled,
            data.tokens,
            trained.targets,
            learned=learned,
            held_out=held_out,
            head=self.settings.head,
            training=training,
            origin=origin_of(trained.planned),
            seeds=range(training.seed, training.seed + SEEDS),
            rivals={NAMES["tfidf"]: self._tfidf(trained, learned, held_out)},
            on_step=lambda text, done: self._step(number, text, 0.9 + 0.1 * done),
        )

    def _tfidf(self, trained: _Trained, learned: Integers, held_out: Integers) -> Floats:
        texts = read_texts(self.settings, trained.planned, trained.data.text_key_B)
        values = trained.targets.values[learned]
        margins = tfidf_margins([texts[i] for i in learned], values, [texts[i] for i in held_out])
        if margins.shape[1] == 1 and self.settings.head.output == "multiclass":  # of two labels
            return np.concatenate([-margins, margins], axis=1)
        return margins

    def settle(self, trials: Sequence[Trial], trained: _Trained) -> tuple[FusedRecipe, Evaluation]:
        """The head of the training that made the model, weighed, calibrated and judged by all that was held out."""
        training, targets, data = self.settings.training, trained.targets, trained.data
        judged = joined([trial.judged for trial in trials])
        keys_B = self.material.documents.labelled.text_key_B
        halves_B = group_fractions(keys_B, self.material.groups_B, f"halves/{training.split}") < 0.5
        first_half_B = np.isin(judged.text_key_B, keys_B[halves_B])
        if not 0 < first_half_B.sum() < len(judged):
            first_half_B = np.arange(len(judged)) % 2 == 0
        recipes, label_count = trials[0].recipes, len(targets.labels)
        output = next(iter(recipes.values())).head.config.output
        kind = likeliest_kind(judged, first_half_B, output=output, label_count=label_count)
        recipe = recipes[kind]
        if not trained.tuned.held_out_documents:
            recipe = train_on_all(
                trials, kind, data.labelled, targets, training=training, origin=origin_of(trained.planned)
            )
        fused = fuse(
            recipe,
            fit_views(data.tokens(np.arange(len(data))), targets.values, logit_count=recipe.head.logit_count),
            judged,
            first_half_B,
            target_precision=training.target_precision,
            configs={kind: tried.head.config for kind, tried in recipes.items()},
            rivals={NAMES["tfidf"]: DESCRIPTION},
        )
        evaluation = evaluate(
            fused.contenders,
            truth_mask(judged.targets, label_count),
            judged.lengths_B,
            labels=targets.labels,
            output=output,
            learned_documents=trained.tuned.learned_documents,
            held_out_documents=len(judged),
            facts=[("corpus", self.settings.corpus), ("label column", self.settings.columns.label)],
        )
        return fused, evaluation
