"""What heads are worth on labelled documents: train and compare several, or judge one that is there already.

Writes `evaluation.json` and `evaluation.html` into a folder.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robert_pipeline.config import Settings
from robert_pipeline.core.compare import RIVALS, OnStep, Rival, Split, compare, describe
from robert_pipeline.core.evaluation import Evaluation, to_json
from robert_pipeline.core.examples import Integers
from robert_pipeline.core.judge import Contender, answers_from
from robert_pipeline.core.judge import evaluate as judge
from robert_pipeline.core.model import TrainedHead
from robert_pipeline.core.recipe import split_validation
from robert_pipeline.core.split import Booleans, hold_out, text_fractions
from robert_pipeline.core.targets import make_targets, targets_for
from robert_pipeline.errors import ConfigError, TrainingError
from robert_pipeline.pages.evaluation import evaluation_page
from robert_pipeline.runs.labelled import head_logits, known_to_encoder, origin_of, read_texts, read_training_set
from robert_pipeline.runs.plan import Plan
from robert_pipeline.runs.score import load_head_for
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.heads import load_learned_keys
from robert_pipeline.storage.training_set import TrainingSet
from robert_pipeline.telemetry.watch import observed

JSON_FILE = "evaluation.json"
PAGE_FILE = "evaluation.html"


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Whom to train, and on which documents to judge them.

    Without `learn_from`, a share `test_fraction` of the planned documents, chosen by a hash of the text, is the test.
    With it, heads learn from these partitions and are judged on those of `judge_on`.
    """

    learn_from: tuple[str, ...] = ()
    judge_on: tuple[str, ...] = ()
    test_fraction: float = 0.2
    seeds: int = 3
    against: tuple[Rival, ...] = RIVALS

    def __post_init__(self) -> None:
        if not 0 < self.test_fraction < 1:
            raise ConfigError(f"the test fraction is {self.test_fraction}", fix="Give more than 0 and less than 1")
        if self.seeds < 1:
            raise ConfigError(f"the number of seeds is {self.seeds}", fix="Give at least 1")
        if self.learn_from and not self.judge_on:
            raise ConfigError("there is no partition to judge on", fix="Name one with --partition")
        if both := sorted(set(self.learn_from) & set(self.judge_on)):
            raise ConfigError(
                f"partition '{both[0]}' is to be learned from and judged on",
                fix="Name it once, or leave --train-partition out: then a share of its texts is held out",
            )
        if unknown := [name for name in self.against if name not in RIVALS]:
            raise ConfigError(f"there is no model '{unknown[0]}' to compare with", fix=f"There are {', '.join(RIVALS)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateReport:
    """What was found, and where it is written."""

    evaluation: Evaluation
    json_path: str
    page_path: str


@observed("evaluate")
def evaluate(
    settings: Settings,
    planned: Plan,
    comparison: Comparison,
    *,
    out: str,
    on_step: OnStep = lambda _text, _done: None,
) -> EvaluateReport:
    """Train `settings.head` and its rivals anew, judge all on the same documents; keeps no head.

    Documents that the encoder was fine-tuned on are learned from only. Raises TrainingError where labels are too few or
    unknown, StoreError for documents that are not embedded.
    """
    training = settings.training
    with tempfile.TemporaryDirectory(prefix="robert-evaluate-") as folder:
        on_step("reading vectors", 0.0)
        data = read_training_set(settings, planned, Path(folder) / "vectors.arrow")
        known_B = known_to_encoder(planned, data.text_key_B)
        learning, test = _learning_and_test(data, settings, comparison, known_B)
        targets = make_targets(data.labelled, learning, settings.head, training)
        learned, held_out = split_validation(data.labelled, learning, targets, training, known_B=known_B)
        texts = None
        if "tfidf" in comparison.against:
            on_step("reading texts", 0.0)
            texts = read_texts(settings, planned, data.text_key_B)
        evaluation = compare(
            data.labelled,
            targets,
            Split(learned=learned, held_out=held_out, test=test),
            head=settings.head,
            training=training,
            origin=origin_of(planned),
            seeds=range(training.seed, training.seed + comparison.seeds),
            against=comparison.against,
            texts=texts,
            facts=[*_data_facts(settings, planned, data), ("split", _split_fact(comparison, int(known_B.sum())))],
            on_step=on_step,
        )
    return _write(evaluation, out)


@observed("evaluate")
def evaluate_head(settings: Settings, planned: Plan, *, out: str) -> EvaluateReport:
    """Judge the head in `settings.model` as it is on the labelled documents of the planned partitions.

    Documents whose text it has learned from are left out. Raises TrainingError where none is left, or one has a label
    that the head does not know.
    """
    head = load_head_for(planned, model=settings.model)
    keys = load_learned_keys(settings.model)
    with tempfile.TemporaryDirectory(prefix="robert-evaluate-") as folder:
        data = read_training_set(settings, planned, Path(folder) / "vectors.arrow")
        fresh = np.flatnonzero(~np.isin(data.text_key_B, [] if keys is None else keys))
        if len(fresh) == 0:
            raise TrainingError(
                f"the head in {settings.model} has learned from all {len(data)} labelled documents",
                fix="Name other partitions with --partition",
            )
        targets = targets_for(
            head.labels,
            data.labelled,
            multilabel=head.config.output == "multilabel",
            separator=settings.training.label_separator,
        )
        answers = answers_from(head_logits(head, data, fresh), head.config.output, head.calibration, head.thresholds)
        evaluation = judge(
            [Contender(name=f"head {head.fingerprint}", description=describe(head.config), answers=(answers,))],
            targets.truth_BK[fresh],
            data.lengths_B[fresh],
            labels=head.labels,
            output=head.config.output,
            all_unseen=keys is not None,
            facts=[*_data_facts(settings, planned, data), *_head_facts(head, settings, keys, len(data) - len(fresh))],
        )
    return _write(evaluation, out)


def _learning_and_test(
    data: TrainingSet, settings: Settings, comparison: Comparison, known_B: Booleans
) -> tuple[Integers, Integers]:
    everything = np.arange(len(data))
    if comparison.learn_from:
        test = data.in_partitions(comparison.judge_on)
        test = test[~known_B[test]]
        learning = data.in_partitions(comparison.learn_from)
        learning = learning[~np.isin(data.text_key_B[learning], data.text_key_B[test])]
    else:
        targets = make_targets(data.labelled, everything, settings.head, settings.training)
        fraction_B = text_fractions(data.text_key_B, f"test/{settings.training.split}")
        # Half of what the encoder does not know is left to stop and calibrate by.
        test_B = hold_out(
            fraction_B, targets.truth_BK, comparison.test_fraction, keep=2, known_B=known_B, most_unknown=0.5
        )
        learning, test = everything[~test_B], everything[test_B]
    learned = f"; the encoder has learned from {known_B.sum()}" if known_B.any() else ""
    for found, what in ((learning, "learn from"), (test, f"judge by{learned}")):
        if len(found) == 0:
            raise TrainingError(
                f"of {len(data)} labelled documents there are none to {what}",
                fix="Name more partitions with --partition, or others with --train-partition",
            )
    return learning, test


def _data_facts(settings: Settings, planned: Plan, data: TrainingSet) -> list[tuple[str, str]]:
    chunking = settings.chunking
    left_out = f"{data.unlabelled:,} without a label, {data.not_finite:,} with vectors that are not finite"
    return [
        ("corpus", settings.corpus),
        ("partitions", _names([p.partition for p in planned.partitions])),
        ("label column", settings.columns.label),
        ("left out", left_out),
        ("encoder", f"{settings.encoder.name} ({planned.encoder.pooling} pooling, {planned.encoder.precision})"),
        ("chunks", f"{chunking.chunk_tokens} tokens, {chunking.overlap_tokens} of overlap"),
    ]


def _split_fact(comparison: Comparison, known: int) -> str:
    fact = f"{comparison.test_fraction:.0%} of the texts held out for the test by their hash"
    if comparison.learn_from:
        learned, judged = _names(comparison.learn_from), _names(comparison.judge_on)
        fact = f"learned from {learned}, judged on {judged}; no text is on both sides"
    return fact + (f"; none of the {known:,} that the encoder has learned from" if known else "")


def _head_facts(
    head: TrainedHead, settings: Settings, keys: Integers | None, already_known: int
) -> list[tuple[str, str]]:
    if keys is None:
        learned = "nobody knows what the head has learned from; where it was these documents, its figures flatter it"
    else:
        learned = f"{already_known:,} documents left out that it has learned from"
    calibration = f"{head.calibration.method}, fitted on {head.calibration.documents:,} documents"
    return [
        ("head", f"{settings.model}, fingerprint {head.fingerprint}"),
        ("learned from", learned),
        ("calibration", "none" if head.calibration.method == "none" else calibration),
    ]


def _names(names: Sequence[str], *, shown: int = 6) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def _write(evaluation: Evaluation, out: str) -> EvaluateReport:
    files = Files(out)
    files.write_bytes(JSON_FILE, to_json(evaluation).encode())
    files.write_bytes(PAGE_FILE, evaluation_page(evaluation).encode())
    return EvaluateReport(
        evaluation=evaluation, json_path=files.describe(JSON_FILE), page_path=files.describe(PAGE_FILE)
    )
