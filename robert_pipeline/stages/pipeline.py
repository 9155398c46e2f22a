"""The Beam pipelines: hand one descriptor (a work unit, a shard) to one worker, which writes one file.

The only module that imports Beam. Process-only DoFns, one leaf, no tags, no state, no finish_bundle output and no Beam
file sink: some engines lose rows with those and report success. No document passes through a shuffle.
"""

import logging
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner

from robert_pipeline.stages.embedding import EmbedJob, embed_unit, worker_encoder
from robert_pipeline.types import WorkUnit


class EmbedUnit(beam.DoFn):  # type: ignore[misc]  # Beam has no types
    """One work unit in, its shard in the store."""

    def __init__(self, job: EmbedJob) -> None:
        self._job = job

    def setup(self) -> None:
        """Load the encoder once per process, before the first unit."""
        worker_encoder(self._job.encoder, self._job.encoder_fingerprint)

    def process(self, unit: WorkUnit) -> None:
        """Embed the unit; emits nothing."""
        embed_unit(unit, self._job, worker_encoder(self._job.encoder, self._job.encoder_fingerprint))


def embed_shards(units: Sequence[WorkUnit], job: EmbedJob) -> None:
    """Embed every unit. Raises what a worker raised."""
    pipeline = beam.Pipeline(runner=_local_runner(), options=_options())
    _ = pipeline | "Units" >> beam.Create(list(units)) | "EmbedUnit" >> beam.ParDo(EmbedUnit(job))
    _run(pipeline)


def _local_runner() -> PipelineRunner:
    # Named: DirectRunner may try to download another runner first.
    return FnApiRunner()


def _options() -> PipelineOptions:
    return PipelineOptions(["--pickle_library=cloudpickle"])


def _run(pipeline: beam.Pipeline) -> None:
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    pipeline.run().wait_until_finish()
