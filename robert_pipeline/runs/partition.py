"""One partition from corpus to table, as schedules and backfills run it: claimed, timed, and recorded however it ends.

Its steps may be wrapped (in tasks that retry, say); what they do is the code that `robert embed`, `score` and
`publish` call.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from robert_pipeline.config import Settings
from robert_pipeline.core.price import RateSample
from robert_pipeline.errors import RobertError, StoreError, first_line
from robert_pipeline.runs import embed as embed_run
from robert_pipeline.runs import publish as publish_run
from robert_pipeline.runs import score as score_run
from robert_pipeline.runs.embed import EmbedReport
from robert_pipeline.runs.label import check_label
from robert_pipeline.runs.machine import machine_name
from robert_pipeline.runs.plan import Plan, plan
from robert_pipeline.runs.publish import PublishedPartition
from robert_pipeline.runs.score import ScoreReport
from robert_pipeline.storage.claims import claimed, open_claims
from robert_pipeline.storage.registry import with_current_head
from robert_pipeline.storage.run_records import RunRecord, write_record
from robert_pipeline.telemetry.watch import observed

log = logging.getLogger(__name__)
Clock = Callable[[], float]


def check_step(settings: Settings, partition: str, run_id: str) -> Plan:
    """Plan the partition, and find what would stop the run before anything is embedded."""
    planned = plan(settings, partitions=[partition], run_id=run_id)
    check_label(settings, planned)
    return planned


def embed_step(settings: Settings, partition: str, run_id: str) -> EmbedReport:
    """Embed what is missing of the partition."""
    return embed_run.embed(settings, partitions=[partition], run_id=run_id)


def score_step(settings: Settings, partition: str, run_id: str) -> ScoreReport:
    """Score what the head has not scored yet."""
    return score_run.score(plan(settings, partitions=[partition], run_id=run_id), model=settings.model)


def publish_step(settings: Settings, partition: str, run_id: str, force: bool) -> PublishedPartition:
    """Replace the partition in the published table. Raises BoundsError, unless `force` is set."""
    planned = plan(settings, partitions=[partition], run_id=run_id)
    return publish_run.publish(settings, planned, force=force).partitions[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """What is done to a partition, in this order."""

    check: Callable[[Settings, str, str], Plan] = check_step
    embed: Callable[[Settings, str, str], EmbedReport] = embed_step
    score: Callable[[Settings, str, str], ScoreReport] = score_step
    publish: Callable[[Settings, str, str, bool], PublishedPartition] = publish_step


@dataclass(frozen=True, kw_only=True, slots=True)
class PartitionReport:
    """What became of a partition, and what it took."""

    run_id: str
    published: PublishedPartition
    embed: EmbedReport
    score: ScoreReport
    sample: RateSample


@observed("label")
def run_partition(
    settings: Settings,
    partition: str,
    *,
    run_id: str,
    force: bool = False,
    active: int = 1,
    started: float | None = None,
    patience_seconds: float = 0.0,
    steps: Steps | None = None,
    clock: Clock = time.time,
) -> PartitionReport:
    """Claim a partition, label it with the current head, publish it, and keep a record of the run.

    `active` is how many runs share this machine, `started` when this one began (seconds since 1970; now, by default).
    Raises ClaimError, before any work, where another run works on the partition, still after `patience_seconds`, and
    before publishing where it was taken over; BoundsError where it is out of bounds, unless `force` is set; else what
    the steps raise.
    """
    started = clock() if started is None else started
    steps = steps or Steps()
    with claimed(open_claims(settings), partition, run_id, patience_seconds=patience_seconds) as check_claim:
        settings = with_current_head(settings)
        planned: Plan | None = None
        embedded: EmbedReport | None = None
        try:
            planned = steps.check(settings, partition, run_id)
            log.info("run %s, %s: %d documents to embed", run_id, partition, planned.missing_document_count)
            embedded = steps.embed(settings, partition, run_id)
            log.info("run %s, %s: %d tokens embedded", run_id, partition, embedded.embedded.tokens)
            scored = steps.score(settings, partition, run_id)
            log.info("run %s, %s: scored by head %s", run_id, partition, scored.head_fingerprint)
            check_claim()
            published = steps.publish(settings, partition, run_id, force)
        except Exception as error:
            sample = _sample(planned, embedded, seconds=clock() - started, active=active)
            record = _record(run_id, partition, sample, error=error)
            with contextlib.suppress(StoreError):  # it must not hide what went wrong
                write_record(settings.store, record)
            log.error("run %s, %s: %s", run_id, partition, record.error)
            raise
        sample = _sample(planned, embedded, seconds=clock() - started, active=active)
        write_record(settings.store, _record(run_id, partition, sample, rejected=published.rejected))
    log.info("run %s, %s: %s", run_id, partition, published.commit)
    return PartitionReport(run_id=run_id, published=published, embed=embedded, score=scored, sample=sample)


def _record(
    run_id: str, partition: str, sample: RateSample, *, rejected: int = 0, error: Exception | None = None
) -> RunRecord:
    shown = "" if error is None else str(error) if isinstance(error, RobertError) else _named(error)
    return RunRecord(
        run_id=run_id,
        partition=partition,
        ending="published" if error is None else "failed",
        error=shown,
        rejected=rejected,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        sample=sample,
    )


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _sample(planned: Plan | None, embedded: EmbedReport | None, *, seconds: float, active: int) -> RateSample:
    did = embedded is not None and embedded.embedded_unit_count > 0
    return RateSample(
        encoder_fingerprint="" if planned is None else planned.job.encoder_fingerprint,
        machine=machine_name(),
        documents=0 if planned is None else planned.document_count,
        embed_documents=embedded.embedded.documents if embedded is not None else 0,
        embed_tokens=embedded.embedded.tokens if embedded is not None else 0,
        embed_text_bytes=sum(unit.text_bytes for unit in planned.missing) if planned is not None and did else 0,
        embed_seconds=embedded.seconds if embedded is not None and did else 0.0,
        seconds=seconds,
        active=active,
    )
