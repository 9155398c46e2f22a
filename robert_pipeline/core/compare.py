"""Train RoBERT and what it is held against on the same documents, several times, and judge all on the same others.

Labelled vectors (and, for TF-IDF, texts) in, an Evaluation out. Opens nothing. Axes: B documents, K labels.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from robert_pipeline.config import HeadConfig, HeadKind, TrainingConfig
from robert_pipeline.core.evaluation import Evaluation
from robert_pipeline.core.examples import Integers, logits
from robert_pipeline.core.judge import Answers, Contender, answers_from, evaluate
from robert_pipeline.core.origin import VectorOrigin
from robert_pipeline.core.recipe import as_trained, fit_probabilities, train_head
from robert_pipeline.core.targets import LabelledVectors, Targets
from robert_pipeline.core.tfidf import DESCRIPTION, tfidf_margins

Rival = Literal["robert", "mean", "first-chunk", "tobert", "tfidf"]
RIVALS: tuple[Rival, ...] = get_args(Rival)

NAMES: dict[Rival, str] = {
    "robert": "RoBERT",
    "mean": "mean of chunks",
    "first-chunk": "first chunk only",
    "tobert": "ToBERT",
    "tfidf": "TF-IDF + linear SVM",
}

OnStep = Callable[[str, float], None]
"""Told what is being done, and how much of all of it is done, 0 to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Documents by what they are for. No text is in two of the three."""

    learned: Integers
    held_out: Integers
    """To stop, calibrate and choose thresholds by."""
    test: Integers


def compare(
    data: LabelledVectors,
    targets: Targets,
    split: Split,
    *,
    head: HeadConfig,
    training: TrainingConfig,
    origin: VectorOrigin,
    seeds: Sequence[int],
    against: Sequence[Rival] = RIVALS,
    texts: Sequence[str] | None = None,
    facts: Sequence[tuple[str, str]] = (),
    on_step: OnStep = lambda _text, _done: None,
) -> Evaluation:
    """Train `head` and its rivals with every seed on the same split; judge them on its test documents.

    `texts`, one for every document of `data`, are needed for 'tfidf' only, which is trained once: no seed changes it.
    Raises TrainingError where a head cannot be trained.
    """
    head = head.resolved(len(targets.labels))
    configs = {kind: rival_config(kind, head) for kind in (head.kind, *against) if kind != "tfidf"}
    steps = len(configs) * len(seeds) + ("tfidf" in against)
    done = 0
    contenders: list[Contender] = []
    for kind, config in configs.items():
        answers = []
        for seed in seeds:

            def tell(fraction: float, text: str = f"{NAMES[kind]}, seed {seed}", before: int = done) -> None:
                on_step(text, (before + fraction) / steps)

            training_now = replace(rival_training(kind, training), seed=seed)
            answers.append(_head_answers(data, targets, split, config, training_now, origin, tell))
            done += 1
        contenders.append(Contender(name=NAMES[kind], description=describe(config), answers=tuple(answers)))
    if "tfidf" in against and texts is not None:
        on_step(NAMES["tfidf"], done / steps)
        margins = _tfidf_answers(targets, split, head, training, texts)
        contenders.append(Contender(name=NAMES["tfidf"], description=DESCRIPTION, answers=(margins,)))
    on_step("judging", 1.0)
    return evaluate(
        contenders,
        targets.truth_BK[split.test],
        data.vectors.lengths_B[split.test],
        labels=targets.labels,
        output=head.output,
        learned_documents=len(split.learned),
        held_out_documents=len(split.held_out),
        facts=facts,
    )


def rival_config(kind: HeadKind, head: HeadConfig) -> HeadConfig:
    """The configuration of a rival of `head`: its own where it is of that kind, else one that suits the kind."""
    if kind == head.kind:
        return head
    if kind == "tobert":
        return HeadConfig(kind="tobert", output=head.output, hidden=128, layers=2, dropout=0.1, attention_heads=4)
    return HeadConfig(kind=kind, output=head.output)


def rival_training(kind: HeadKind, training: TrainingConfig) -> TrainingConfig:
    """The same training, at a rate that a transformer learns with."""
    if kind != "tobert":
        return training
    return replace(training, learning_rate=min(training.learning_rate, 5e-4))


def describe(config: HeadConfig) -> str:
    """A head in a few words."""
    shapes = {
        "robert": f"{'bidirectional ' if config.bidirectional else ''}LSTM, "
        f"{config.layers} layer{'s' if config.layers > 1 else ''} of {config.hidden}",
        "tobert": f"transformer, {config.layers} layer{'s' if config.layers > 1 else ''} of {config.hidden}",
        "mean": "mean of the chunk vectors, linear",
        "first-chunk": "first chunk vector, linear",
    }
    extras = [f"{config.dense_units} ReLU units"] if config.dense_units else []
    extras += [f"dropout {config.dropout:g}"] if config.dropout else []
    return ", ".join([shapes[config.kind], *extras])


def _head_answers(
    data: LabelledVectors,
    targets: Targets,
    split: Split,
    config: HeadConfig,
    training: TrainingConfig,
    origin: VectorOrigin,
    tell: Callable[[float], None],
) -> Answers:
    started = time.monotonic()
    tell(0.0)
    recipe = train_head(
        data,
        targets,
        learned=split.learned,
        held_out=split.held_out,
        config=config,
        training=training,
        origin=origin,
        on_epoch=lambda epoch: tell(epoch.number / training.epochs),
    )
    test_logits_BK = logits(recipe.head.module, data.vectors, split.test)
    return answers_from(
        test_logits_BK,
        recipe.head.config.output,
        recipe.head.calibration,
        recipe.head.thresholds,
        seed=training.seed,
        seconds=time.monotonic() - started,
    )


def _tfidf_answers(
    targets: Targets, split: Split, head: HeadConfig, training: TrainingConfig, texts: Sequence[str]
) -> Answers:
    """Calibrated on the held-out documents, then trained again with them: it needs none to stop by."""
    started = time.monotonic()
    values, output, count = targets.values, head.output, len(targets.labels)
    logit_count = 1 if output == "binary" else count

    def margins(learned: Integers, asked: Integers) -> np.ndarray:
        return tfidf_margins(
            [texts[document] for document in learned],
            values[learned],
            [texts[document] for document in asked],
            logit_count=logit_count,
            class_weight=training.class_weight,
        )

    # An SVM's class weights move its margins by no known amount: the calibration finds it.
    calibration, decision = as_trained(head, replace(training, class_weight="none"), values[split.learned], count)
    held_out_BK = margins(split.learned, split.held_out) if len(split.held_out) else np.empty((0, logit_count))
    calibration, thresholds = fit_probabilities(
        held_out_BK, values[split.held_out], output, calibration, decision, training.target_precision
    )
    everything = np.sort(np.concatenate([split.learned, split.held_out]))
    return answers_from(
        margins(everything, split.test), output, calibration, thresholds, seconds=time.monotonic() - started
    )
