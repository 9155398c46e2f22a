"""The ledger of promotions in every sink."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robert_pipeline.errors import GateError
from robert_pipeline.storage.promotions import Promotion, add_entry, read_ledger, standing


def entry(number, *, action="promote", head="head-a", **changes):
    given = {
        "number": number,
        "action": action,
        "head_fingerprint": head,
        "previous_head_fingerprint": None,
        "encoder_fingerprint": "e" * 16,
        "chunking_fingerprint": "c" * 16,
        "model": "model",
        "decided_by": "ada@machine",
        "decided_at": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
        "run_id": "run-1",
    }
    return Promotion(**given | changes)


def test_an_entry_comes_back_as_it_was_written(sink):
    """Who promoted a head, and on what, would be changed on its way through the warehouse."""
    full = entry(
        1,
        head='h"1',
        previous_head_fingerprint="before",
        reason="it's better\n😀",
        compared_partitions=("day=1", "a/b"),
        documents=100,
        flips=3,
        measured=(("max_flip_share", 0.03),),
        limits=(("max_flip_share", 0.05), ("min_documents", 100.0)),
    )
    assert read_ledger(sink) == []
    add_entry(sink, full)
    add_entry(sink, entry(2))
    assert read_ledger(sink) == [full, entry(2)]


def test_of_eight_who_add_the_same_entry_one_succeeds(sink, warehouse, publisher):
    """Two heads would be the current one, or a promotion be lost without a word."""
    writers = [publisher(warehouse, "add_promotion", 1, f"head-{i}") for i in range(8)]
    said = sorted(writer.finished() for writer in writers)
    assert said == ["added"] + ["refused"] * 7
    assert len(read_ledger(sink)) == 1


def test_an_entry_is_never_replaced(sink):
    """The record of a decision would be written over by the next one."""
    add_entry(sink, entry(1))
    with pytest.raises(GateError, match=r"at the same moment \(entry 000001\)"):
        add_entry(sink, entry(1, head="head-b"))
    assert read_ledger(sink) == [entry(1)]


@given(st.lists(st.booleans(), max_size=20))
def test_going_back_undoes_the_last_promotion_that_stands(promotes):
    """After a rollback another head than the one before would label."""
    ledger, expected = [], []
    for number, promote in enumerate(promotes, 1):
        ledger.append(entry(number, action="promote" if promote else "rollback", head=f"head-{number}"))
        expected = [*expected, f"head-{number}"] if promote else expected[:-1]
    assert [each.head_fingerprint for each in standing(ledger)] == expected
