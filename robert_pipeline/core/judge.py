"""Judge answers: probabilities and the labels chosen from them, against the truth of the test documents.

The caller sees to it that no test document was learned from. Axes: B documents, K labels, S seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robert_pipeline.config import Output
from robert_pipeline.core.evaluation import Difference, Evaluation, LengthBand, ModelResult, Run
from robert_pipeline.core.metrics import (
    Booleans,
    Floats,
    Integers,
    all_right,
    calibration_score,
    class_scores,
    confusion,
    length_bands,
    macro_f1,
    paired_difference,
)
from robert_pipeline.core.model import Calibration, Thresholds, no_calibration
from robert_pipeline.core.score import decide, label_probabilities


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What one model, trained with one seed, says of every test document."""

    seed: int
    probabilities_BK: Floats
    """Calibrated."""
    uncalibrated_BK: Floats
    chosen_BK: Booleans
    """Labels chosen, before any is withheld."""
    given_BK: Booleans
    """Labels given: those chosen that are probable enough."""
    withheld_B: Booleans
    seconds: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """A model and its answers, one for each seed."""

    name: str
    description: str
    answers: tuple[Answers, ...]


def answers_from(
    logits_BK: Floats,
    output: Output,
    calibration: Calibration,
    thresholds: Thresholds,
    *,
    seed: int = 0,
    seconds: float | None = None,
) -> Answers:
    """What logits come to."""
    probabilities_BK = label_probabilities(logits_BK, calibration, output)
    _, chosen_BK, _ = decide(probabilities_BK, output, thresholds.without_review)
    _, given_BK, withheld_B = decide(probabilities_BK, output, thresholds)
    return Answers(
        seed=seed,
        probabilities_BK=probabilities_BK,
        uncalibrated_BK=label_probabilities(logits_BK, no_calibration(logits_BK.shape[1]), output),
        chosen_BK=chosen_BK,
        given_BK=given_BK,
        withheld_B=withheld_B,
        seconds=seconds,
    )


def evaluate(
    contenders: Sequence[Contender],
    truth_BK: Booleans,
    lengths_B: Integers,
    *,
    labels: Sequence[str],
    output: Output,
    learned_documents: int | None = None,
    held_out_documents: int | None = None,
    all_unseen: bool = True,
    facts: Sequence[tuple[str, str]] = (),
) -> Evaluation:
    """Everything there is to say of the contenders' answers to the same documents.

    `truth_BK` has one column a label, `lengths_B` the chunks of every document. Differences are the first
    contender's to each other one.
    """
    spans = length_bands(lengths_B)
    in_band = [(lengths_B >= fewest) & (lengths_B <= most) for fewest, most in spans]
    models = tuple(
        ModelResult(
            name=contender.name,
            description=contender.description,
            runs=tuple(_run(answers, truth_BK, in_band, labels, output) for answers in contender.answers),
        )
        for contender in contenders
    )
    right = [_right_share(contender, truth_BK) for contender in contenders]
    differences = tuple(
        Difference(against=contender.name, accuracy=mean, low=low, high=high)
        for contender, (mean, low, high) in zip(
            contenders[1:], (paired_difference(right[0], other) for other in right[1:]), strict=True
        )
    )
    return Evaluation(
        labels=tuple(labels),
        output=output,
        test_documents=len(truth_BK),
        learned_documents=learned_documents,
        held_out_documents=held_out_documents,
        bands=tuple(
            LengthBand(fewest=fewest, most=most, documents=int(mask.sum()))
            for (fewest, most), mask in zip(spans, in_band, strict=True)
        ),
        models=models,
        differences=differences,
        all_unseen=all_unseen,
        facts=tuple(facts),
    )


def _run(
    answers: Answers, truth_BK: Booleans, in_band: Sequence[Booleans], labels: Sequence[str], output: Output
) -> Run:
    multilabel = output == "multilabel"
    right_B = all_right(truth_BK, answers.chosen_BK)
    classes = class_scores(labels, truth_BK, answers.chosen_BK)
    kept_B = ~answers.withheld_B
    return Run(
        seed=answers.seed,
        accuracy=float(right_B.mean()),
        macro_f1=macro_f1(classes),
        classes=classes,
        confusion=() if multilabel else confusion(truth_BK, answers.chosen_BK),
        calibrated=calibration_score(answers.probabilities_BK, truth_BK, answers.chosen_BK, multilabel=multilabel),
        uncalibrated=calibration_score(answers.uncalibrated_BK, truth_BK, answers.chosen_BK, multilabel=multilabel),
        accuracy_by_length=tuple(float(right_B[mask].mean()) for mask in in_band),
        given_share=float(kept_B.mean()),
        given_accuracy=float(right_B[kept_B].mean()) if kept_B.any() else None,
        seconds=answers.seconds,
    )


def _right_share(contender: Contender, truth_BK: Booleans) -> Floats:
    """For every document the share of seeds that had it right (B,)."""
    right_SB = np.stack([all_right(truth_BK, answers.chosen_BK) for answers in contender.answers])
    shares_B: Floats = right_SB.mean(axis=0)
    return shares_B
