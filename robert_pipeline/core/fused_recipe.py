"""The whole way from labelled vectors and words to a fused head, and what it and its parts are worth.

A head over chunk vectors and linear views of the words learn from the same documents; the documents held out say how
much each part counts. So that no figure is of documents that weights were fitted to, these are cut into two halves, and
each half is judged with the weights, calibration and thresholds that the other one gave. Arrays in, arrays out.
Axes: B documents, K logits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import cast

import numpy as np

from robert_pipeline.config import HeadConfig, HeadKind, Output, TrainingConfig
from robert_pipeline.core.compare import NAMES, OnStep, describe, rival_config, rival_training
from robert_pipeline.core.examples import Integers, TargetValues, logits
from robert_pipeline.core.fusion import Floats, fit_views, fit_weights, make_fusion, weighted
from robert_pipeline.core.judge import Answers, Contender, answers_from
from robert_pipeline.core.model import Calibration, Thresholds, TrainedHead, no_calibration
from robert_pipeline.core.origin import VectorOrigin
from robert_pipeline.core.recipe import as_trained, fit_probabilities, train_head
from robert_pipeline.core.split import Booleans
from robert_pipeline.core.targets import LabelledVectors, Targets, truth_mask
from robert_pipeline.core.terms import DocumentTokens

KINDS: tuple[HeadKind, ...] = ("robert", "mean")
"""Heads that are tried; the one under which held-out documents are most likely is kept."""
FUSED = "the model"
VIEW_NAMES = {"topic": "words: topic view", "style": "words: style view"}


@dataclass(frozen=True, kw_only=True, slots=True)
class FusedRecipe:
    """A head that reads vectors and words, and the answers of it and its parts to the held-out documents."""

    head: TrainedHead
    contenders: tuple[Contender, ...]
    """The fused model first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """The documents that judge."""

    documents: Integers
    first_half_B: Booleans
    """Which of them are judged with what the others gave, and the other way round."""


def train_fused(
    data: LabelledVectors,
    tokens: Callable[[Integers], DocumentTokens],
    targets: Targets,
    *,
    learned: Integers,
    held_out: HeldOut,
    head: HeadConfig,
    training: TrainingConfig,
    origin: VectorOrigin,
    seeds: Sequence[int],
    others: Sequence[tuple[str, str, Floats]] = (),
    on_step: OnStep = lambda _text, _done: None,
) -> FusedRecipe:
    """Train heads of `KINDS` with every seed and the views of the words once; weigh, calibrate and judge them.

    The views of the final head learn from all documents, with the weights that the held-out ones gave. `others` are
    models trained elsewhere: name, description and logits of the held-out documents. Raises TrainingError.
    """
    head = head.resolved(len(targets.labels))
    values = targets.values[held_out.documents]
    # Class weights shift the heads' logits, which are weighed as they would be without.
    shift, decision = as_trained(head, training, targets.values[learned], len(targets.labels))
    judge = _Judge(
        output=head.output,
        decision=decision,
        target_precision=training.target_precision,
        values=values,
        half_B=held_out.first_half_B,
    )
    tried: dict[HeadKind, list[_Trained]] = {}
    for number, kind in enumerate(dict.fromkeys((head.kind, *KINDS))):
        for place, seed in enumerate(seeds):
            on_step(f"{NAMES[kind]}, seed {seed}", (number + place / len(seeds)) / (len(KINDS) + 1))
            recipe = train_head(
                data,
                targets,
                learned=learned,
                held_out=held_out.documents,
                config=rival_config(kind, head),
                training=replace(rival_training(kind, training), seed=seed),
                origin=origin,
            )
            found = shift.apply(logits(recipe.head.module, data.vectors, held_out.documents))
            tried.setdefault(kind, []).append(_Trained(seed=seed, head=recipe.head, logits_BK=found))
    on_step("words", len(KINDS) / (len(KINDS) + 1))
    logit_count = tried[head.kind][0].head.logit_count
    views = fit_views(tokens(learned), targets.values[learned], logit_count=logit_count)
    held_tokens = tokens(held_out.documents)
    view_logits = [view.read(held_tokens).logits() for view in views]
    kept = min(tried.values(), key=lambda heads: np.mean([judge.loss([h.logits_BK, *view_logits]) for h in heads]))
    first = kept[0]
    fit = judge.fit([first.logits_BK, *view_logits], np.arange(len(values)))
    everything = np.concatenate([learned, held_out.documents])
    final = fit_views(tokens(everything), targets.values[everything], logit_count=logit_count)
    shifted = replace(shift, offset=tuple(fit.weights[0] * offset for offset in shift.offset))
    fused = replace(
        first.head,
        fusion=make_fusion(final, fit.weights),
        calibration=fit.calibration.after(shifted),
        thresholds=fit.thresholds,
    )
    words = [(VIEW_NAMES[view.view], "linear SVM", found) for view, found in zip(views, view_logits, strict=True)]
    contenders = (
        _contender(FUSED, f"{describe(first.head.config)}; words; weighed together", judge, kept, view_logits),
        *(_contender(NAMES[kind], describe(heads[0].head.config), judge, heads) for kind, heads in tried.items()),
        *(_single(name, description, judge, found) for name, description, found in (*words, *others)),
    )
    return FusedRecipe(head=fused, contenders=contenders)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trained:
    """A head, and its logits of the held-out documents, as they would be without class weights."""

    seed: int
    head: TrainedHead
    logits_BK: Floats


def _single(name: str, description: str, judge: "_Judge", logits_BK: Floats) -> Contender:
    """A model that was trained once."""
    return Contender(name=name, description=description, answers=(judge.answers([logits_BK], 0),))


def _contender(
    name: str, description: str, judge: "_Judge", heads: Sequence[_Trained], view_logits: Sequence[Floats] = ()
) -> Contender:
    """Heads of one kind, each with the words or by itself."""
    answers = tuple(judge.answers([head.logits_BK, *view_logits], head.seed) for head in heads)
    return Contender(name=name, description=description, answers=answers)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fit:
    """How much each part counts, and what their sum is to be taken for."""

    weights: tuple[float, ...]
    calibration: Calibration
    thresholds: Thresholds


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judge:
    """Judges each half of the held-out documents with what the other half gave."""

    output: Output
    decision: tuple[float, ...]
    target_precision: float | None
    values: TargetValues
    half_B: Booleans

    def loss(self, parts: Sequence[Floats]) -> float:
        """Mean negative log-likelihood (nats a document) of the true labels."""
        found = self.answers(parts, 0)
        truth_BK = truth_mask(self.values, len(self.decision))
        likely = np.where(
            truth_BK, found.probabilities_BK, 1 - found.probabilities_BK if self.output == "multilabel" else 1
        )
        return float(-np.log(np.maximum(likely, 1e-12)).sum() / max(1, len(likely)))

    def answers(self, parts: Sequence[Floats], seed: int) -> Answers:
        """The answers of parts weighed together."""
        halves = [np.flatnonzero(self.half_B), np.flatnonzero(~self.half_B)]
        given = [self._half(parts, fitted, judged, seed) for judged, fitted in (halves, halves[::-1])]
        values: dict[str, object] = {"seed": seed, "seconds": None}
        for field in fields(Answers):
            if field.name not in values:
                both = [cast(np.ndarray, getattr(answers, field.name)) for answers in given]
                whole = np.empty((len(self.half_B), *both[0].shape[1:]), both[0].dtype)
                for rows, part in zip(halves, both, strict=True):
                    whole[rows] = part
                values[field.name] = whole
        return Answers(**values)  # type: ignore[arg-type]

    def fit(self, parts: Sequence[Floats], documents: Integers) -> _Fit:
        """What these of the held-out documents say of parts weighed together."""
        chosen, values = [part[documents] for part in parts], self.values[documents]
        # A part by itself stays as it is: a weight would calibrate it.
        weights = fit_weights(chosen, values, self.output) if len(parts) > 1 else (1.0,)
        calibration, thresholds = fit_probabilities(
            weighted(chosen, weights),
            values,
            self.output,
            no_calibration(parts[0].shape[1]),
            self.decision,
            self.target_precision,
            is_centred=True,
        )
        return _Fit(weights=weights, calibration=calibration, thresholds=thresholds)

    def _half(self, parts: Sequence[Floats], fitted: Integers, judged: Integers, seed: int) -> Answers:
        fit = self.fit(parts, fitted)
        fused = weighted([part[judged] for part in parts], fit.weights)
        return answers_from(fused, self.output, fit.calibration, fit.thresholds, seed=seed)
