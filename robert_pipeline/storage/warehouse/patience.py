"""Trying again: a call that can lose a race or meet a lock enters, its result leaves.

Never retries what cannot get better.
"""

import time
from collections.abc import Callable
from random import SystemRandom
from typing import TypeVar

T = TypeVar("T")

FIRST_WAIT_SECONDS = 0.02
LONGEST_WAIT_SECONDS = 2.0

_random = SystemRandom()


def persist(
    attempt: Callable[[], T],
    *,
    transient: Callable[[Exception], bool],
    patience_seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Call `attempt` until it returns, with exponential waits, while what it raises is `transient`.

    Full jitter (Brooker 2015, "Exponential Backoff And Jitter") spreads out writers that lost the same race.
    The last error comes out once `patience_seconds` have passed.
    """
    end = clock() + patience_seconds
    wait = FIRST_WAIT_SECONDS
    while True:
        try:
            return attempt()
        except Exception as error:
            if not transient(error) or clock() >= end:
                raise
        sleep(_random.uniform(0, wait))
        wait = min(wait * 2, LONGEST_WAIT_SECONDS)
