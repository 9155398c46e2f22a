"""kill -9 of runs together with whoever would notice: the server itself finds out, and nothing stays taken."""

import contextlib
import sqlite3
import time

import pytest

from tests.e2e.conftest import wait_for
from tests.history import commits, days, write_day

LOST_SECONDS = 120
SERVER = ("prefect", "server", "start")
WORKER = ("prefect", "worker", "start")
MANY = 100_000
"""Documents that take a minute to embed."""


def measured(what, seconds):
    """Say how long something took; pytest -s shows it."""
    print(f"\n{what}: {seconds:.0f} s")  # noqa: T201 - what the test is for
    return seconds


def take_slot(site):
    """Have the slot for embedding, so that no run comes past it; gives the lease."""
    wanted = {"names": ["robert-embedding"], "slots": 1, "mode": "concurrency", "lease_duration": 600}
    return site.post("/v2/concurrency_limits/increment-with-lease", **wanted)["lease_id"]


def wait_until_crashed(site, run_ids, since, *, seconds, said):
    """Every run is called crashed, by the automation, in time."""
    for run_id in run_ids:
        wait_for(
            lambda run_id=run_id: site.state(run_id) == "CRASHED", f"{run_id} to be called crashed", seconds=seconds
        )
        measured(f"to crashed for {said} of silence", time.monotonic() - since)
        assert site.runs(id={"any_": [run_id]})[0]["state"]["message"] == f"no sign of life for {said}"


def test_the_server_finds_dead_runs_itself_and_the_next_plan_picks_their_partition_up(serve):
    """A planner and a run that die with their worker would stay Running for ever, and keep others from starting."""
    site = serve(1)
    lease = take_slot(site)
    planner = site.start("backfill/history")
    child = wait_for(lambda: site.runs(tags={"all_": ["backfill"]}, state={"type": {"any_": ["RUNNING"]}}), "a run")[0][
        "id"
    ]
    site.kill(*WORKER)
    site.kill_run(child)
    site.kill_run(planner)
    killed = time.monotonic()
    site.post("/v2/concurrency_limits/decrement-with-lease", lease_id=lease)
    wait_until_crashed(site, [child, planner], killed, seconds=LOST_SECONDS, said="90 seconds")
    assert commits(site.settings) == {}
    assert site.ended(site.start("backfill/history")) == "COMPLETED"
    assert commits(site.settings) == dict.fromkeys(days(1), 1)


def test_a_run_killed_before_its_first_heartbeat_is_found_and_one_that_ended_is_left_alone(serve):
    """A run that dies while it starts would stay Pending for ever; a heartbeat that comes in late would undo an end."""
    site = serve(1)
    starting = site.start("label-partition/partition", partition=days(1)[0])
    wait_for(lambda: site.processes_of_run(starting), "the process of the run")
    site.kill(*WORKER)
    site.kill_run(starting)
    killed = time.monotonic()
    assert site.state(starting) == "PENDING"
    begun, ended = (in_state(site, "PENDING", "RUNNING") for _ in range(2))
    site.post(f"/flow_runs/{ended}/set_state", state={"type": "COMPLETED"})
    time.sleep(1)
    site.emit("prefect.flow-run.heartbeat", f"prefect.flow-run.{ended}", tags=["robert"])
    wait_until_crashed(site, [begun], killed, seconds=LOST_SECONDS, said="90 seconds")
    wait_until_crashed(site, [starting], killed, seconds=LOST_SECONDS, said="100 seconds")
    assert site.state(ended) == "COMPLETED"


def test_a_run_that_died_with_the_machine_is_found_when_it_is_back(serve):
    """A server that was away for minutes forgets whom it waited for: the run would stay Running for ever."""
    site = serve(1, sqlite=True)
    take_slot(site)
    run = site.start("label-partition/partition", partition=days(1)[0])
    wait_for(lambda: site.events("prefect.flow-run.heartbeat"), "a sign of life")
    site.power_off()
    # As if it had been off for years.
    with contextlib.closing(sqlite3.connect(site.folder / "prefect" / "prefect.db")) as state, state:
        changed = state.execute(
            "UPDATE automation_bucket SET start = '2020-01-01 00:00:00', end = '2020-01-01 00:01:30'"
        )
        assert changed.rowcount
    site.launch()
    wait_until_crashed(site, [run], time.monotonic(), seconds=LOST_SECONDS, said="90 seconds")


@pytest.mark.parametrize("server_too", [False, True], ids=["run", "run and server"])
def test_the_slot_of_a_killed_run_is_free_within_two_minutes(serve, server_too):
    """A run killed for memory, or a server that restarts, would keep the GPU from every later run."""
    site = serve(1)
    write_day(site.folder / "corpus", "day=2026-03-01", MANY)
    holder = site.start("label-partition/partition", partition="day=2026-03-01")
    wait_for(lambda: site.limit()["active_slots"] == 1, "the first run to embed")
    waiting = site.start("label-partition/partition", partition=days(1)[0])
    wait_for(lambda: "embed" in site.running_tasks(waiting), "the second run to ask for the slot")
    if server_too:
        site.kill(*SERVER)
        time.sleep(1)
        assert site.limit()["active_slots"] == 1
    assert site.state(holder) == "RUNNING", "it was killed while it embedded"
    site.kill_run(holder)
    killed = time.monotonic()
    wait_for(lambda: commits(site.settings), "the second run to publish", seconds=LOST_SECONDS)
    measured("killed to published by the run that waited for the slot", time.monotonic() - killed)
    assert site.ended(waiting) == "COMPLETED"
    wait_for(lambda: site.limit()["active_slots"] == 0, "the slot to be given back", seconds=10)
    assert commits(site.settings) == dict.fromkeys(days(1), 1)


def in_state(site, *states):
    """A run without a process, in the last of these states; gives its id."""
    deployment = site.get("/deployments/name/label-partition/partition")["id"]
    made = site.post(f"/deployments/{deployment}/create_flow_run", state={"type": states[0]})["id"]
    for state in states[1:]:
        site.post(f"/flow_runs/{made}/set_state", state={"type": state})
    return made
