"""kill -9 of everything that can be killed: what was to be labelled is labelled, once."""

import time

import pytest

from tests.e2e.conftest import wait_for
from tests.history import commits, days

LOST_SECONDS = 120
SERVER = ("prefect", "server", "start")
WORKER = ("prefect", "worker", "start")


def child_runs(site):
    """Runs of single partitions."""
    return site.runs(tags={"all_": ["backfill"]})


def a_child_runs(site):
    """Wait until a run of a partition has begun; gives it."""

    def running():
        return [run for run in child_runs(site) if run["state"]["type"] == "RUNNING"]

    return wait_for(running, "a run of a partition")[0]


def test_a_child_that_is_killed_is_called_crashed_and_run_again(serve):
    """A process killed for memory would stay Running for ever, hold the slot of the GPU, and cost its partition."""
    site = serve(2)
    planner = site.start("backfill/history")
    victim = a_child_runs(site)
    site.kill_run(victim["id"])
    killed = time.monotonic()
    wait_for(lambda: site.state(victim["id"]) == "CRASHED", "the killed run to be called crashed")
    assert time.monotonic() - killed < LOST_SECONDS + 60, "two minutes, and what a busy machine adds"
    assert site.ended(planner) == "COMPLETED"
    assert commits(site.settings) == dict.fromkeys(days(2), 1)
    slots = {limit["name"]: limit["active_slots"] for limit in site.post("/v2/concurrency_limits/filter")}
    assert slots["robert-embedding"] == 0


@pytest.mark.parametrize("what", [WORKER, SERVER], ids=["worker", "server"])
def test_a_service_that_is_killed_comes_back(serve, what):
    """A server or a worker that dies at night would cost that night's labels."""
    site = serve(2)
    planner = site.start("backfill/history")
    a_child_runs(site)
    site.kill(*what)

    def is_done():
        return commits(site.settings) == dict.fromkeys(days(2), 1)

    if site.ended(planner) != "COMPLETED":
        assert site.ended(site.start("backfill/history", reprocess="failed")) == "COMPLETED"
    wait_for(is_done, "both days in the table")


def test_a_planner_that_is_killed_is_started_again_and_joins_its_runs(serve):
    """A planner killed half way would leave history half done, or start its runs a second time."""
    site = serve(3)
    planner = site.start("backfill/history", max_active=2)
    first = a_child_runs(site)
    site.kill_run(planner)
    again = site.start("backfill/history", max_active=2)
    wait_for(lambda: site.state(planner) == "CRASHED", "the killed planner to be called crashed")
    assert site.ended(again) == "COMPLETED"
    assert site.state(first["id"]) == "COMPLETED"
    assert len(child_runs(site)) == 3
    assert commits(site.settings) == dict.fromkeys(days(3), 1)


def test_cancelling_a_backfill_stops_its_runs(serve):
    """Somebody who stops a backfill would see it go on."""
    site = serve(3)
    planner = site.start("backfill/history", max_active=1)
    child = a_child_runs(site)
    site.post(f"/flow_runs/{planner}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})
    assert site.ended(planner) == "CANCELLED"
    assert site.ended(child["id"]) in {"CANCELLED", "COMPLETED"}
    time.sleep(10)
    assert len(child_runs(site)) == 1


def test_thirty_days_killed_twice_are_each_published_once(serve):
    """A history that is labelled over days, through every kind of trouble, would have holes or double commits."""
    site = serve(30)
    planner = site.start("backfill/history", max_active=2)
    for published in (3, 12):
        wait_for(
            lambda count=published: len(commits(site.settings)) >= count, f"{published} days in the table", seconds=1800
        )
        site.kill_run(a_child_runs(site)["id"])
        site.kill_run(planner)
        planner = site.start("backfill/history", max_active=2)
    wait_for(lambda: site.state(planner) in {"COMPLETED", "FAILED", "CRASHED"}, "the end", seconds=3600)
    assert site.state(planner) == "COMPLETED"
    assert commits(site.settings) == dict.fromkeys(days(30), 1)
