"""Some partitions through all of it: plan, embed, score, publish."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from robert_pipeline.config import Settings
from robert_pipeline.runs.embed import EmbedReport, embed_plan
from robert_pipeline.runs.plan import Plan, plan
from robert_pipeline.runs.publish import PublishReport, publish
from robert_pipeline.runs.score import ScoreReport, score
from robert_pipeline.storage.heads import load_head
from robert_pipeline.storage.warehouse import open_warehouse


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelReport:
    """What each step did."""

    embed: EmbedReport
    score: ScoreReport
    publish: PublishReport


def label(settings: Settings, *, partitions: Sequence[str] = (), run_id: str) -> LabelReport:
    """Label the named partitions, or all, with the head in `settings.model`.

    What would stop the run (no head, a foreign table, an unreadable corpus) is found before anything is embedded.
    """
    head = load_head(settings.model)
    open_warehouse(settings.warehouse).check()
    planned = plan(settings, partitions=partitions, run_id=run_id)
    head.check_origin(planned.job.encoder_fingerprint, planned.job.chunking.fingerprint)
    embedded = embed_plan(planned)
    scored = score(embedded_plan(planned), model=settings.model)
    published = publish(settings, planned, head_fingerprint=scored.head_fingerprint)
    return LabelReport(embed=embedded, score=scored, publish=published)


def embedded_plan(planned: Plan) -> Plan:
    """The same plan after its missing units were embedded."""
    return replace(planned, partitions=tuple(replace(p, missing=()) for p in planned.partitions))
