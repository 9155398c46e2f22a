"""Several pieces of work under way at a time, with one place where all have ended and their errors come out.

Work units are: a GPU computes one in about a second, and would have nothing to do while it ends and the next is begun.
"""

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self

CUDA_UNITS = 3

Stopping = Callable[[], bool]
"""Whether work should give up."""


class StoppedError(Exception):
    """Work gave up because it was told to."""


def units_at_once(device_kind: str) -> int:
    """Units that keep a worker's device ('cpu', 'cuda') busy."""
    return CUDA_UNITS if device_kind == "cuda" else 1


class AtOnce:
    """Does up to `count` pieces of work at a time, each in a thread; one at a time is done in the caller's.

    A context manager: all have ended at the end of its block. Where the block, or a piece of work, raises, the others
    are told to give up, and that error comes out.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool = ThreadPoolExecutor(count, "at-once") if count > 1 else None
        self._running: set[Future[object]] = set()
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            while self._running and kind is None:
                self._collect()
        finally:
            self._stop.set()
            if self._pool is not None:
                self._pool.shutdown()

    def is_stopping(self) -> bool:
        """Whether work under way should give up, with StoppedError."""
        return self._stop.is_set()

    def do(self, work: Callable[[], object]) -> None:
        """Begin, once fewer than `count` are under way. Raises what earlier work raised."""
        if self._pool is None:
            work()
            return
        while len(self._running) >= self._count:
            self._collect()
        self._running.add(self._pool.submit(work))

    def _collect(self) -> None:
        ended, self._running = wait(self._running, return_when=FIRST_COMPLETED)
        for future in ended:
            future.result()
