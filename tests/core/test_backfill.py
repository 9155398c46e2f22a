"""Which partitions a backfill chooses."""

import itertools
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robert_pipeline.core.backfill import (
    Made,
    PartitionFacts,
    State,
    check_reprocess,
    choose,
    in_range,
    parse_day,
    partition_day,
)
from robert_pipeline.errors import ConfigError

NOW = Made(encoder="e1", chunking="c1", head="h2")
WAYS = ["none", "failed", "stale", "completed"]


def facts(partition="day=2026-01-01", *, published=None, current="now", failed=False, made_by=None):
    return PartitionFacts(
        partition=partition,
        published_key=published,
        current_key=current,
        last_run_failed=failed,
        documents=10,
        text_bytes=1000,
        missing_text_bytes=500,
        missing_documents=5,
        published_by=made_by,
    )


KEYS = st.sampled_from([None, "now", "before"])
FACTS = st.lists(st.builds(lambda published, failed: facts(published=published, failed=failed), KEYS, st.booleans()))


@pytest.mark.parametrize(
    ("published", "failed", "state"),
    [
        (None, False, State.MISSING),
        (None, True, State.FAILED),
        ("before", False, State.STALE),
        ("before", True, State.FAILED),
        ("now", False, State.COMPLETED),
        ("now", True, State.COMPLETED),
    ],
)
def test_the_ledger_says_where_a_partition_stands(published, failed, state):
    """A partition that is up to date would be run again, or one that is not would be passed over."""
    assert facts(published=published, failed=failed).state is state


@given(FACTS)
def test_each_way_takes_all_that_the_one_before_takes(known):
    """A wider choice would leave out what a narrower one runs."""
    chosen = [choose(known, way, newest_first=False) for way in WAYS]
    for narrow, wide in itertools.pairwise(chosen):
        assert all(fact in wide for fact in narrow)
    assert all(fact.state is State.MISSING for fact in chosen[0])
    assert chosen[-1] == known


@given(FACTS, st.sampled_from(WAYS))
def test_newest_first_runs_the_same_partitions(known, way):
    """The order would change what is run."""
    assert choose(known, way, newest_first=True) == choose(known, way, newest_first=False)[::-1]


@pytest.mark.parametrize(
    ("made_by", "words"),
    [
        (Made(encoder="e1", chunking="c1", head="h1"), "made by head h1"),
        (Made(encoder="e0", chunking="c1", head="h1"), "made by encoder e0, head h1"),
        (NOW, "documents or contract have changed"),
        (None, "another version"),
    ],
)
def test_a_stale_partition_says_why(made_by, words):
    """An operator could not tell a new head from changed documents."""
    assert facts(published="before", made_by=made_by).why(NOW) == words
    assert facts(published="now", made_by=made_by).why(NOW) == ""


@pytest.mark.parametrize(
    ("name", "day"),
    [
        ("day=2026-01-31", date(2026, 1, 31)),
        ("dt=20260131", date(2026, 1, 31)),
        ("year=2026/month=01/day=31", date(2026, 1, 31)),
        ("year=2026/month=2", date(2026, 2, 1)),
        ("source=bbc/day=2026-01-31", date(2026, 1, 31)),
        ("day=2026-02-31", None),
        ("all", None),
        ("id=120260131", None),
    ],
)
def test_days_are_found_in_names(name, day):
    """A range would leave out partitions that are in it."""
    assert partition_day(name) == day


@given(st.lists(st.dates(date(2000, 1, 1), date(2030, 1, 1)), unique=True), st.dates(), st.dates())
def test_a_range_holds_both_its_ends_and_is_in_order(days, one, other):
    """The first or the last day of a range would be left out."""
    since, until = sorted((one, other))
    names = [f"day={day}" for day in days]
    assert in_range(names, since=since, until=until) == [f"day={d}" for d in sorted(days) if since <= d <= until]
    assert in_range(names, since=None, until=None) == sorted(names)


def test_what_cannot_be_chosen_is_said():
    """A typing error would run another range, or nothing."""
    with pytest.raises(ConfigError, match="'all' holds no day"):
        in_range(["all"], since=date(2026, 1, 1), until=None)
    with pytest.raises(ConfigError, match="later than --until"):
        in_range([], since=date(2026, 1, 2), until=date(2026, 1, 1))
    with pytest.raises(ConfigError, match="--since is 'yesterday'"):
        parse_day("--since", "yesterday")
    with pytest.raises(ConfigError, match="none, failed, stale, completed"):
        check_reprocess("all")
    assert in_range(["all"], since=None, until=None) == ["all"]
