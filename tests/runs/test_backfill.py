"""Backfills on this machine: planned, priced, run, killed, stopped and run again."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from robert_pipeline.config import Bounds
from robert_pipeline.core.backfill import State
from robert_pipeline.errors import BudgetError, ClaimError, CorpusError, WarehouseError
from robert_pipeline.runs import backfill as backfill_run
from robert_pipeline.runs.backfill import run_backfill
from robert_pipeline.runs.backfill_plan import Selection, is_published, plan_backfill
from robert_pipeline.runs.partition import Steps, embed_step, publish_step, run_partition, score_step
from robert_pipeline.runs.partition_process import AWAY, REFUSED, Request, start
from robert_pipeline.storage.claims import claimed, open_claims
from robert_pipeline.storage.settings import settings_to_json
from robert_pipeline.storage.warehouse import Commit, open_warehouse
from tests.corpora import write_file
from tests.history import commits, days, write_day, write_history
from tests.projects import train_another_head

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 200
WAYS = ("none", "failed", "stale", "completed")


@pytest.fixture
def settings(project, tmp_path):
    """Two days, none of them published."""
    return write_history(project, tmp_path, 2)


def planned_for(settings, *, price_per_hour=None, **selection):
    return plan_backfill(settings, Selection(**selection), run_id="plan", price_per_hour=price_per_hour)


def test_the_plan_follows_the_ledger(project, settings, tmp_path):
    """A backfill would run what is up to date, or pass over what an older head has made."""
    first, second, third = days(3)
    write_day(tmp_path / "corpus", third)

    def broken(*_arguments):
        raise ZeroDivisionError("broken")

    before = planned_for(settings)
    assert [fact.state for fact in before.chosen] == [State.MISSING] * 3
    assert (before.estimate.documents, before.estimate.documents_to_embed, before.estimate.hours) == (12, 12, None)
    run_partition(settings, first, run_id="1")
    run_partition(settings, second, run_id="2")
    write_day(tmp_path / "corpus", second, documents=6)
    with pytest.raises(ZeroDivisionError):
        run_partition(settings, third, run_id="3", steps=Steps(embed=broken))
    known = planned_for(settings)
    assert [fact.state for fact in known.facts] == [State.COMPLETED, State.STALE, State.FAILED]
    assert known.facts[1].why(known.current) == "documents or contract have changed"
    chosen = {way: [fact.partition for fact in planned_for(settings, reprocess=way).chosen] for way in WAYS}
    assert chosen == {"none": [], "failed": [third], "stale": [second, third], "completed": [first, second, third]}

    newer = replace(settings, model=train_another_head(project, tmp_path / "other").model)
    new = planned_for(newer, reprocess="stale", until=date(2026, 2, 1), price_per_hour=2.0)
    assert [fact.state for fact in new.chosen] == [State.STALE]
    assert new.chosen[0].why(new.current).startswith("made by head ")
    assert (new.estimate.tokens_to_embed, new.estimate.embedded_share) == (0, 1.0)
    assert 0 < new.estimate.hours < 0.1
    assert new.estimate.money == 2 * new.estimate.hours


def test_a_range_without_partitions_is_an_error(settings):
    """A typing error in a date would look like a history that is up to date."""
    with pytest.raises(CorpusError, match="no partition from 2027-01-01"):
        planned_for(settings, since=date(2027, 1, 1))
    with pytest.raises(CorpusError, match="has no partition 'day=9'"):
        planned_for(settings, partitions=("day=9",))


def test_a_backfill_publishes_what_is_missing_and_compares_with_its_estimate(settings, tmp_path):
    """A backfill would leave days out, publish some twice, or not say what it took."""
    first, *rest = days(3)
    write_day(tmp_path / "corpus", days(3)[2])
    run_partition(settings, first, run_id="1")
    planned = planned_for(settings, price_per_hour=3600.0)
    assert planned.estimate.tokens_to_embed > 0
    with pytest.raises(BudgetError, match="nothing was run"):
        run_backfill(planned, budget=0.001)
    seen = []
    report = run_backfill(planned, max_active=2, on_ended=lambda ended, count: seen.append((ended.partition, count)))
    assert sorted(p.partition for p in report.partitions) == rest
    assert {(p.ending, p.attempts, p.documents) for p in report.partitions} == {("published", 1, 4)}
    assert [count for _, count in seen] == [1, 2]
    assert report.tokens == pytest.approx(planned.estimate.tokens_to_embed, rel=0.5)
    assert report.money == pytest.approx(report.hours * 3600)
    assert commits(settings) == dict.fromkeys(days(3), 1)
    assert planned_for(settings).chosen == ()


def test_what_fails_is_told_and_stops_nobody_else(settings, tmp_path):
    """One bad day would stop a year, or vanish from the report."""
    first, second = days(2)
    bounded = replace(settings, bounds=Bounds(max_reject_share=0.5))
    write_file(tmp_path / "corpus" / first / "a.parquet", doc_id=["a", "b"], text=[" ", ""])
    report = run_backfill(planned_for(bounded))
    assert [(p.partition, p.ending, p.attempts) for p in report.partitions] == [
        (first, "failed", 1),
        (second, "published", 1),
    ]
    assert "2 of 2 documents rejected" in report.partitions[0].error
    assert commits(settings).keys() == {second}
    assert planned_for(bounded).chosen == ()
    assert [fact.partition for fact in planned_for(bounded, reprocess="failed").chosen] == [first]
    assert run_partition(bounded, first, run_id="forced", force=True).published.rejected == 2
    assert run_partition(bounded, first, run_id="again").published.commit == Commit.ALREADY_COMMITTED


def test_a_partition_that_another_run_has_is_waited_for(settings):
    """Two planners would run the same partition, or one would give up on it."""
    first, second = days(2)
    planned = planned_for(settings)
    ready, ended = threading.Event(), []

    def hold():
        with claimed(open_claims(settings), first, "other"):
            ready.set()
            deadline = time.monotonic() + PATIENCE_SECONDS
            while second not in ended and time.monotonic() < deadline:
                time.sleep(0.05)
            publish_step(planned.settings, first, "other", False)

    with claimed(open_claims(settings), first, "first"), pytest.raises(ClaimError, match="run first works on"):
        run_partition(settings, first, run_id="mine")
    for step in (embed_step, score_step):
        step(planned.settings, first, "other")
    other = threading.Thread(target=hold)
    other.start()
    assert ready.wait(PATIENCE_SECONDS)
    report = run_backfill(planned, on_ended=lambda partition, _: ended.append(partition.partition))
    other.join()
    assert {p.partition: p.ending for p in report.partitions} == {first: "published elsewhere", second: "published"}
    assert commits(settings) == dict.fromkeys(days(2), 1)


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_ledger_out_of_reach_is_waited_for_and_stops_nobody_else(settings, monkeypatch, comes_back):
    """A database that restarts while another run ends would end a backfill of years, and what runs in it."""
    first, second = days(2)
    planned = planned_for(settings)
    look, asked = backfill_run.is_published, []

    def away(*arguments, **named):
        asked.append(1)
        if comes_back and len(asked) > 2:
            return look(*arguments, **named)
        raise WarehouseError("the catalog is out of reach", transient=True)

    monkeypatch.setattr(backfill_run, "is_published", away)
    monkeypatch.setattr(backfill_run, "LEDGER_POLL_SECONDS", 0.1)
    monkeypatch.setattr(backfill_run, "LEDGER_PATIENCE_SECONDS", 60.0 if comes_back else 0.3)
    held, ended = threading.Event(), threading.Event()

    def hold():
        with claimed(open_claims(settings), first, "other"):
            held.set()
            ended.wait(PATIENCE_SECONDS)

    other = threading.Thread(target=hold)
    other.start()
    assert held.wait(PATIENCE_SECONDS)
    report = run_backfill(planned, max_active=2, on_ended=lambda *_: ended.set())
    other.join()
    endings = {partition.partition: (partition.ending, partition.error) for partition in report.partitions}
    assert endings[second] == ("published", "")
    assert endings[first] == (("published", "") if comes_back else ("failed", "the catalog is out of reach"))
    assert len(asked) > 2


def test_a_partition_of_which_one_table_is_of_another_run_is_run_again(settings):
    """A run that is killed between two commits would leave documents in both tables or in neither, for good."""
    first, second = days(2)
    for day in (first, second):
        run_partition(settings, day, run_id="1")
    sink = open_warehouse(settings.warehouse)
    sink.replace_partition("rejects", first, [], "another-plan")
    planned = planned_for(settings)
    assert [fact.state for fact in planned.facts] == [State.MISSING, State.COMPLETED]
    assert not is_published(planned.settings, first, run_id="look")
    assert [p.ending for p in run_backfill(planned).partitions] == ["published"]
    assert sink.commit_keys("rejects") == sink.commit_keys("predictions")
    assert planned_for(settings).chosen == ()


def test_what_may_go_away_is_told_from_what_names_its_fix(settings, tmp_path):
    """A database that restarts at night would end a run whose embedding is done, without another try."""
    away = replace(settings.warehouse, sink="postgres", uri="postgresql://nobody@127.0.0.1:1/nothing")
    for warehouse, code in ((away, AWAY), (replace(settings.warehouse, catalog="nonsense"), REFUSED)):
        request = Request(
            settings=replace(settings, warehouse=warehouse),
            partition=days(1)[0],
            run_id="r",
            force=False,
            active=1,
            started=time.time(),
        )
        with (tmp_path / "log").open("wb") as log:
            assert start(request, log).wait(PATIENCE_SECONDS) == code


def test_a_process_that_is_killed_is_started_again(settings, monkeypatch):
    """A process killed for memory would cost its partition."""
    monkeypatch.setattr(backfill_run, "TRY_AGAIN_SECONDS", (0.1,))
    first, second = days(2)
    genuine, killed = backfill_run.start, []

    def start(request, log):
        process = genuine(request, log)
        if request.partition == first or not killed:
            process.kill()
            killed.append(request.partition)
        return process

    monkeypatch.setattr(backfill_run, "start", start)
    report = run_backfill(planned_for(settings, newest_first=True))
    found = {p.partition: p for p in report.partitions}
    assert (found[first].ending, found[first].attempts) == ("failed", 2)
    assert "killed by SIGKILL" in found[first].error
    assert (found[second].ending, found[second].attempts) == ("published", 2)
    assert [fact.partition for fact in planned_for(settings, reprocess="failed").chosen] == [first]


def start_planner(settings, folder):
    """A backfill in a process of its own, which says what has ended."""
    (folder / "settings.json").write_text(settings_to_json(settings))
    script = (
        "from pathlib import Path\nfrom robert_pipeline.runs.backfill import run_backfill\n"
        "from robert_pipeline.runs.backfill_plan import Selection, plan_backfill\n"
        "from robert_pipeline.storage.settings import settings_from_json\n"
        "settings = settings_from_json(Path('settings.json').read_text())\n"
        "planned = plan_backfill(settings, Selection(), run_id='plan')\nprint(len(planned.chosen), flush=True)\n"
        "run_backfill(planned, on_ended=lambda ended, _: print(ended.partition, ended.ending, flush=True))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", script], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def claim_of(settings, partition):
    """The claim on a partition, once somebody holds it."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if (held := open_claims(settings).holder(partition)) is not None:
            return held
        time.sleep(0.02)
    raise AssertionError(f"nobody took {partition}")


def test_a_planner_that_is_killed_is_started_again_and_nothing_runs_twice(settings, tmp_path):
    """A killed planner would lose the partitions in its hands, or they would be published twice."""
    first, *_ = days(2)
    planner = start_planner(settings, tmp_path)
    orphan = claim_of(settings, first)
    planner.kill()
    planner.communicate()
    assert open_claims(settings).holder(first).run_id == orphan.run_id, "its process goes on"
    report = run_backfill(planned_for(settings))
    assert report.count("failed") == 0
    assert commits(settings) == dict.fromkeys(days(2), 1)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_planner_that_is_stopped_stops_its_processes(settings, tmp_path, how):
    """A backfill that somebody stopped would go on in the background, or keep partitions that nobody works on."""
    first, *_ = days(2)
    planner = start_planner(settings, tmp_path)
    held = claim_of(settings, first)
    planner.send_signal(how)
    _, err = planner.communicate(timeout=PATIENCE_SECONDS)
    assert b"KeyboardInterrupt" in err
    with pytest.raises(ProcessLookupError):
        os.kill(held.pid, 0)
    assert [open_claims(settings).holder(day) for day in days(2)] == [None] * 2
    assert commits(settings).keys() <= {first}
