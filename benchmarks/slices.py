"""Whole processes side by side on a machine whose speed drifts: each runs a slice of seconds, the others stopped.

Runs of minutes, one after the other, meet different machines; so does each slice, but the contenders' slices lie
between each other's. Not for GPUs: what has been queued there goes on while its process is stopped. Processes tell on
their last line when they began and ended by `time.monotonic`, a clock that all processes of a machine share; what they
were stopped for in between is taken off.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import IO, Any, Self

SLICE_SECONDS = 5.0


@dataclass(kw_only=True, slots=True)
class Sliced:
    """A process that runs only when it is its turn. A context manager: it is dead at the end of its block."""

    command: Sequence[str]
    process: "subprocess.Popen[bytes] | None" = None
    out: IO[bytes] = field(default_factory=TemporaryFile)
    errors: IO[bytes] = field(default_factory=TemporaryFile)
    ran: list[tuple[float, float]] = field(default_factory=list)
    """When each of its slices began and ended."""

    def run(self, seconds: float | None) -> bool:
        """Run for so long, or to the end. Whether it has ended; raises SystemExit with its errors where it failed."""
        began = time.monotonic()
        if self.process is None:
            self.process = subprocess.Popen(self.command, stdout=self.out, stderr=self.errors, start_new_session=True)
        else:
            os.killpg(self.process.pid, signal.SIGCONT)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGSTOP)
            self.ran.append((began, time.monotonic()))
            return False
        self.ran.append((began, time.monotonic()))
        if self.process.returncode:
            self.errors.seek(0)
            raise SystemExit(self.errors.read().decode(errors="replace"))
        return True

    def answer(self) -> dict[str, Any]:
        """What it said last, with the `seconds` that it ran between `began` and `ended`."""
        self.out.seek(0)
        said: dict[str, Any] = json.loads(self.out.read().splitlines()[-1])
        return {**said, "seconds": ran_between(said["began"], said["ended"], self.ran)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.out.close()
        self.errors.close()


def ran_between(began: float, ended: float, slices: Sequence[tuple[float, float]]) -> float:
    """Seconds of `slices`, each (begin, end), that lie between two moments."""
    return sum(max(0.0, min(last, ended) - max(first, began)) for first, last in slices)


def side_by_side(
    commands: Mapping[str, Sequence[str]], *, seconds: float | None = SLICE_SECONDS
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run all commands in slices of `seconds`, or one after the other; each name and its answer, as each ends."""
    # What is stopped would outlive this process for ever.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with ExitStack() as stack:
        waiting = {name: stack.enter_context(Sliced(command=command)) for name, command in commands.items()}
        while waiting:
            for name, sliced in list(waiting.items()):
                if sliced.run(seconds if len(waiting) > 1 else None):
                    del waiting[name]
                    yield name, sliced.answer()
