"""How far the work of this process is: workers report, a listener in the same process may show it.

On an engine whose workers are other processes nobody listens, and progress is what exists in the store.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Stage = Literal["embedding", "scoring"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """Work finished since the last report."""

    stage: Stage
    documents: int = 0
    tokens: int = 0


Listener = Callable[[Done], None]
_listeners: list[Listener] = []
_telling = threading.Lock()


def report(done: Done) -> None:
    """Tell whoever listens in this process; one report at a time, though several threads of a worker report."""
    with _telling:
        for listener in list(_listeners):
            listener(done)


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have `listener` called, from the worker's threads, while the block runs."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
