"""Beam's other runners: Flink, Spark, Dataflow, or any job endpoint. Their options pass through as they are given.

Workers of these cannot be asked anything before they work: an encoder or a package that is missing there ends the run
at the first unit, with the worker's own words.
"""

import socket
from collections.abc import Callable

from robert_pipeline.engine import Engine
from robert_pipeline.errors import EngineError, first_line
from robert_pipeline.stages.engines.beam import PICKLING, PipelineOptions, PipelineRunner, beam, create_runner

_RUNNERS = {
    "flink": ("FlinkRunner", "--flink_master=http://{}"),
    "spark": ("SparkRunner", "--spark_master_url=spark://{}"),
    "portable": ("PortableRunner", "--job_endpoint={}"),
    "dataflow": ("DataflowRunner", ""),
}


class PortableHost:
    """A runner that Beam knows by name. Raises EngineError where its address or its client is not to be had."""

    asks_workers = False  # they are started when there is work
    is_one_worker = False

    def __init__(self, engine: Engine) -> None:
        kind = engine.name.partition("://")[0]
        name, address_option = _RUNNERS[kind]
        options = [PICKLING, *engine.options]
        if engine.address:
            _require_listener(engine)
            options.append(address_option.format(engine.address))
        try:
            self.runner: PipelineRunner = create_runner(name)
        except (ImportError, ValueError) as error:
            raise EngineError(
                f"engine '{engine.name}' needs a client that is not installed: {first_line(error)}",
                fix="Install apache-beam with the extra of that engine, such as apache-beam[gcp] for dataflow",
            ) from error
        self.options = PipelineOptions(options, runner=name)

    def check_workers(self, check: Callable[[], None]) -> None:
        """Nobody to ask."""

    def run(self, pipeline: beam.Pipeline) -> None:
        """Run until the engine says that it is done."""
        pipeline.run().wait_until_finish()


def _require_listener(engine: Engine) -> None:
    host, _, port = engine.address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=engine.patience_seconds).close()
    except OSError as error:
        raise EngineError(
            f"nothing answers at {engine.name}: {error.strerror or first_line(error)}",
            fix="Start the engine, or correct --engine",
        ) from error
