"""The Beam pipelines: hand one descriptor (a work unit, a shard) to one worker, which writes one file.

Process-only DoFns, one leaf, no tags, no state, no finish_bundle output and no Beam
file sink: some engines lose rows with those and report success. No document passes through a shuffle.
"""

import contextlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from robert_pipeline import errors
from robert_pipeline.engine import Engine
from robert_pipeline.errors import RobertError
from robert_pipeline.stages.at_once import AtOnce, units_at_once
from robert_pipeline.stages.embedding import EmbedJob, embed_shared, embed_unit, worker_encoder
from robert_pipeline.stages.engines import Host, open_host
from robert_pipeline.stages.engines.beam import beam
from robert_pipeline.stages.fitness import check_embedder, check_scorer, marked
from robert_pipeline.stages.scoring import ScoreJob, ShardName, score_shard, worker_head
from robert_pipeline.stages.survey import survey_unit
from robert_pipeline.types import SharedTexts, WorkUnit

_MARK = "robert-error"
Job = TypeVar("Job", EmbedJob, ScoreJob)
Work = TypeVar("Work", WorkUnit, SharedTexts)


class SurveyUnit(beam.DoFn):  # type: ignore[misc]  # Beam has no types
    """One work unit in, the hashes of its unknown texts in the store."""

    def __init__(self, job: EmbedJob) -> None:
        self._job = job

    def setup(self) -> None:
        """Load the encoder that embeds afterwards, so that one that cannot is known before anything is read."""
        _telling(
            lambda: worker_encoder(self._job.encoder, self._job.encoder_fingerprint).check_fits(self._job.chunking)
        )

    def process(self, unit: WorkUnit) -> None:
        """Survey the unit; emits nothing."""
        _telling(lambda: survey_unit(unit, self._job))


class EmbedUnits(beam.DoFn):  # type: ignore[misc]  # Beam has no types
    """Work units, or texts shared by several, in; their shards in the store."""

    def __init__(self, job: EmbedJob) -> None:
        self._job = job

    def setup(self) -> None:
        """Load the encoder once per process, before the first unit."""
        _telling(lambda: worker_encoder(self._job.encoder, self._job.encoder_fingerprint))

    def process(self, works: Sequence[WorkUnit | SharedTexts]) -> None:
        """Embed them, as many at once as keep the device busy; emits nothing."""
        encoder = worker_encoder(self._job.encoder, self._job.encoder_fingerprint)

        def embed(work: WorkUnit | SharedTexts) -> None:
            if isinstance(work, SharedTexts):
                _telling(lambda: embed_shared(work, self._job, encoder, is_stopping=under_way.is_stopping))
            else:
                _telling(lambda: embed_unit(work, self._job, encoder, is_stopping=under_way.is_stopping))

        with AtOnce(units_at_once(encoder.encoder.device.type)) as under_way:
            for work in works:
                under_way.do(partial(embed, work))


class ScoreShard(beam.DoFn):  # type: ignore[misc]  # Beam has no types
    """One embedding shard in, its prediction shard in the store."""

    def __init__(self, job: ScoreJob) -> None:
        self._job = job

    def setup(self) -> None:
        """Load the head once per process, before the first shard."""
        _telling(lambda: worker_head(self._job.model, self._job.head_fingerprint))

    def process(self, shard: ShardName) -> None:
        """Score the shard; emits nothing."""
        head = worker_head(self._job.model, self._job.head_fingerprint)
        _telling(lambda: score_shard(shard, self._job, head))


@contextlib.contextmanager
def embedding_host(engine: Engine, job: EmbedJob) -> Iterator[Host]:
    """The engine, opened for the block, its workers found fit to embed. Raises EngineError, or what is wrong there."""
    with open_host(engine) as host:
        _check_workers(host, job, check_embedder)
        yield host


def score_shards(shards: Sequence[ShardName], job: ScoreJob, engine: Engine) -> None:
    """Score every shard on the engine. Raises EngineError, or what a worker raised."""
    with open_host(engine) as host:
        _check_workers(host, job, check_scorer)
        run(score_pipeline(shards, job, host), host)


def _check_workers(host: Host, job: Job, check: Callable[[Job, str], None]) -> None:
    if host.asks_workers:
        with marked(job.store, job.run_id) as mark:
            host.check_workers(partial(check, job, mark))


def survey_pipeline(units: Sequence[WorkUnit], job: EmbedJob, host: Host) -> beam.Pipeline:
    """The pipeline that surveys every unit, not yet run."""
    return _pipeline("Units", units, "SurveyUnit", SurveyUnit(job), host)


def shared_pipeline(shared: Sequence[SharedTexts], job: EmbedJob, host: Host) -> beam.Pipeline:
    """The pipeline that embeds every piece of shared texts, not yet run."""
    return _pipeline("SharedTexts", _handed_out(shared, host), "EmbedUnits", EmbedUnits(job), host)


def embed_pipeline(units: Sequence[WorkUnit], job: EmbedJob, host: Host) -> beam.Pipeline:
    """The pipeline that embeds every unit, not yet run.

    Largest first: none is begun when all others are done.
    """
    units = sorted(units, key=lambda unit: -unit.text_bytes)
    return _pipeline("Units", _handed_out(units, host), "EmbedUnits", EmbedUnits(job), host)


def score_pipeline(shards: Sequence[ShardName], job: ScoreJob, host: Host) -> beam.Pipeline:
    """The pipeline that scores every shard, not yet run."""
    return _pipeline("Shards", shards, "ScoreShard", ScoreShard(job), host)


def _handed_out(works: Sequence[Work], host: Host) -> list[tuple[Work, ...]]:
    """What a worker is given at a time: one, or all where there is but one worker."""
    return [tuple(works)] if host.is_one_worker and works else [(work,) for work in works]


def run(pipeline: beam.Pipeline, host: Host) -> None:
    """Run to the end.

    A RobertError that a worker raised is raised again here, whatever the engine made of it; so is KeyboardInterrupt.
    """
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    try:
        host.run(pipeline)
    except RobertError:
        raise
    except Exception as error:
        if _is_interrupt(error):
            raise KeyboardInterrupt from error
        if (told := _told(str(error))) is None:
            raise
        raise told from error


def _pipeline(source: str, descriptors: Sequence[object], step: str, work: beam.DoFn, host: Host) -> beam.Pipeline:
    pipeline = beam.Pipeline(runner=host.runner, options=host.options)
    _ = pipeline | source >> beam.Create(list(descriptors)) | step >> beam.ParDo(work)
    return pipeline


def _telling(work: Callable[[], object]) -> None:
    """Engines hand on the text of an error and lose its type: put the type into the text."""
    try:
        work()
    except RobertError as error:
        told = json.dumps([type(error).__name__, error.problem, error.fix, error.transient])
        raise RuntimeError(f"<{_MARK}>{told.encode().hex()}</{_MARK}>") from error


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C was met while a DoFn ran: the engine makes a RuntimeError of it."""
    return error is not None and (
        isinstance(error, KeyboardInterrupt) or _is_interrupt(error.__cause__ or error.__context__)
    )


def _told(text: str) -> RobertError | None:
    found = re.search(f"<{_MARK}>([0-9a-f]+)</{_MARK}>", text)
    if found is None:
        return None
    kind, problem, fix, transient = json.loads(bytes.fromhex(found.group(1)))
    raised: RobertError = getattr(errors, kind)(problem, fix=fix, transient=transient)
    return raised
