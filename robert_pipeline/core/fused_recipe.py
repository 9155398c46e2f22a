"""From labelled vectors and words to a fused head, and what it and its parts are worth.

A head over chunk vectors and linear views of the words learn from the same documents; documents that none of them has
seen say how much each part counts. Where there are few, several trainings, each with other documents held out, judge
more of them, and a last one learns from all. So that a figure is never of documents that it was fitted to, those
judged are cut into two halves, and each half is judged with the weights, calibration and thresholds that the other one
gave. Arrays in, arrays out. Axes: B documents, K logits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import cast

import numpy as np

from robert_pipeline.config import HeadConfig, HeadKind, Output, TrainingConfig
from robert_pipeline.core.compare import NAMES, OnStep, describe, rival_config, rival_training
from robert_pipeline.core.examples import Integers, TargetValues, logits
from robert_pipeline.core.fusion import Floats, fit_views, fit_weights, make_fusion, weighted
from robert_pipeline.core.judge import Answers, Contender, answers_from
from robert_pipeline.core.lexical import LexicalView
from robert_pipeline.core.model import TrainedHead, no_calibration
from robert_pipeline.core.origin import VectorOrigin
from robert_pipeline.core.recipe import Recipe, finish_head, fit_probabilities, train_head
from robert_pipeline.core.split import Booleans
from robert_pipeline.core.targets import LabelledVectors, Targets, truth_mask
from robert_pipeline.core.terms import DocumentTokens

KINDS: tuple[HeadKind, ...] = ("robert", "mean")
"""Heads that are tried; the one under which held-out documents are most likely is kept."""
FUSED = "the model"
VIEW_NAMES = {"topic": "words: topic view", "style": "words: style view"}

ReadTokens = Callable[[Integers], DocumentTokens]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """Documents, and what parts that have not learned from them say of them."""

    text_key_B: Integers
    targets: TargetValues
    lengths_B: Integers
    """Chunks of each."""
    heads: Mapping[HeadKind, tuple[Floats, ...]]
    """Logits (B, K) of every kind of head, one for each seed."""
    views: tuple[Floats, ...]
    """Logits of the views of the words."""
    rivals: Mapping[str, Floats]
    """Logits of models trained elsewhere, by name."""

    def __len__(self) -> int:
        return len(self.text_key_B)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """Heads trained on some documents, and the others judged."""

    recipes: Mapping[HeadKind, Recipe]
    """Of the first seed."""
    judged: Judged


@dataclass(frozen=True, kw_only=True, slots=True)
class FusedRecipe:
    """A head that reads vectors and words, and the answers of it and its parts to documents they had not seen."""

    head: TrainedHead
    contenders: tuple[Contender, ...]
    """The fused model first."""


def try_parts(
    data: LabelledVectors,
    tokens: ReadTokens,
    targets: Targets,
    *,
    learned: Integers,
    held_out: Integers,
    head: HeadConfig,
    training: TrainingConfig,
    origin: VectorOrigin,
    seeds: Sequence[int],
    rivals: Mapping[str, Floats],
    on_step: OnStep = lambda _text, _done: None,
) -> Trial:
    """Train heads of `KINDS` with every seed, and the views of the words once, on `learned`; ask them of `held_out`.

    `rivals` are the logits of other models for `held_out`. Raises TrainingError.
    """
    head = head.resolved(len(targets.labels))
    recipes: dict[HeadKind, Recipe] = {}
    answers: dict[HeadKind, tuple[Floats, ...]] = {}
    for number, kind in enumerate(dict.fromkeys((head.kind, *KINDS))):
        found: list[Floats] = []
        for place, seed in enumerate(seeds):
            on_step(f"{NAMES[kind]}, seed {seed}", (number + place / len(seeds)) / (len(KINDS) + 1))
            recipe = train_head(
                data,
                targets,
                learned=learned,
                held_out=held_out,
                config=rival_config(kind, head),
                training=replace(rival_training(kind, training), seed=seed),
                origin=origin,
            )
            recipes.setdefault(kind, recipe)
            found.append(logits(recipe.head.module, data.vectors, held_out))
        answers[kind] = tuple(found)
    on_step("words", len(KINDS) / (len(KINDS) + 1))
    logit_count = recipes[head.kind].head.logit_count
    views = fit_views(tokens(learned), targets.values[learned], logit_count=logit_count)
    held_tokens = tokens(held_out)
    judged = Judged(
        text_key_B=data.text_key_B[held_out],
        targets=targets.values[held_out],
        lengths_B=data.vectors.lengths_B[held_out],
        heads=answers,
        views=tuple(view.read(held_tokens).logits() for view in views),
        rivals=rivals,
    )
    return Trial(recipes=recipes, judged=judged)


def joined(parts: Sequence[Judged]) -> Judged:
    """The documents of several trials, one after the other."""
    first = parts[0]
    return Judged(
        text_key_B=np.concatenate([part.text_key_B for part in parts]),
        targets=np.concatenate([part.targets for part in parts]),
        lengths_B=np.concatenate([part.lengths_B for part in parts]),
        heads={
            kind: tuple(np.concatenate(seed) for seed in zip(*(part.heads[kind] for part in parts), strict=True))
            for kind in first.heads
        },
        views=tuple(np.concatenate(view) for view in zip(*(part.views for part in parts), strict=True)),
        rivals={name: np.concatenate([part.rivals[name] for part in parts]) for name in first.rivals},
    )


def likeliest_kind(judged: Judged, first_half_B: Booleans, *, output: Output, label_count: int) -> HeadKind:
    """The kind of head with which, words and all, the judged documents are most likely."""
    judge = _Judge(output=output, label_count=label_count, values=judged.targets, half_B=first_half_B)
    return min(
        judged.heads,
        key=lambda kind: float(np.mean([judge.loss([found, *judged.views]) for found in judged.heads[kind]])),
    )


def train_on_all(
    trials: Sequence[Trial],
    kind: HeadKind,
    data: LabelledVectors,
    targets: Targets,
    *,
    training: TrainingConfig,
    origin: VectorOrigin,
) -> Recipe:
    """A head of this kind that learns from all documents for as long as the trials' heads did best with."""
    recipes = [trial.recipes[kind] for trial in trials]
    epochs = max(1, round(float(np.mean([recipe.fit.best_epoch for recipe in recipes]))))
    return train_head(
        data,
        targets,
        learned=np.arange(len(data)),
        held_out=np.empty(0, np.int64),
        config=recipes[0].head.config,
        training=replace(rival_training(kind, training), epochs=epochs),
        origin=origin,
    )


def fuse(
    recipe: Recipe,
    views: Sequence[LexicalView],
    judged: Judged,
    first_half_B: Booleans,
    *,
    target_precision: float | None,
    configs: Mapping[HeadKind, HeadConfig],
    rivals: Mapping[str, str],
) -> FusedRecipe:
    """Weigh the recipe's head and the views, calibrate their sum and judge it, by documents that none had seen.

    `configs` are those of the judged heads, `rivals` what to say of the judged rivals.
    """
    config, label_count = recipe.head.config, len(recipe.head.labels)
    judge = _Judge(output=config.output, label_count=label_count, values=judged.targets, half_B=first_half_B)
    parts = [judged.heads[config.kind][0], *judged.views]
    weights = fit_weights(parts, judged.targets, config.output)
    fused, _ = finish_head(
        replace(
            recipe.head,
            fusion=make_fusion(views, weights),
            calibration=no_calibration(recipe.head.logit_count),
        ),
        weighted(parts, weights),
        judged.targets,
        target_precision,
        is_centred=True,
    )

    def seeds(kind: HeadKind, *others: Floats) -> tuple[Answers, ...]:
        return tuple(judge.answers([found, *others], seed) for seed, found in enumerate(judged.heads[kind]))

    contenders = [
        Contender(
            name=FUSED,
            description=f"{describe(config)}; words; weighed together",
            answers=seeds(config.kind, *judged.views),
        ),
        *(
            Contender(name=NAMES[kind], description=describe(configs[kind]), answers=seeds(kind))
            for kind in judged.heads
        ),
        *(
            Contender(name=VIEW_NAMES[view.view], description="linear SVM", answers=(judge.answers([found], 0),))
            for view, found in zip(views, judged.views, strict=True)
        ),
        *(
            Contender(name=name, description=rivals[name], answers=(judge.answers([found], 0),))
            for name, found in judged.rivals.items()
        ),
    ]
    return FusedRecipe(head=fused, contenders=tuple(contenders))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judge:
    """Judges each half of the held-out documents with what the other half gave."""

    output: Output
    label_count: int
    values: TargetValues
    half_B: Booleans

    def loss(self, parts: Sequence[Floats]) -> float:
        """Mean negative log-likelihood (nats a document) of the true labels."""
        found = self.answers(parts, 0)
        truth_BK = truth_mask(self.values, self.label_count)
        likely = np.where(
            truth_BK, found.probabilities_BK, 1 - found.probabilities_BK if self.output == "multilabel" else 1
        )
        return float(-np.log(np.maximum(likely, 1e-12)).sum() / max(1, len(likely)))

    def answers(self, parts: Sequence[Floats], seed: int) -> Answers:
        """The answers of parts weighed together."""
        halves = [np.flatnonzero(self.half_B), np.flatnonzero(~self.half_B)]
        given = [self._half(parts, fitted, judged, seed) for judged, fitted in (halves, halves[::-1])]
        values: dict[str, object] = {"seed": seed, "seconds": 0.0}
        for field in fields(Answers):
            if field.name not in values:
                both = [cast(np.ndarray, getattr(answers, field.name)) for answers in given]
                whole = np.empty((len(self.half_B), *both[0].shape[1:]), both[0].dtype)
                for rows, part in zip(halves, both, strict=True):
                    whole[rows] = part
                values[field.name] = whole
        return Answers(**values)  # type: ignore[arg-type]

    def _half(self, parts: Sequence[Floats], fitted: Integers, judged: Integers, seed: int) -> Answers:
        weights = fit_weights([part[fitted] for part in parts], self.values[fitted], self.output)
        calibration, thresholds = fit_probabilities(
            weighted([part[fitted] for part in parts], weights),
            self.values[fitted],
            self.output,
            no_calibration(parts[0].shape[1]),
            (0.5,) * self.label_count,
            None,
            is_centred=True,
        )
        fused = weighted([part[judged] for part in parts], weights)
        return answers_from(fused, self.output, calibration, thresholds, seed=seed)
