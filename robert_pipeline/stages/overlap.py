"""Work of two threads at once: what comes next is made, and what is done is put away, while the caller is busy.

All in order. One item is made ahead and one piece of work is done behind at a time, so memory holds three at most.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made in a thread while the one before is in use. What `items` raises comes in its place."""
    with ThreadPoolExecutor(1, "ahead") as pool:
        coming: Future[list[T]] = pool.submit(_next, items)
        while item := coming.result():
            coming = pool.submit(_next, items)
            yield item.pop()


def _next(items: Iterator[T]) -> list[T]:
    """The next item, if there is one."""
    for item in items:
        return [item]
    return []


@contextmanager
def behind() -> Iterator[Callable[[Callable[[], None]], None]]:
    """A function that has work done in a thread, once the work before is done; all is done at the end of the block.

    What work raises comes out of the next call, or of the block.
    """
    running: list[Future[None]] = []

    def wait() -> None:
        if running:
            running.pop().result()

    def later(work: Callable[[], None]) -> None:
        wait()
        running.append(pool.submit(work))

    with ThreadPoolExecutor(1, "behind") as pool:
        yield later
        wait()
