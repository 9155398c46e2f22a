"""The flow that a night or a backfill runs for one partition: check, embed, score, publish.

Tasks pass addresses and names, never data, and keep no results. What was committed is the truth, not what Prefect
remembers: a run that is repeated finds its work done.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import prefect.runtime
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.concurrency.sync import concurrency
from prefect.states import Failed
from pydantic import Field

from flows.artifacts import (
    FAILED,
    OUT_OF_BOUNDS,
    OUT_OF_BOUNDS_STATE,
    PUBLISHED,
    ProgressArtifact,
    artifact_key,
    emit,
    partition_summary,
)
from flows.retries import RETRIES, RETRY_SECONDS, is_transient
from robert_pipeline.config import Settings
from robert_pipeline.errors import BoundsError
from robert_pipeline.runs import partition as partition_run
from robert_pipeline.runs.embed import EmbedReport
from robert_pipeline.runs.identity import new_run_id
from robert_pipeline.runs.looks import published_looks
from robert_pipeline.runs.partition import Steps
from robert_pipeline.runs.plan import Plan
from robert_pipeline.runs.publish import PublishedPartition
from robert_pipeline.runs.score import ScoreReport
from robert_pipeline.storage.registry import current_head
from robert_pipeline.storage.settings import load_settings
from robert_pipeline.storage.warehouse import open_warehouse

EMBEDDING_LIMIT = "robert-embedding"
"""The concurrency limit that embedding occupies: as many slots as there are GPUs, or as suit a machine without."""

SLOT_LEASE_SECONDS = 60.0
"""A slot whose holder died is free again after so long."""

CLAIM_PATIENCE_SECONDS = 150.0
"""Longer than a dead run keeps its claim."""


@task(retries=RETRIES, retry_delay_seconds=RETRY_SECONDS, retry_condition_fn=is_transient, cache_policy=NO_CACHE)
def check(settings: Settings, partition: str, run_id: str) -> Plan:
    """Find what would stop the run before anything is embedded."""
    return partition_run.check_step(settings, partition, run_id)


@task(retries=RETRIES, retry_delay_seconds=RETRY_SECONDS, retry_condition_fn=is_transient, cache_policy=NO_CACHE)
def embed(settings: Settings, partition: str, run_id: str) -> EmbedReport:
    """Embed what has no vectors yet, once a slot is free."""
    with concurrency(EMBEDDING_LIMIT, lease_duration=SLOT_LEASE_SECONDS):
        return partition_run.embed_step(settings, partition, run_id)


@task(retries=RETRIES, retry_delay_seconds=RETRY_SECONDS, retry_condition_fn=is_transient, cache_policy=NO_CACHE)
def score(settings: Settings, partition: str, run_id: str) -> ScoreReport:
    """Label what the current head has not labelled yet."""
    return partition_run.score_step(settings, partition, run_id)


@task(retries=RETRIES, retry_delay_seconds=RETRY_SECONDS, retry_condition_fn=is_transient, cache_policy=NO_CACHE)
def publish(settings: Settings, partition: str, run_id: str, force: bool) -> PublishedPartition:
    """Replace the partition of the published table."""
    return partition_run.publish_step(settings, partition, run_id, force)


def _run_name() -> str:
    given: str | None = prefect.runtime.flow_run.parameters.get("partition")
    scheduled = prefect.runtime.flow_run.scheduled_start_time or datetime.now(UTC)
    return f"label {given}" if given else f"label the day before {scheduled:%Y-%m-%d}"


@flow(name="label-partition", flow_run_name=_run_name, persist_result=False)
def label_partition(
    config: str = "robert.toml",
    partition: str | None = None,
    force: bool = False,
    active: Annotated[int, Field(ge=1)] = 1,
) -> State[None] | None:
    """Label one partition with the current head and publish it.

    Nothing is embedded twice and nothing published twice, however often this runs. What may go away by itself is tried
    again, after 10 and 60 seconds; an error that names its fix is not.

    Args:
        config: Path of robert.toml, the settings file, on the worker's machine.
        partition: Corpus partition, such as day=2026-01-31. None: that of the day before the scheduled time, in UTC.
        force: Publish also what is outside the bounds that the settings set.
        active: How many runs share the machine; counts in the rates that it leaves for later estimates, no more.
    """
    log = get_run_logger()
    run_id = new_run_id()
    settings = load_settings({}, file=Path(config), like_head=True)
    name = partition or day_before(settings, prefect.runtime.flow_run.scheduled_start_time or datetime.now(UTC))
    log.info("run %s, %s: started", run_id, name)
    progress = ProgressArtifact(artifact_key("progress", name), f"{name}, run {run_id}")
    try:
        report = partition_run.run_partition(
            settings,
            name,
            run_id=run_id,
            force=force,
            active=active,
            patience_seconds=CLAIM_PATIENCE_SECONDS,
            steps=_steps(progress),
        )
    except BoundsError as error:
        emit(OUT_OF_BOUNDS, name, run_id=run_id, message=str(error))
        return Failed(name=OUT_OF_BOUNDS_STATE, message=str(error), data=error)
    except Exception as error:
        emit(FAILED, name, run_id=run_id, message=str(error))
        raise
    sink = open_warehouse(settings.warehouse)
    published = report.published
    looks = published_looks(sink, name, documents=published.documents, rejected=published.rejected)
    summary = partition_summary(
        report, looks, model=current_head(settings).model, location=sink.location("predictions")
    )
    create_markdown_artifact(summary, key=artifact_key("summary", name), description=f"{name}, run {run_id}")
    emit(PUBLISHED, name, run_id=run_id, message=str(published.commit))
    log.info("run %s, %s: %s, %d rejected", run_id, name, published.commit, published.rejected)
    return None


def day_before(settings: Settings, scheduled: datetime) -> str:
    """The partition of the day before, in UTC, whatever the clocks of a country do that night."""
    day = scheduled.astimezone(UTC).date() - timedelta(days=1)
    return day.strftime(settings.operations.partition_format)


def _steps(progress: ProgressArtifact) -> Steps:
    """The tasks, with a bar that follows them."""
    documents = 0

    def check_and_count(settings: Settings, partition: str, run_id: str) -> Plan:
        nonlocal documents
        planned = check(settings, partition, run_id)
        documents = planned.missing_document_count
        progress.show(5)
        return planned

    def embed_and_show(settings: Settings, partition: str, run_id: str) -> EmbedReport:
        with progress.over(documents, first=5, last=80):
            return embed(settings, partition, run_id)

    def score_and_show(settings: Settings, partition: str, run_id: str) -> ScoreReport:
        scored = score(settings, partition, run_id)
        progress.show(90)
        return scored

    def publish_and_show(settings: Settings, partition: str, run_id: str, force: bool) -> PublishedPartition:
        published = publish(settings, partition, run_id, force)
        progress.show(100)
        return published

    return Steps(check=check_and_count, embed=embed_and_show, score=score_and_show, publish=publish_and_show)
