"""Real Dask clusters of processes: a scheduler, workers with an address each, and faults put into one of them."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
START_SECONDS = 60

LOGGED = """
import os, time
from robert_pipeline.stages import embedding
if not hasattr(embedding, "unlogged"):  # Dask loads this more than once
    embedding.unlogged = embedding.read_unit
def logged(corpus, columns, unit):
    # Called for a unit that has no shard yet.
    with open({log!r}, "a") as log:
        log.write(f"{{os.getpid()}} {{unit.unit_id}}\\n")
    time.sleep({seconds})
    return embedding.unlogged(corpus, columns, unit)
embedding.read_unit = logged
"""
"""Put into a worker: say which process embeds which unit, and take a while over it."""


def until(condition, *, seconds=START_SECONDS):
    """Wait for a condition to hold."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it never came to be"
        time.sleep(0.02)


@dataclass
class Cluster:
    """A scheduler and the workers that were added to it."""

    folder: Path
    scheduler: subprocess.Popen = None
    workers: list = field(default_factory=list)
    kinds: dict = field(default_factory=lambda: defaultdict(list))

    @property
    def place(self):
        return self.folder / "scheduler.json"

    @property
    def engine_name(self):
        """As --engine takes it."""
        return json.loads(self.place.read_text())["address"].replace("tcp://", "dask://")

    def start(self):
        """Start the scheduler; a unit that kills two workers is given up."""
        self.scheduler = self._run("scheduler", "--port", "0", "--host", "127.0.0.1", "--no-dashboard")
        until(self.place.exists)
        until(lambda: self.place.read_text().strip().endswith("}"))

    def add_worker(self, *arguments, preload="", home=None, **environment):
        """Start a worker of one thread on a loopback address of its own; `preload` is Python that it runs first.

        With `home` that is all of the disk it has: working directory, home and temporary files.
        """
        number = len(self.workers) + 1  # of the worker, and of its address
        more = []
        if preload:
            script = self.folder / f"preload{number}.py"
            script.write_text(preload)
            more = ["--preload", str(script)]
        address = f"127.0.0.{number}" if sys.platform == "linux" else "127.0.0.1"
        command = ("worker", "--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", address)
        own = dict.fromkeys(("HOME", "TMPDIR"), str(home)) if home else {}
        place = ("--local-directory", str(home or self.folder))
        started = self._run(*command, *place, *more, *arguments, folder=home, environment=own | environment)
        self.workers.append(started)
        return started

    def _run(self, kind, *arguments, folder=None, environment=None):
        return subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--scheduler-file", str(self.place), *arguments],
            cwd=folder,
            env=os.environ
            | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            | {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
            | (environment or {}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def stop(self):
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@contextlib.contextmanager
def cluster(folder):
    """A scheduler without workers."""
    started = Cluster(folder)
    started.start()
    try:
        yield started
    finally:
        started.stop()
