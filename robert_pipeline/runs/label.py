"""Some partitions through all of it: embed, score, publish."""

from dataclasses import dataclass

from robert_pipeline.config import Settings
from robert_pipeline.runs.embed import EmbedReport, embed_plan
from robert_pipeline.runs.plan import Plan
from robert_pipeline.runs.publish import PublishReport, publish
from robert_pipeline.runs.score import ScoreReport, load_head_for, score
from robert_pipeline.storage.registry import current_head, with_current_head
from robert_pipeline.storage.warehouse import open_warehouse
from robert_pipeline.telemetry.watch import observed


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelReport:
    """What each step did."""

    embed: EmbedReport
    score: ScoreReport
    publish: PublishReport


@observed("label")
def label(settings: Settings, planned: Plan, *, force: bool = False) -> LabelReport:
    """Label the planned partitions with the head that labels: the one promoted last, unless `settings` say otherwise.

    With `force`, partitions that are out of bounds are published too. Raises what `check_label` raises, at once.
    """
    settings = with_current_head(settings)
    check_label(settings, planned)
    embedded = embed_plan(planned)
    planned = planned.embedded()
    scored = score(planned, model=settings.model)
    return LabelReport(embed=embedded, score=scored, publish=publish(settings, planned, force=force))


def check_label(settings: Settings, planned: Plan, *, trains_first: bool = False) -> None:
    """Find before anything is embedded what would stop the run after it.

    Raises ModelError where there is no head or one for another encoder or chunking, unless one is trained first;
    WarehouseError where nothing could be published.
    """
    open_warehouse(settings.warehouse).check()
    if not trains_first:
        load_head_for(planned, model=current_head(settings).model)
