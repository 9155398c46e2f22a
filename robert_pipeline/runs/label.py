"""Some partitions through all of it: embed, score, publish."""

from dataclasses import dataclass

from robert_pipeline.config import Settings
from robert_pipeline.runs.embed import EmbedReport, embed_plan
from robert_pipeline.runs.plan import Plan
from robert_pipeline.runs.publish import PublishReport, publish
from robert_pipeline.runs.score import ScoreReport, load_head_for, score
from robert_pipeline.storage.warehouse import open_warehouse


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelReport:
    """What each step did."""

    embed: EmbedReport
    score: ScoreReport
    publish: PublishReport


def label(settings: Settings, planned: Plan) -> LabelReport:
    """Label the planned partitions with the head in `settings.model`.

    What would stop the run (no head, a head for another encoder, a foreign table) is found before anything is embedded.
    """
    load_head_for(planned, model=settings.model)
    check_warehouse(settings)
    embedded = embed_plan(planned)
    planned = planned.embedded()
    scored = score(planned, model=settings.model)
    return LabelReport(embed=embedded, score=scored, publish=publish(settings, planned))


def check_warehouse(settings: Settings) -> None:
    """Raise WarehouseError where nothing could be published, so that it is known before anything is embedded."""
    open_warehouse(settings.warehouse).check()
