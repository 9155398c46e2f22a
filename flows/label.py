"""The flow a schedule runs: plan, embed, train where there is no head yet, score with the promoted one, publish.

Tasks pass addresses and names, never data. What was committed is the truth, not what Prefect remembers: a run that is
repeated finds its work done.
"""

from collections.abc import Sequence

from prefect import flow, get_run_logger, task

from flows.retries import RETRIES, RETRY_SECONDS, is_transient
from robert_pipeline.config import Settings
from robert_pipeline.errors import ConfigError
from robert_pipeline.runs import embed as embed_run
from robert_pipeline.runs import plan as plan_run
from robert_pipeline.runs import publish as publish_run
from robert_pipeline.runs import score as score_run
from robert_pipeline.runs import train as train_run
from robert_pipeline.runs.embed import EmbedReport
from robert_pipeline.runs.identity import new_run_id
from robert_pipeline.runs.label import LabelReport, check_label
from robert_pipeline.runs.publish import PublishReport
from robert_pipeline.runs.score import ScoreReport
from robert_pipeline.storage.heads import has_head
from robert_pipeline.storage.registry import with_current_head
from robert_pipeline.telemetry.watch import observed


@task(retries=RETRIES, retry_delay_seconds=RETRY_SECONDS, retry_condition_fn=is_transient)
def choose_head(settings: Settings) -> Settings:
    """The settings with the head that labels, for the whole run: a promotion meanwhile is for the next one."""
    return with_current_head(settings)


@task(retries=RETRIES, retry_delay_seconds=RETRY_SECONDS, retry_condition_fn=is_transient)
def plan(settings: Settings, partitions: Sequence[str], run_id: str, *, trains_first: bool) -> int:
    """Find what would stop the run before anything is embedded; gives the number of units to embed."""
    planned = plan_run.plan(settings, partitions=partitions, run_id=run_id)
    check_label(settings, planned, trains_first=trains_first)
    return len(planned.missing)


@task(retries=RETRIES, retry_delay_seconds=RETRY_SECONDS, retry_condition_fn=is_transient)
def embed(settings: Settings, partitions: Sequence[str], run_id: str) -> EmbedReport:
    """Embed what has no vectors yet."""
    return embed_run.embed(settings, partitions=partitions, run_id=run_id)


@task(retries=RETRIES, retry_delay_seconds=RETRY_SECONDS, retry_condition_fn=is_transient)
def train(settings: Settings, partitions: Sequence[str], run_id: str) -> str:
    """Train a head on labelled partitions; gives its fingerprint."""
    planned = plan_run.plan(settings, partitions=partitions, run_id=run_id)
    return train_run.train(settings, planned).head.fingerprint


@task(retries=RETRIES, retry_delay_seconds=RETRY_SECONDS, retry_condition_fn=is_transient)
def score(settings: Settings, partitions: Sequence[str], run_id: str) -> ScoreReport:
    """Label what the current head has not labelled yet."""
    return score_run.score(plan_run.plan(settings, partitions=partitions, run_id=run_id), model=settings.model)


@task(retries=RETRIES, retry_delay_seconds=RETRY_SECONDS, retry_condition_fn=is_transient)
def publish(settings: Settings, partitions: Sequence[str], run_id: str) -> PublishReport:
    """Replace the partitions of the published table."""
    return publish_run.publish(settings, plan_run.plan(settings, partitions=partitions, run_id=run_id))


@flow(name="label-partitions")
def label_partitions(
    settings: Settings, partitions: list[str], learn_from: list[str] | None = None, retrain: bool = False
) -> LabelReport:
    """Label `partitions` with the head that was promoted last, and publish them.

    Where there is no head, or `retrain` is set, one is trained on the labels of `learn_from` first, into
    `settings.model`. It labels at once where none was promoted (or `settings.labelled_by` is 'model'); else it is a
    candidate. Raises ConfigError where `partitions` is empty (elsewhere that means all, here it means that a schedule
    found nothing to do) or `retrain` has nothing to learn from.
    """
    if not partitions:
        raise ConfigError("the flow was given no partition to label", fix="Name at least one")
    if retrain and not learn_from:
        raise ConfigError("the flow was asked to retrain and given nothing to learn from", fix="Name it in learn_from")
    return _label(settings, partitions, learn_from or [], retrain, run_id=new_run_id())


@observed("label")
def _label(
    settings: Settings, partitions: list[str], learn_from: list[str], retrain: bool, *, run_id: str
) -> LabelReport:
    log = get_run_logger()
    labelling = choose_head(settings)
    learning = learn_from if retrain or not has_head(labelling.model) else []
    trains_its_own = bool(learning) and labelling.model == settings.model
    to_embed = plan(labelling, [*learning, *partitions], run_id, trains_first=trains_its_own)
    log.info("run %s: %d units to embed", run_id, to_embed)
    embedded = embed(settings, [*learning, *partitions], run_id)
    log.info("run %s: %d of %d units embedded", run_id, embedded.embedded_unit_count, embedded.unit_count)
    if learning:
        trained = train(settings, learning, run_id)
        log.info("run %s: trained head %s%s", run_id, trained, "" if trains_its_own else ", a candidate to promote")
    scored = score(labelling, partitions, run_id)
    published = publish(labelling, partitions, run_id)
    for partition in published.partitions:
        log.info("run %s: partition %s %s", run_id, partition.partition, partition.commit)
    return LabelReport(embed=embedded, score=scored, publish=published)
