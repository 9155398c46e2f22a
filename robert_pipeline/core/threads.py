"""How many threads torch uses: one for small steps, one a batch where there are many batches.

Torch's own way, all threads in every operation, waits at each for the slowest core; on a busy machine that is most of
the time. Nothing here decides a result.
"""

import contextlib
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


SWITCH_SECONDS = 0.0005


def switch_often() -> None:
    """Let Python's threads take turns ten times as often as they would.

    A thread that feeds a GPU asks for its turn at every call, and a batch is computed in the time of five usual turns
    of a thread that reads texts.
    """
    sys.setswitchinterval(SWITCH_SECONDS)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes in the caller's thread alone while the block runs: the same sums on any number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`work(item)` for every item, in order, by as many threads as torch would use, each of them with one.

    The caller's thread makes the items while the others work; as many results as there are threads are held. Raises
    what `items` or `work` raises.
    """
    threads = torch.get_num_threads()
    waiting: deque[Future[Result]] = deque()
    try:
        with ThreadPoolExecutor(threads, "batch", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(threads)  # torch also takes the last number set for threads that start later


@contextlib.contextmanager
def in_order(threads: Executor, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Iterator[Result]]:
    """`work(item)` for every item, in order, by threads that others may use too. Raises what `items` or `work` raises.

    Once the block has ended, however it did, no item is being worked on, and none will be.
    """
    waiting: deque[Future[Result]] = deque()

    def results() -> Iterator[Result]:
        while waiting:
            result = waiting[0].result()
            del waiting[0]
            yield result

    try:
        for item in items:
            waiting.append(threads.submit(work, item))
        yield results()
    finally:
        wait([future for future in waiting if not future.cancel()])
        waiting.clear()  # an error, the future that raised it and this frame would keep one another
