"""How many threads torch uses: one for small steps, one a batch where there are many batches.

Torch's own way, all threads in every operation, waits at each for the slowest core; on a busy machine that is most of
the time. Nothing here decides a result.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


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
