"""Bring what workers report of their progress to whoever listens in the process that started the run."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import distributed

from robert_pipeline.stages import progress
from robert_pipeline.stages.progress import Done


class _Forward(distributed.WorkerPlugin):  # type: ignore[misc]  # Dask has types in part
    """On a worker: what is reported there becomes an event of a topic."""

    def __init__(self, topic: str) -> None:
        self.name = topic
        self._topic = topic

    def setup(self, worker: Any) -> None:
        """Dask calls this on every worker, those that join later among them."""
        self._stack = progress.listening(lambda done: worker.log_event(self._topic, asdict(done)))
        self._stack.__enter__()

    def teardown(self, worker: Any) -> None:  # noqa: ARG002 - Dask names it
        """Dask calls this when the run is over."""
        self._stack.__exit__(None, None, None)


@contextlib.contextmanager
def relayed(client: distributed.Client) -> Iterator[None]:
    """While the block runs, what workers report is heard in this process."""
    topic = f"robert-progress-{client.id}"
    client.subscribe_topic(topic, lambda event: progress.report(Done(**event[1])))
    client.register_plugin(_Forward(topic))
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # a scheduler that is gone has forgotten it anyway
            client.unregister_worker_plugin(topic)
