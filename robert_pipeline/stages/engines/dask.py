"""Dask: workers of this machine's own, or those of a scheduler that exists, each asked before it works.

Beam's runner for Dask makes a task of every unit. Dask gives the tasks of a worker that died to others and has no end
where none is left: the wait here has one.
"""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

from robert_pipeline.engine import Engine
from robert_pipeline.errors import EngineError, first_line
from robert_pipeline.stages.engines.beam import PICKLING, PipelineOptions, PipelineRunner, beam
from robert_pipeline.stages.engines.host import Check

try:
    import dask
    import distributed
    from apache_beam.runners.dask.dask_runner import DaskRunner
    from distributed.scheduler import KilledWorker
except ImportError as missing:
    raise EngineError(
        f"engine 'dask' needs a package that is not installed: {first_line(missing)}",
        fix="Install it with: pip install 'robert-pipeline[dask]'",
    ) from missing

from robert_pipeline.stages.engines.dask_local import local_cluster
from robert_pipeline.stages.engines.dask_progress import relayed
from robert_pipeline.stages.engines.dask_workers import ask, require_same_release

POLL_SECONDS = 1.0


@contextlib.contextmanager
def open_dask(engine: Engine) -> Iterator["DaskHost"]:
    """A client of the engine's scheduler for the block, and the cluster itself where it is this machine's own."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what concerns the user is raised
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.comm.timeouts.connect": engine.patience_seconds}))
        if engine.address:
            address = f"tcp://{engine.address}"
        else:
            address = stack.enter_context(local_cluster(engine.workers, patience_seconds=engine.patience_seconds))
        client = stack.enter_context(_connected(address, engine.patience_seconds))
        yield DaskHost(engine, address, client, stack)


@contextlib.contextmanager
def _connected(address: str, patience_seconds: int) -> Iterator[distributed.Client]:
    try:
        client = distributed.Client(address, timeout=patience_seconds, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise EngineError(
            f"no Dask scheduler answers at {address} within {patience_seconds} s",
            fix="Start it with `dask scheduler`, or correct --engine",
            transient=not isinstance(error, ValueError),
        ) from error
    try:
        yield client
    finally:
        client.close(timeout=5)


class DaskHost:
    """A Dask scheduler and those of its workers that have what the work needs."""

    asks_workers = True
    is_one_worker = False

    def __init__(self, engine: Engine, address: str, client: distributed.Client, stack: contextlib.ExitStack) -> None:
        self._engine = engine
        self._address = address
        self._client = client
        self._stack = stack
        self._resources = _amounts(engine.resources)
        self.runner: PipelineRunner = DaskRunner()
        # One unit a task: Beam's default of 128 would leave most workers idle, and lose more with one that dies.
        self.options = PipelineOptions(
            [PICKLING, f"--dask_client_address={address}", "--dask_partition_size=1", *engine.options]
        )

    def check_workers(self, check: Check) -> None:
        """Ask scheduler and workers what they have installed, then every worker to run `check`.

        Raises EngineError where there is no worker, or one that does not answer, has another release or another clock.
        """
        workers = self._await_workers()
        require_same_release(self._client, workers, patience_seconds=self._engine.patience_seconds)
        ask(self._client, workers, check, patience_seconds=self._engine.patience_seconds)
        self._stack.enter_context(relayed(self._client, workers))

    def run(self, pipeline: beam.Pipeline) -> None:
        """Run to a good end; at most the engine's patience without any worker. Raises what a worker raised."""
        resources = {"resources": self._resources} if self._resources else {}
        with dask.annotate(priority=_in_order, **resources):
            result = pipeline.run()
        try:
            self._watch(result.futures)
            for future in result.futures:
                future.result()
        except KilledWorker as error:
            raise EngineError(
                f"{error.allowed_failures + 1} Dask workers died over the same unit, the last one at "
                f"{error.last_worker.address}",
                fix="Most often it is memory: give workers more of it, or lower embedding.block_bytes or unit_bytes",
            ) from error
        except (distributed.CancelledError, OSError) as error:
            raise EngineError(
                f"the Dask scheduler at {self._address} does not answer any more",
                fix="Start it again and run again; units that are done are kept",
                transient=True,
            ) from error
        finally:
            with contextlib.suppress(Exception):  # it must not hide what went wrong above
                result.client.close(timeout=5)

    def _watch(self, futures: Sequence[distributed.Future]) -> None:
        seen = time.monotonic()
        has_failed = False
        while True:
            with contextlib.suppress(TimeoutError):
                distributed.wait(futures, timeout=POLL_SECONDS)
                return
            if has_failed:
                # The error, or its traceback, does not survive the way here, and Dask's client waits on.
                raise EngineError(
                    "a unit failed with an error that cannot be brought here", fix="See the workers' logs"
                )
            has_failed = "erred" in self._client.run_on_scheduler(_states, keys=[future.key for future in futures])
            if self._workers():
                seen = time.monotonic()
            elif time.monotonic() - seen > self._engine.patience_seconds:
                raise EngineError(
                    f"the Dask scheduler at {self._address} has had no worker{self._offering} for "
                    f"{self._engine.patience_seconds} s",
                    fix="Start workers and run again; units that are done are kept",
                    transient=True,
                )

    def _await_workers(self) -> list[str]:
        ends = time.monotonic() + self._engine.patience_seconds
        while not (workers := self._workers()):
            if time.monotonic() > ends:
                raise EngineError(
                    f"the Dask scheduler at {self._address} has no worker{self._offering}",
                    fix=f"Start one: dask worker {self._address} --nthreads 1{self._how_to_offer}",
                    transient=True,
                )
            time.sleep(POLL_SECONDS / 4)
        return workers

    def _workers(self) -> list[str]:
        """Addresses of the workers that offer what is wanted."""
        known = self._client.scheduler_info()["workers"]
        return sorted(
            address
            for address, worker in known.items()
            if all(worker["resources"].get(name, 0) >= amount for name, amount in self._resources.items())
        )

    @property
    def _offering(self) -> str:
        return f" that offers {self._engine.resources}" if self._resources else ""

    @property
    def _how_to_offer(self) -> str:
        return f' --resources "{self._engine.resources}"' if self._resources else ""


def _states(keys: Sequence[str], dask_scheduler: Any) -> list[str]:
    """On the scheduler: how it is with these tasks."""
    return [dask_scheduler.tasks[key].state for key in keys if key in dask_scheduler.tasks]


def _in_order(key: object) -> int:
    """A task's priority: elements are begun in the pipeline's order, which Dask by itself mixes.

    All but the first two of each worker: these Dask hands out before it looks at priorities.
    """
    return -key[-1] if isinstance(key, tuple) and isinstance(key[-1], int) else 0


def _amounts(resources: str) -> dict[str, float]:
    pairs = (pair.partition("=") for pair in resources.split(",") if pair)
    return {name: float(amount) for name, _, amount in pairs}
