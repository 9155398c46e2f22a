"""Several pieces of work under way at a time, with one place where all have ended and their errors come out.

Work units are: a GPU computes one in about a second, and would have nothing to do while it ends and the next is begun.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

CUDA_UNITS = 3


def units_at_once(device_kind: str) -> int:
    """Units that keep a worker's device ('cpu', 'cuda') busy."""
    return CUDA_UNITS if device_kind == "cuda" else 1


class AtOnce:
    """Does up to `count` pieces of work at a time, each in a thread; one at a time is done in the caller's.

    A context manager: all have ended at the end of its block, which raises what the first that failed raised.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool = ThreadPoolExecutor(count, "at-once") if count > 1 else None
        self._running: deque[Future[object]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        while self._running and kind is None:
            self._running.popleft().result()

    def do(self, work: Callable[[], object]) -> None:
        """Begin, once fewer than `count` are under way. Raises what earlier work raised."""
        if self._pool is None:
            work()
            return
        while len(self._running) >= self._count:
            self._running.popleft().result()
        self._running.append(self._pool.submit(work))
