"""From the values of a label column to what a head learns: its labels, in order, and each document's target.

Axes: B documents, K labels. Refuses what cannot be learned, naming the label; never guesses one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robert_pipeline.config import HeadConfig, TrainingConfig
from robert_pipeline.core.examples import DocumentVectors, Integers, TargetValues
from robert_pipeline.core.split import Booleans
from robert_pipeline.errors import TrainingError

NAMED_IN_ERRORS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """Documents with labels: the value of the label column, and a key that equal texts share."""

    label_names: tuple[str, ...]
    """Distinct values of the label column."""
    label_B: Integers
    """Index into `label_names`."""
    text_key_B: Integers

    def __len__(self) -> int:
        return len(self.label_B)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledVectors(Labelled):
    """Documents with labels and chunk vectors."""

    vectors: DocumentVectors


@dataclass(frozen=True, kw_only=True, slots=True)
class Targets:
    """The labels of a head and what each document should get."""

    labels: tuple[str, ...]
    values: TargetValues

    @property
    def truth_BK(self) -> Booleans:  # noqa: N802
        """The truth as one column a label."""
        return truth_mask(self.values, len(self.labels))


def truth_mask(values: TargetValues, label_count: int) -> Booleans:
    """Targets as one column a label."""
    if values.ndim == 2:
        return values.astype(bool)
    mask_BK: Booleans = values[:, None] == np.arange(label_count)
    return mask_BK


def make_targets(data: Labelled, learning: Integers, config: HeadConfig, training: TrainingConfig) -> Targets:
    """The labels that the documents `learning` have, sorted, and the target of every document of `data`.

    A binary head's positive label comes last. Raises TrainingError for fewer than two labels, a label with fewer than
    two documents to learn from, and one that only other documents have.
    """
    multilabel = config.output == "multilabel"
    parts = [label_parts(name, training.label_separator) if multilabel else [name] for name in data.label_names]
    found = sorted({part for group in parts for part in group})
    labels = found if multilabel else _with_positive_last(found, training.positive_label)
    targets = targets_for(labels, data, multilabel=multilabel, separator=training.label_separator)
    _check_counts(labels, targets.truth_BK[learning].sum(axis=0), multilabel=multilabel)
    return targets


def targets_for(labels: Sequence[str], data: Labelled, *, multilabel: bool, separator: str) -> Targets:
    """The target of every document under labels that are fixed already.

    Raises TrainingError, naming it, for a label of the data that is not among them.
    """
    rank = {label: k for k, label in enumerate(labels)}
    mask = np.zeros((len(data.label_names), len(labels)), bool)
    for row, name in enumerate(data.label_names):
        for part in label_parts(name, separator) if multilabel else [name]:
            if part not in rank:
                count = int((data.label_B == row).sum())
                raise TrainingError(
                    f"label '{part}' of {count} document{'s' if count != 1 else ''} is none of the head's labels",
                    fix=f"Leave these documents out, or train a head that knows it; this one has: {_some(labels)}",
                )
            mask[row, rank[part]] = True
    values: TargetValues = mask[data.label_B] if multilabel else mask.argmax(axis=1)[data.label_B]
    return Targets(labels=tuple(labels), values=values)


def label_parts(value: str, separator: str) -> list[str]:
    """The labels in a value of a multi-label column; the separator alone is a document that has none."""
    return [part for part in (part.strip() for part in value.split(separator)) if part]


def _with_positive_last(labels: list[str], positive: str | None) -> list[str]:
    if positive is None:
        return labels
    if positive not in labels:
        raise TrainingError(f"no document has the positive label '{positive}'", fix=f"The labels are: {_some(labels)}")
    if len(labels) != 2:
        raise TrainingError(
            f"training.positive_label is '{positive}', but there are {len(labels)} labels",
            fix="Leave it out: only a head for two labels has a positive one",
        )
    return [label for label in labels if label != positive] + [positive]


def _check_counts(labels: Sequence[str], counts: Integers, *, multilabel: bool) -> None:
    if len(labels) < (1 if multilabel else 2):
        found = f"only '{labels[0]}'" if labels else "none"
        raise TrainingError(f"there are fewer than two labels to learn: {found}", fix="Add documents of other labels")
    for number, count in enumerate(("no document", "one document")):
        if rare := [f"'{label}'" for label, has in zip(labels, counts, strict=True) if has == number]:
            label, have = ("label", "has") if len(rare) == 1 else ("labels", "have")
            raise TrainingError(
                f"{label} {_some(rare)} {have} {count} to learn from; two are needed",
                fix="Add documents of each, or take them out of the corpus",
            )


def _some(labels: Sequence[str]) -> str:
    return ", ".join(labels[:NAMED_IN_ERRORS]) + (", …" if len(labels) > NAMED_IN_ERRORS else "")
