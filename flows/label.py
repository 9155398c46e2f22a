"""The flow a schedule runs: plan, embed, train where there is no head yet, score, publish.

Tasks pass addresses and names, never data. What was committed is the truth, not what Prefect remembers: a run that is
repeated finds its work done.
"""

from collections.abc import Sequence

from prefect import flow, get_run_logger, task
from prefect.client.schemas.objects import State, TaskRun

from robert_pipeline.config import Settings
from robert_pipeline.errors import RobertError
from robert_pipeline.runs import embed as embed_run
from robert_pipeline.runs import plan as plan_run
from robert_pipeline.runs import publish as publish_run
from robert_pipeline.runs import score as score_run
from robert_pipeline.runs import train as train_run
from robert_pipeline.runs.embed import EmbedReport
from robert_pipeline.runs.identity import new_run_id
from robert_pipeline.runs.label import LabelReport
from robert_pipeline.runs.publish import PublishReport
from robert_pipeline.runs.score import ScoreReport


async def _is_transient(_task: object, _run: TaskRun, state: State[object]) -> bool:
    """Retry what may go away by itself; what names its own fix will not."""
    try:
        await state.result(raise_on_failure=True)
    except RobertError:
        return False
    except Exception:
        return True
    return False


_retrying = {"retries": 2, "retry_delay_seconds": [10, 60], "retry_condition_fn": _is_transient}


@task(**_retrying)
def embed(settings: Settings, partitions: Sequence[str], run_id: str) -> EmbedReport:
    """Embed what has no vectors yet."""
    return embed_run.embed(settings, partitions=partitions, run_id=run_id)


@task(**_retrying)
def train(settings: Settings, partitions: Sequence[str], run_id: str) -> str:
    """Train a head on labelled partitions; gives its fingerprint."""
    planned = plan_run.plan(settings, partitions=partitions, run_id=run_id)
    report = train_run.train(train_run.TrainRequest(settings=settings, planned=planned))
    return report.head.fingerprint


@task(**_retrying)
def score(settings: Settings, partitions: Sequence[str], run_id: str) -> ScoreReport:
    """Label what the current head has not labelled yet."""
    return score_run.score(plan_run.plan(settings, partitions=partitions, run_id=run_id), model=settings.model)


@task(**_retrying)
def publish(settings: Settings, partitions: Sequence[str], run_id: str) -> PublishReport:
    """Replace the partitions of the published table."""
    return publish_run.publish(settings, plan_run.plan(settings, partitions=partitions, run_id=run_id))


@flow(name="label-partitions")
def label_partitions(
    settings: Settings, partitions: list[str], learn_from: list[str] | None = None, retrain: bool = False
) -> LabelReport:
    """Label `partitions` and publish them.

    Where `settings.model` holds no head, or `retrain` is set, one is trained on the labels of `learn_from` first.
    """
    log = get_run_logger()
    run_id = new_run_id()
    learning = list(learn_from or ()) if retrain or not train_run.has_head(settings.model) else []
    embedded = embed(settings, [*learning, *partitions], run_id)
    log.info("run %s: %d of %d units embedded", run_id, embedded.embedded_unit_count, embedded.unit_count)
    if learning:
        log.info("run %s: trained head %s", run_id, train(settings, learning, run_id))
    scored = score(settings, partitions, run_id)
    published = publish(settings, partitions, run_id)
    for partition in published.partitions:
        log.info("run %s: partition %s %s", run_id, partition.partition, partition.commit)
    return LabelReport(embed=embedded, score=scored, publish=published)
