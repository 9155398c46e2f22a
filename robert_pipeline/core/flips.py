"""What changes when another head labels: the answers of two heads to the same documents in, a HeadDiff out.

Adds up batch by batch and keeps no documents but the most confident flips. Opens nothing; knows documents by their id.
Axes: B documents, K labels.
"""

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robert_pipeline.core.metrics import Booleans, Floats, Integers, paired_difference
from robert_pipeline.core.model import TrainedHead
from robert_pipeline.core.score import Scores, decide

Outcome = tuple[str, ...]
"""The labels a document gets, sorted; none where the head gives it none."""

WITHHELD: Outcome = ("",)
"""The outcome of a document whose only label is withheld for review; no label of a head is empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadAnswers:
    """What one head says of some documents. Characters are Unicode code points of the text, from 0."""

    labels: tuple[str, ...]
    doc_ids: tuple[str, ...]
    given: tuple[Outcome, ...]
    """What is published."""
    chosen: tuple[Outcome, ...]
    """The same before anything is withheld: what is right or wrong."""
    probabilities_BK: Floats
    probability_B: Floats
    """That of the candidate label."""
    passage_start_B: Integers
    passage_end_B: Integers


@dataclass(frozen=True, kw_only=True, slots=True)
class Flip:
    """A document that gets other labels. The passages are those that decided, as texts once they have been read."""

    partition: str
    doc_id: str
    before: Outcome
    after: Outcome
    probability_before: float
    """Of the label that was the most probable to the head before."""
    confidence: float
    """How sure the candidate is: the probability it gives to a label that it adds, or of the absence of one that it
    takes away."""
    truth: Outcome | None
    passage_before: str | tuple[int, int]
    passage_after: str | tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """How many documents go from one outcome to another, or stay."""

    before: Outcome
    after: Outcome
    documents: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TruthChange:
    """Share of documents that are right, before anything is withheld, where the truth is known and was not learned.

    `low` to `high` is the 95% interval of `gain`, over documents.
    """

    documents: int
    right_before: int
    right_after: int
    won: int
    """Wrong before, right after."""
    lost: int
    low: float
    high: float

    @property
    def gain(self) -> float:
        """By how much the share of right documents grows."""
        return (self.won - self.lost) / self.documents


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadDiff:
    """Two heads on the same documents; counts are of those that both label."""

    documents: int
    moves: tuple[Move, ...]
    """The most frequent first, those that stay among them."""
    top_flips: tuple[Flip, ...]
    """The most confident first."""
    truth: TruthChange | None
    """None where no truth is known."""
    only_before: int
    """Documents that the candidate cannot label and the head before can."""
    only_after: int

    @property
    def flips(self) -> int:
        """Documents that get other labels."""
        return sum(move.documents for move in self.moves if move.before != move.after)

    @property
    def flip_share(self) -> float:
        """Share of documents that get other labels."""
        return self.flips / self.documents if self.documents else 0.0

    @property
    def distribution(self) -> tuple[tuple[Outcome, int, int], ...]:
        """(outcome, documents before, documents after), the most frequent before first."""
        before, after = Counter[Outcome](), Counter[Outcome]()
        for move in self.moves:
            before[move.before] += move.documents
            after[move.after] += move.documents
        names = sorted(before.keys() | after.keys(), key=lambda name: (-before[name], -after[name], name))
        return tuple((name, before[name], after[name]) for name in names)

    @property
    def distribution_change(self) -> float:
        """Total variation: the share of documents that would have to move for one distribution to become the other."""
        moved = sum(abs(after - before) for _, before, after in self.distribution)
        return moved / (2 * self.documents) if self.documents else 0.0


def answers_of(
    head: TrainedHead, scores: Scores, doc_ids: Sequence[str], start_B: Integers, end_B: Integers
) -> HeadAnswers:
    """What scores come to, of those documents that could be scored. `start_B` and `end_B` bound the passages."""
    kept = np.flatnonzero(scores.finite_B)
    output = head.config.output
    probabilities_BK = scores.probabilities_BK[kept]
    candidate_B, chosen_BK, _ = decide(probabilities_BK, output, head.thresholds.without_review)
    given = _outcomes(head.labels, scores.given_BK[kept])
    review_B = scores.needs_review_B[kept]
    return HeadAnswers(
        labels=head.labels,
        doc_ids=tuple(doc_ids[document] for document in kept.tolist()),
        given=tuple(WITHHELD if review and not each else each for review, each in zip(review_B, given, strict=True)),
        chosen=_outcomes(head.labels, chosen_BK),
        probabilities_BK=probabilities_BK,
        probability_B=probabilities_BK[np.arange(len(kept)), candidate_B],
        passage_start_B=start_B[kept],
        passage_end_B=end_B[kept],
    )


def joined(parts: Sequence[HeadAnswers]) -> HeadAnswers:
    """Answers of one head to one lot of documents after the other; there is at least one part."""
    return HeadAnswers(
        labels=parts[0].labels,
        doc_ids=tuple(doc_id for part in parts for doc_id in part.doc_ids),
        given=tuple(outcome for part in parts for outcome in part.given),
        chosen=tuple(outcome for part in parts for outcome in part.chosen),
        probabilities_BK=np.concatenate([part.probabilities_BK for part in parts]),
        probability_B=np.concatenate([part.probability_B for part in parts]),
        passage_start_B=np.concatenate([part.passage_start_B for part in parts]),
        passage_end_B=np.concatenate([part.passage_end_B for part in parts]),
    )


def _outcomes(labels: Sequence[str], given_BK: Booleans) -> tuple[Outcome, ...]:
    """Labels by name; equal outcomes are one object."""
    if not len(given_BK):
        return ()
    distinct_UK, index_B = np.unique(given_BK, axis=0, return_inverse=True)
    named = [tuple(sorted(labels[k] for k in np.flatnonzero(row_K).tolist())) for row_K in distinct_UK]
    return tuple(named[index] for index in index_B.reshape(-1).tolist())


class FlipTally:
    """Adds up the answers of two heads, part by part."""

    def __init__(self, *, shown_flips: int = 20) -> None:
        self._shown = shown_flips
        self._moves: Counter[tuple[Outcome, Outcome]] = Counter()
        self._top: list[Flip] = []
        self._right: Counter[tuple[bool, bool]] = Counter()
        self._only_before = 0
        self._only_after = 0

    def add(
        self, partition: str, before: HeadAnswers, after: HeadAnswers, *, truth: dict[str, Outcome], fresh: set[str]
    ) -> None:
        """Add documents of one partition, each of them once. `truth` by doc_id, where it is known; accuracy is taken of
        the documents in `fresh` only: those that neither head has learned from.
        """
        place = {doc_id: index for index, doc_id in enumerate(after.doc_ids)}
        pairs = [(old, place[doc_id]) for old, doc_id in enumerate(before.doc_ids) if doc_id in place]
        self._only_before += len(before.doc_ids) - len(pairs)
        self._only_after += len(after.doc_ids) - len(pairs)
        flips: list[Flip] = []
        for old, new in pairs:
            was, becomes, doc_id = before.given[old], after.given[new], before.doc_ids[old]
            self._moves[was, becomes] += 1
            if doc_id in truth and doc_id in fresh:
                self._right[before.chosen[old] == truth[doc_id], after.chosen[new] == truth[doc_id]] += 1
            if was != becomes:
                flips.append(_flip(partition, before, after, old, new, truth.get(doc_id)))
        self._top = heapq.nsmallest(
            self._shown, [*self._top, *flips], key=lambda flip: (-flip.confidence, flip.partition, flip.doc_id)
        )

    def result(self) -> HeadDiff:
        """What has been added so far."""
        moves = sorted(self._moves.items(), key=lambda item: (-item[1], item[0]))
        return HeadDiff(
            documents=self._moves.total(),
            moves=tuple(Move(before=was, after=becomes, documents=count) for (was, becomes), count in moves),
            top_flips=tuple(self._top),
            truth=_truth_change(self._right) if self._right else None,
            only_before=self._only_before,
            only_after=self._only_after,
        )


def _flip(partition: str, before: HeadAnswers, after: HeadAnswers, old: int, new: int, truth: Outcome | None) -> Flip:
    was, becomes = before.given[old], after.given[new]
    probability = dict(zip(after.labels, after.probabilities_BK[new].tolist(), strict=True))
    added = [probability[label] for label in becomes if label and label not in was]
    # A label that the candidate does not know has no chance with it.
    removed = [1.0 - probability.get(label, 0.0) for label in was if label and label not in becomes]
    return Flip(
        partition=partition,
        doc_id=before.doc_ids[old],
        before=was,
        after=becomes,
        probability_before=float(before.probability_B[old]),
        # Between 'withheld' and 'no label' nothing is added or taken away.
        confidence=max(added or removed or [float(after.probability_B[new])]),
        truth=truth,
        passage_before=(int(before.passage_start_B[old]), int(before.passage_end_B[old])),
        passage_after=(int(after.passage_start_B[new]), int(after.passage_end_B[new])),
    )


def _truth_change(right: Counter[tuple[bool, bool]]) -> TruthChange:
    both, lost, won, neither = right[True, True], right[True, False], right[False, True], right[False, False]
    before = np.repeat([1.0, 1.0, 0.0, 0.0], [both, lost, won, neither])
    after = np.repeat([1.0, 0.0, 1.0, 0.0], [both, lost, won, neither])
    _, low, high = paired_difference(after, before)
    return TruthChange(
        documents=right.total(),
        right_before=both + lost,
        right_after=both + won,
        won=won,
        lost=lost,
        low=low,
        high=high,
    )


def outcome_name(outcome: Outcome) -> str:
    """As a person reads it."""
    if outcome == WITHHELD:
        return "withheld for review"
    return " + ".join(outcome) if outcome else "no label"
