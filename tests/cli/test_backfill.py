"""`robert backfill`: its plan, its price list and its refusals."""

import pytest

from robert_pipeline.runs.partition import run_partition
from tests.e2e.conftest import write_settings
from tests.history import commits, days, write_history


@pytest.fixture
def settings(project, tmp_path):
    """Two days, none of them published, and robert.toml in the current folder."""
    settings = write_history(project, tmp_path, 2)
    write_settings(settings, tmp_path / "robert.toml")
    return settings


def test_a_plan_shows_what_is_to_do_and_what_it_costs(robert, settings):
    """An operator would find out what a backfill costs by paying for it."""
    shown = robert("backfill", "--dry-run")
    assert (shown.code, shown.err) == (0, "")
    assert "2 partitions: 2 missing" in shown.out
    assert "8, of which 8 to embed" in shown.out
    assert "hours are unknown" in shown.out
    run_partition(settings, days(1)[0], run_id="1")
    shown = robert("backfill", "--dry-run", "--reprocess", "completed", "--newest-first", "--since", "2026-02-01")
    assert "2 partitions: 1 completed, 1 missing" in shown.out
    assert shown.out.index(days(2)[1]) < shown.out.index(days(2)[0]), "not the newest first"
    assert "money at 2.00 an hour" in shown.out
    assert "hours come from 1 earlier runs" in shown.out
    assert commits(settings).keys() == {days(1)[0]}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--since", "soon"], "--since is 'soon'"),
        (["--since", "2027-01-01"], "no partition from 2027-01-01"),
        (["--reprocess", "all"], "--reprocess is 'all'"),
        (["--budget", "1"], "whether this stays within the budget is unknown"),
        (["--partition", "day=9"], "has no partition 'day=9'"),
    ],
)
def test_what_cannot_be_planned_is_said_in_a_line(robert, settings, options, words):
    """A typing error would start a backfill of another range, or of everything."""
    shown = robert("backfill", *options)
    assert shown.code == 1
    assert words in shown.err
    assert commits(settings) == {}
