"""How many steps of a training there is time for, by the pace of the last ones: machines get slower and faster.

Steps done, seconds and tokens enter; how many steps fit leaves. Reads no clock.
"""

from dataclasses import dataclass

UNTIMED_STEPS = 4
"""Steps that say nothing of the pace: in these everything is computed for the first time."""
PROBED_STEPS = 12
"""Further steps after which the pace is known well enough to say how many there is time for."""
REPLANNED_STEPS = 25
"""And between two looks at whether that still holds."""
FORWARD_PACE = 4.0
"""Tokens encoded in the time of one token trained, at least."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeBudget:
    """How long a training may take, and what has to be encoded once with its outcome in the same time."""

    seconds: float
    tokens_afterwards: int = 0

    def training_seconds(self, tokens_per_second: float) -> float:
        """What is left for training at this pace of training; encoding alone is some times as fast."""
        return max(0.0, self.seconds - self.tokens_afterwards / (FORWARD_PACE * tokens_per_second))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    step: int
    seconds: float
    tokens: int


class Pace:
    """Of one process's part of a training."""

    def __init__(self, budget: TimeBudget, *, first_step: int) -> None:
        self._budget = budget
        self._timed_from = first_step + UNTIMED_STEPS
        self._looked: _Look | None = None
        self._allowed: float | None = None

    def steps(self, step: int, seconds: float, tokens: int) -> int | None:
        """How many steps the whole training may have, after `step` of them in `seconds`; None where nothing is new.

        To be called after every step. `tokens` are those that this process has trained on. As many as are done: the
        time is up.
        """
        now, before = _Look(step=step, seconds=seconds, tokens=tokens), self._looked
        if before is None:
            self._looked = now if step >= self._timed_from else None
            return None
        if self._allowed is not None and seconds >= self._allowed:
            return step
        if step - before.step < (PROBED_STEPS if self._allowed is None else REPLANNED_STEPS):
            return None
        passed = seconds - before.seconds
        self._allowed = self._budget.training_seconds((tokens - before.tokens) / passed)
        self._looked = now
        return step + max(0, int((self._allowed - seconds) * (step - before.step) / passed))
