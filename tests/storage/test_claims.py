"""Who works on which partition."""

import contextlib
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from robert_pipeline.config import Operations, Settings
from robert_pipeline.errors import ClaimError, ConfigError, StoreError
from robert_pipeline.storage.claims import LOST_SECONDS, Claims, claimed, open_claims
from robert_pipeline.storage.files import Files

DAY = "day=2026-01-01"
ROOT = Path(__file__).resolve().parents[2]


class Clock:
    """A clock that the test moves."""

    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def claims(tmp_path, clock):
    return Claims(files=Files(str(tmp_path / "claims")), clock=clock)


def test_a_partition_has_one_holder(claims):
    """Two runs would work on the same partition."""
    claims.take(DAY, "run-1")
    with pytest.raises(ClaimError, match="run run-1 works on partition"):
        claims.take(DAY, "run-2")
    claims.take("day=2026-01-02", "run-2")
    claims.release(DAY, "run-2")
    assert claims.holder(DAY).run_id == "run-1", "released by another than its holder"
    claims.release(DAY, "run-1")
    assert claims.holder(DAY) is None
    claims.take(DAY, "run-2")


def test_of_many_takers_one_wins(claims):
    """Two planners that start at the same moment would both run a partition."""

    def take(number):
        try:
            return claims.take(DAY, f"run-{number}").run_id
        except ClaimError:
            return None

    with ThreadPoolExecutor(16) as pool:
        winners = [run_id for run_id in pool.map(take, range(48)) if run_id]
    assert winners == [claims.holder(DAY).run_id]


def test_a_dead_run_loses_its_claim_within_two_minutes(claims, clock):
    """A machine that lost its power would keep a partition for ever."""
    assert LOST_SECONDS < 120
    dead = claims.take(DAY, "dead")
    clock.now += LOST_SECONDS - 1
    claims.renew(dead)
    clock.now += LOST_SECONDS
    assert claims.holder(DAY).run_id == "dead", "a sign of life keeps it"
    clock.now += 1
    assert claims.holder(DAY) is None
    claims.take(DAY, "next")
    for late in (claims.check, claims.renew):
        with pytest.raises(ClaimError, match=r"has lost partition .* to run next"):
            late(dead)
    assert claims.holder(DAY).run_id == "next", "the dead one came back"


def test_a_damaged_claim_holds_nothing(claims):
    """A file cut short by a full disk would keep a partition for ever."""
    claims.take(DAY, "run-1")
    claims.files.write_bytes("day=2026-01-01.json", b'{"partition": "day')
    claims.take(DAY, "run-2")


def test_a_killed_process_holds_its_claim_until_it_is_lost(tmp_path):
    """A kill -9 would free a partition on which another machine still counts, or never free it."""
    script = (
        "import time; from robert_pipeline.storage.claims import *; from robert_pipeline.storage.files import Files\n"
        f"with claimed(Claims(files=Files({str(tmp_path)!r})), {DAY!r}, 'killed'):\n    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.communicate()
    claims = Claims(files=Files(str(tmp_path)))
    assert claims.holder(DAY).run_id == "killed"
    later = Claims(files=Files(str(tmp_path)), clock=lambda: time.time() + LOST_SECONDS + 1)
    later.take(DAY, "next")


def test_a_claim_is_kept_alive_and_given_back(claims, clock, monkeypatch):
    """A run of an hour would lose its partition after a minute, or keep it when it has failed."""
    monkeypatch.setattr("robert_pipeline.storage.claims.HEARTBEAT_SECONDS", 0.01)
    with contextlib.suppress(ZeroDivisionError), claimed(claims, DAY, "run-1") as check:
        clock.now += LOST_SECONDS - 1
        end = time.monotonic() + 20
        while claims.holder(DAY).beat != clock.now and time.monotonic() < end:
            time.sleep(0.01)
        assert claims.holder(DAY).beat == clock.now
        check()
        raise ZeroDivisionError
    assert claims.holder(DAY) is None


def test_claims_need_a_disk(tmp_path):
    """Claims in an object store would be taken twice."""
    with pytest.raises(ConfigError, match=r"operations\.claims"):
        open_claims(Settings(store="s3://bucket/store?region=eu-west-1"))
    elsewhere = Settings(store="s3://bucket/store?region=eu-west-1", operations=Operations(claims=str(tmp_path)))
    open_claims(elsewhere).take(DAY, "run-1")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"operations\.claims"):
        Claims(files=Files(str(tmp_path / "file"))).take(DAY, "run-1")
