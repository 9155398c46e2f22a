"""Bring what workers report of their progress to whoever listens in the process that started the run.

Workers that join later, or are started again, work unheard: the store is the truth, this is for people.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import distributed

from robert_pipeline.stages import progress
from robert_pipeline.stages.progress import Done

_forwarding: dict[str, contextlib.ExitStack] = {}
"""On a worker: by topic, what ends the forwarding."""


@contextlib.contextmanager
def relayed(client: distributed.Client, workers: Sequence[str]) -> Iterator[None]:
    """While the block runs, what these workers report is heard in this process."""
    topic = f"robert-progress-{client.id}"
    client.subscribe_topic(topic, lambda event: progress.report(Done(**event[1]["done"])))
    client.run(_start, topic, workers=workers)
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # a cluster that is gone has forgotten it anyway
            client.run(_stop, topic, workers=workers, on_error="ignore")


def _start(topic: str, dask_worker: Any) -> None:
    stack = _forwarding[topic] = contextlib.ExitStack()
    stack.enter_context(progress.listening(lambda done: dask_worker.log_event(topic, {"done": asdict(done)})))


def _stop(topic: str) -> None:
    _forwarding.pop(topic).close()
