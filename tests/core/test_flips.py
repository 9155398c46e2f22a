"""What changes when another head labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robert_pipeline.core.flips import (
    WITHHELD,
    FlipTally,
    HeadAnswers,
    TruthChange,
    answers_of,
    joined,
    outcome_name,
)
from robert_pipeline.core.model import Thresholds
from robert_pipeline.core.score import score
from tests.heads import documents, flat, trained

LABELS = ("a", "b", "c")
outcomes = st.sampled_from([(), ("a",), ("b",), ("a", "b"), WITHHELD])
pairs = st.lists(st.tuples(outcomes, outcomes, st.sampled_from([None, ("a",), ("b",)])), max_size=30)


def answers(given, *, labels=LABELS, probabilities=None, first=0, chosen=None):
    count = len(given)
    probabilities_BK = np.array(probabilities or [[0.2, 0.7, 0.1]] * count, float).reshape(count, len(labels))
    return HeadAnswers(
        labels=tuple(labels),
        doc_ids=tuple(f"d{first + number}" for number in range(count)),
        given=tuple(given),
        chosen=tuple(chosen or given),
        probabilities_BK=probabilities_BK,
        probability_B=probabilities_BK.max(axis=1) if count else np.empty(0),
        passage_start_B=np.arange(count),
        passage_end_B=np.arange(count) + 5,
    )


def tallied(before, after, *, truth=None, fresh=None, shown=20):
    tally = FlipTally(shown_flips=shown)
    known = truth or {}
    tally.add("p", before, after, truth=known, fresh=set(known) if fresh is None else fresh)
    return tally.result()


@given(pairs)
def test_every_document_is_in_one_cell_of_the_flip_matrix(rows):
    """Flips would be counted twice or not at all, and a head be promoted that changes more than is allowed."""
    before, after = [row[0] for row in rows], [row[1] for row in rows]
    found = tallied(answers(before), answers(after))
    assert found.documents == len(rows)
    assert found.flips == sum(was != becomes for was, becomes in zip(before, after, strict=True))
    for move in found.moves:
        assert move.documents == list(zip(before, after, strict=True)).count((move.before, move.after))
    for outcome, had, has in found.distribution:
        assert (had, has) == (before.count(outcome), after.count(outcome))
    # What moves is at least what the distribution shows, and a distribution cannot change by more than everything.
    assert 0 <= found.distribution_change <= found.flip_share + 1e-12 <= 1 + 1e-12
    assert len(found.top_flips) == min(found.flips, 20)


@given(pairs, st.integers(0, 30), st.randoms())
def test_the_order_and_the_cut_of_the_documents_change_nothing(rows, cut, random):
    """The verdict would depend on how a corpus is cut into work units."""
    truth = {f"d{number}": row[2] for number, row in enumerate(rows) if row[2] is not None}
    whole = tallied(answers([r[0] for r in rows]), answers([r[1] for r in rows]), truth=truth)
    parts = [(rows[:cut], 0), (rows[cut:], len(rows[:cut]))]
    random.shuffle(parts)
    tally = FlipTally()
    for part, first in parts:
        before = answers([row[0] for row in part], first=first)
        after = answers([row[1] for row in part], first=first)
        tally.add("p", before, after, truth=truth, fresh=set(truth))
    found = tally.result()
    assert found.moves == whole.moves
    assert found.truth == whole.truth
    assert [(f.doc_id, f.confidence) for f in found.top_flips] == [(f.doc_id, f.confidence) for f in whole.top_flips]


def test_documents_meet_by_their_id():
    """Heads for two encoders that do not reject the same documents would be compared on different texts."""
    before = answers([("a",), ("b",), ("a",)])
    after = answers([("b",), ("a",)], first=1)
    found = tallied(before, after)
    assert (found.documents, found.flips, found.only_before, found.only_after) == (2, 0, 1, 0)
    back = tallied(after, before)
    assert (back.documents, back.only_before, back.only_after) == (2, 0, 1)


def test_accuracy_is_of_what_nobody_has_learned_and_before_anything_is_withheld():
    """A candidate would look better on the documents that it was trained on, or by withholding what it errs in."""
    truth = {"d0": ("a",), "d1": ("b",), "d2": ("a",), "d3": ("a",)}
    before = answers([("a",), WITHHELD, ("b",), ("b",)], chosen=[("a",), ("b",), ("b",), ("b",)])
    after = answers([("a",), ("a",), ("a",), ("a",)])
    found = tallied(before, after, truth=truth, fresh={"d0", "d1", "d2"}).truth
    assert (found.documents, found.right_before, found.right_after, found.won, found.lost) == (3, 2, 2, 1, 1)
    assert found.gain == 0
    assert found.low < 0 < found.high
    assert tallied(before, after).truth is None


@pytest.mark.parametrize(
    ("was", "becomes", "confidence"),
    [
        (("a",), ("b",), 0.7),
        (WITHHELD, ("c",), 0.1),
        (("b",), WITHHELD, 0.3),
        (("a", "b"), ("b",), 0.8),
        ((), ("a", "b"), 0.7),
        (("old",), (), 1.0),
        ((), WITHHELD, 0.7),
    ],
)
def test_a_flip_is_as_sure_as_the_candidate_is_of_what_it_changes(was, becomes, confidence):
    """The flips that a person looks at would not be those that the new head insists on."""
    (flip,) = tallied(answers([was]), answers([becomes])).top_flips
    assert flip.confidence == pytest.approx(confidence)


def test_the_surest_flips_are_shown_the_surest_first():
    """A person would be shown twenty flips at random."""
    sure = [0.5 + number / 100 for number in range(40)]
    after = answers([("a",)] * 40, probabilities=[[p, 1 - p, 0] for p in sure])
    found = tallied(answers([("b",)] * 40), after, shown=3)
    assert [flip.doc_id for flip in found.top_flips] == ["d39", "d38", "d37"]


def test_outcomes_are_the_labels_that_are_published():
    """What is compared would not be what stands in the table."""
    vectors, lengths = flat(documents([1, 4, 2, 3, 5], seed=3))
    sure_B = score(trained(), vectors.numpy(), lengths.numpy()).probabilities_BK.max(axis=1)
    head = trained(thresholds=Thresholds(decision=(0.5,) * 3, review=(float(np.median(sure_B)),) * 3))
    scores = score(head, vectors.numpy(), lengths.numpy())
    ids = [f"d{i}" for i in range(5)]
    found = answers_of(head, scores, ids, np.arange(5), np.arange(5) + 9)
    assert found.given.count(WITHHELD) == 2
    for number in range(5):
        candidate = (head.labels[scores.candidate_B[number]],)
        assert found.chosen[number] == candidate
        assert found.given[number] == (candidate if sure_B[number] >= np.median(sure_B) else WITHHELD)
    assert found.probability_B.tolist() == sure_B.tolist()
    assert joined([found, found]).doc_ids == (*ids, *ids)


def test_a_document_that_cannot_be_scored_has_no_outcome():
    """A vector with NaN would be counted as a flip."""
    head = trained()
    vectors, lengths = flat(documents([2, 2]))
    vectors[3] = float("nan")
    found = answers_of(head, score(head, vectors.numpy(), lengths.numpy()), ["x", "y"], np.arange(2), np.arange(2))
    assert found.doc_ids == ("x",)


def test_several_labels_are_one_outcome():
    """A multi-label document that loses one of two labels would count as unchanged."""
    head = trained(output="multilabel")
    vectors, lengths = flat(documents([2, 3, 1, 4]))
    scores = score(head, vectors.numpy(), lengths.numpy())
    found = answers_of(head, scores, list("wxyz"), np.arange(4), np.arange(4))
    for number in range(4):
        assert found.given[number] == tuple(label for k, label in enumerate("abc") if scores.given_BK[number, k])


def test_outcomes_have_names():
    """A person would have to guess what an empty cell means."""
    named = [outcome_name(each) for each in (("a",), ("a", "b"), (), WITHHELD)]
    assert named == ["a", "a + b", "no label", "withheld for review"]


def test_a_gain_is_won_less_lost():
    """The sign of the change in accuracy would be wrong."""
    change = TruthChange(documents=10, right_before=5, right_after=7, won=3, lost=1, low=0, high=1)
    assert change.gain == pytest.approx(0.2)
