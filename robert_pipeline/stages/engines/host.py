"""What a pipeline needs of an engine: a Beam runner with its options, workers that are fit, and a clear end.

The settings of an engine enter, an open engine leaves. Knows what the workers are asked, not why.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

from robert_pipeline.engine import Engine
from robert_pipeline.stages.engines.beam import PICKLING, FnApiRunner, PipelineOptions, PipelineRunner, beam
from robert_pipeline.stages.engines.portable import PortableHost

Check = Callable[[], None]
"""Raises a RobertError on a worker that is unfit. Travels to the workers, so it is picklable."""


class Host(Protocol):
    """An engine, opened."""

    runner: PipelineRunner
    options: PipelineOptions
    asks_workers: bool
    """Whether there are workers to ask before there is work."""
    is_one_worker: bool
    """Whether all work is one worker's: then it may be given all at once."""

    def check_workers(self, check: Check) -> None:
        """Have every worker that can be asked run `check`. Raises EngineError, or what `check` raises, with a name."""
        ...

    def run(self, pipeline: beam.Pipeline) -> None:
        """Run to a good end. Raises what a worker raised, or EngineError where there are no workers left."""
        ...


class LocalHost:
    """This process."""

    asks_workers = False

    def __init__(self, options: tuple[str, ...] = ()) -> None:
        self.runner = FnApiRunner()  # named: DirectRunner may try to download another runner first
        self.options = PipelineOptions([PICKLING, *options])
        self.is_one_worker = not options  # Beam can be told to start several

    def check_workers(self, check: Check) -> None:
        """Nothing to ask: what planned the run is what runs it."""

    def run(self, pipeline: beam.Pipeline) -> None:
        """Run to a good end."""
        pipeline.run().wait_until_finish()


@contextlib.contextmanager
def open_host(engine: Engine) -> Iterator[Host]:
    """Open the engine for the block. Raises EngineError where it is not to be had, within the engine's patience."""
    if engine.name == "local":
        yield LocalHost(engine.options)
    elif engine.name.startswith("dask"):
        from robert_pipeline.stages.engines.dask import open_dask

        with open_dask(engine) as host:
            yield host
    else:
        yield PortableHost(engine)
