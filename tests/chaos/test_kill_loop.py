"""A few rounds of `make chaos`."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KILLS = 3


def test_killed_runs_lose_nothing_and_show_nothing_half_done():
    """kill -9 would leave a table that is half old and half new, or vectors that nobody finds again."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.kill_loop", "--kills", str(KILLS), "--seed", "3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"{KILLS} kills ")
