"""Fine-tune an encoder on the labelled documents of some partitions, and write it as a checkpoint.

A training that was killed goes on from its last state when it is started again on the same documents and settings.
"""

import gc
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np

from robert_pipeline.config import EncoderSource, Precision, Settings, fingerprint
from robert_pipeline.core.chunk import cut
from robert_pipeline.core.examples import Integers
from robert_pipeline.core.finetune.loop import (
    ChunkedDocuments,
    Evaluation,
    Finetuned,
    Finetuning,
    Progress,
    Watchers,
)
from robert_pipeline.core.finetune.pace import TimeBudget
from robert_pipeline.core.related import related_groups
from robert_pipeline.core.split import group_fractions, hold_out
from robert_pipeline.core.targets import Targets, make_targets
from robert_pipeline.core.terms import count_terms
from robert_pipeline.errors import ConfigError, TrainingError
from robert_pipeline.runs.labelled import known_to_encoder
from robert_pipeline.runs.plan import Plan
from robert_pipeline.storage.corpus import open_corpus
from robert_pipeline.storage.encoders import EncoderIdentity, identify_encoder
from robert_pipeline.storage.encoders.checkpoint import Checkpoint, load_checkpoint
from robert_pipeline.storage.encoders.finetuned import save_encoder
from robert_pipeline.storage.encoders.identity import POOLING_FILE, TOKENIZER_FILES
from robert_pipeline.storage.encoders.learned import LEARNED_FILE, load_learned
from robert_pipeline.storage.encoders.load import attention_kernel, training_kernels
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.token_set import TokenSet, build_token_set
from robert_pipeline.storage.training_state import load_state, save_state
from robert_pipeline.telemetry.watch import observed
from robert_pipeline.types import Document, Reject

STATE_FOLDER = ".finetune"
TEMPORARY = ".encoder-"
ENCODER_FILES = ("config.json", "model.safetensors", *TOKENIZER_FILES, POOLING_FILE)
MOST_TOKENS = 100_000_000
"""Tokens of a corpus that are learned from at most: their terms are held in memory, some 64 bytes a token."""

OnProgress = Callable[[Progress], None]
OnEvaluation = Callable[[Evaluation], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """Labelled documents, and who of them judges: no text, and no group of related documents, is on both sides."""

    documents: TokenSet
    targets: Targets
    groups_B: Integers
    learned: Integers
    held_out: Integers


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneReport:
    """The encoder that was written, and how it came about."""

    encoder: EncoderSource
    encoder_fingerprint: str
    labels: tuple[str, ...]
    learned_documents: int
    held_out_documents: int
    groups: int
    """Groups of related documents among them; as many as documents where none are related."""
    unlabelled_documents: int
    rejected_documents: int
    history: tuple[Evaluation, ...]
    best: Evaluation | None
    epochs: float
    """As many as were planned; there may have been time for fewer."""
    steps: int
    diverged: bool
    tokens_per_second: float
    earlier_seconds: float
    """Spent by processes that were killed."""
    way: str
    """How the encoder computed."""


@observed("finetune")
def finetune(
    settings: Settings,
    planned: Plan,
    *,
    out: str,
    max_seconds: float | None = None,
    on_progress: OnProgress = lambda _: None,
    on_evaluation: OnEvaluation = lambda _: None,
) -> FinetuneReport:
    """Fine-tune `settings.encoder` on the planned partitions, as `settings.finetune` says; write it into folder `out`.

    An encoder that an earlier one wrote there stays until then. Raises TrainingError where labels are too few or the
    loss is not a number, ConfigError where somebody else's files are in `out`, CorpusError, EncoderError or StoreError.
    """
    place = local_folder(out)
    check_replaces_an_encoder(place, planned.encoder)
    checkpoint = load_checkpoint(planned.encoder)
    with tempfile.TemporaryDirectory(prefix="robert-finetune-") as folder:
        material = read_material(settings, planned, checkpoint, Path(folder))
        budget = None if max_seconds is None else TimeBudget(seconds=max_seconds)
        states = Files(str(place / STATE_FOLDER))
        done, way = tune(
            settings,
            checkpoint,
            material,
            states=states,
            budget=budget,
            watchers=Watchers(on_step=on_progress, on_evaluation=on_evaluation),
        )
    source = write_encoder(place, checkpoint, material, done)
    shutil.rmtree(place / STATE_FOLDER, ignore_errors=True)
    return report_of(source, material, done, way)


def report_of(source: EncoderSource, material: Material, done: Finetuned, way: str) -> FinetuneReport:
    """What a fine-tuning came to."""
    return FinetuneReport(
        encoder=source,
        encoder_fingerprint=identify_encoder(source).fingerprint,
        labels=material.targets.labels,
        learned_documents=len(material.learned),
        held_out_documents=len(material.held_out),
        groups=int(material.groups_B.max()) + 1,
        unlabelled_documents=material.documents.unlabelled,
        rejected_documents=material.documents.rejected,
        history=done.history,
        best=done.best,
        epochs=done.epochs,
        steps=done.steps,
        diverged=done.diverged,
        tokens_per_second=done.tokens_per_second,
        earlier_seconds=done.earlier_seconds,
        way=way,
    )


def local_folder(out: str) -> Path:
    """`out` as a folder of this machine. Raises ConfigError where it is an address, or a file."""
    if "://" in out:
        raise ConfigError(f"--out is '{out}'", fix="Give a local folder: checkpoints are loaded from one")
    place = Path(out).expanduser().absolute()
    if place.exists() and not place.is_dir():
        raise ConfigError(f"--out is '{out}', which is a file", fix="Give a folder, or a name that is free")
    return place


def check_replaces_an_encoder(place: Path, source: EncoderIdentity) -> None:
    """Raise ConfigError where writing an encoder into `place` would replace `source`, or files of somebody else."""
    if place.resolve() == source.folder.resolve():
        raise ConfigError(
            f"'{place}' is to be written, and is the encoder that training begins with",
            fix="Give another folder with --out",
        )
    there = [name for name in ENCODER_FILES if (place / name).exists()]
    if there and not (place / LEARNED_FILE).exists() and not (place / STATE_FOLDER).exists():
        raise ConfigError(
            f"'{place}' holds {there[0]}, which was not fine-tuned here and would be replaced",
            fix="Give a new folder with --out, or that of an encoder that was",
        )


def read_material(settings: Settings, planned: Plan, checkpoint: Checkpoint, folder: Path) -> Material:
    """Tokenise the planned partitions' labelled documents, find who is related, and hold a share of the groups out.

    No document, nor a relative of one, is held out that the encoder has learned from before. Raises TrainingError,
    CorpusError or ConfigError.
    """
    if settings.chunking.chunk_tokens > checkpoint.max_chunk_tokens:
        raise ConfigError(
            f"chunking.chunk_tokens is {settings.chunking.chunk_tokens}, but encoder {checkpoint.identity.folder} "
            f"reads at most {checkpoint.max_chunk_tokens}",
            fix=f"Give --chunk-tokens {checkpoint.max_chunk_tokens} or less",
        )
    documents = build_token_set(_rows(settings, planned), checkpoint.tokenizer, folder / "tokens")
    total = int(documents.tokens_B.sum())
    if total > MOST_TOKENS:
        raise TrainingError(
            f"the labelled documents have {total:,} tokens, at most {MOST_TOKENS:,} are learned from",
            fix="Name fewer partitions with --partition",
        )
    everything = np.arange(len(documents))
    targets = make_targets(documents.labelled, everything, settings.head, settings.training)
    groups_B = related_groups(count_terms(documents.tokens, pairs=True))
    fractions_B = group_fractions(documents.labelled.text_key_B, groups_B, settings.training.split)
    known_B = known_to_encoder(planned, documents.labelled.text_key_B)
    held_B = hold_out(
        fractions_B,
        targets.truth_BK,
        settings.training.validation_fraction,
        keep=1,
        known_B=np.isin(groups_B, groups_B[known_B]),
    )
    return Material(
        documents=documents,
        targets=targets,
        groups_B=groups_B,
        learned=everything[~held_B],
        held_out=everything[held_B],
    )


def _rows(
    settings: Settings, planned: Plan
) -> Iterable[tuple[Iterable[tuple[str, str | None]], Iterable[Document | Reject]]]:
    corpus = open_corpus(settings.corpus, settings.columns)
    for partition in planned.partitions:
        rows = (row for unit in partition.units for row in corpus.read(unit))
        yield corpus.labels(partition.partition), rows


def tune(
    settings: Settings,
    checkpoint: Checkpoint,
    material: Material,
    *,
    states: Files,
    budget: TimeBudget | None,
    watchers: Watchers,
) -> tuple[Finetuned, str]:
    """Train the checkpoint's model on the material; states are kept and found again in `states`.

    Returns the outcome and the way the model computed. The model has the best weights afterwards.
    """
    import torch

    documents = material.documents
    run = fingerprint(
        "finetune/2",
        {
            "data": documents.fingerprint,
            "encoder": checkpoint.identity.fingerprint,
            "chunking": settings.chunking.fingerprint,
            "held_out": settings.training.validation_fraction,
            "split": settings.training.split,
            "labels": list(material.targets.labels),
            "targets": hashlib.sha256(material.targets.values.tobytes()).hexdigest(),
            "learned": hashlib.sha256(material.learned.tobytes()).hexdigest(),
            **{f"config.{name}": value for name, value in asdict(settings.finetune).items()},
        },
    )
    training = Finetuning(
        checkpoint.model.to("cuda" if torch.cuda.is_available() else "cpu"),  # type: ignore[arg-type]
        ChunkedDocuments(
            token_ids=documents.token_ids,
            spans=cut(documents.tokens_B, settings.chunking),
            first_token_B=np.cumsum(documents.tokens_B) - documents.tokens_B,
            frame=checkpoint.tokenizer.frame,
            targets=material.targets.values,
        ),
        settings.finetune,
        label_count=len(material.targets.labels),
        pooling=checkpoint.identity.pooling,
        pad_id=checkpoint.pad_id,
        kernel=attention_kernel(),
        layers=training_kernels(),
    )
    keeping = Watchers(
        on_step=watchers.on_step,
        on_evaluation=watchers.on_evaluation,
        on_state=lambda state: save_state(states, state, run=run),
    )
    done = training.run(
        material.learned,
        material.held_out,
        budget=budget,
        watchers=keeping,
        state=load_state(states, run=run),
    )
    way = str(training.way)
    # Moments and graphs lie in cycles, which may be collected late: what comes next needs the GPU's memory.
    del training
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return done, way


def write_encoder(place: Path, checkpoint: Checkpoint, material: Material, done: Finetuned) -> EncoderSource:
    """Write the tuned model into folder `place`; say where it is.

    Killed between two of its files, it is whole once the training that goes on from its last state has written it.
    """
    place.mkdir(parents=True, exist_ok=True)
    for left in place.glob(f"{TEMPORARY}*"):
        shutil.rmtree(left, ignore_errors=True)
    learned_keys = material.documents.labelled.text_key_B[material.learned]
    earlier_keys = load_learned(checkpoint.identity.folder)
    weights = {
        name.removeprefix("encoder."): tensor for name, tensor in done.weights.items() if name.startswith("encoder.")
    }
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=place) as temporary:
        save_encoder(
            Path(temporary),
            checkpoint.model,
            weights,
            source=checkpoint.identity,
            learned_keys=np.concatenate([earlier_keys, learned_keys]),
        )
        for written in sorted(Path(temporary).iterdir(), key=lambda path: path.name == "config.json"):
            target = place / written.name
            if target.is_dir():
                shutil.rmtree(target)
            written.replace(target)
    return EncoderSource(
        name=str(place),
        pooling=checkpoint.identity.pooling,
        # Not 'auto': on a machine of another kind it would be another encoder.
        precision=cast(Precision, checkpoint.identity.precision),
    )
