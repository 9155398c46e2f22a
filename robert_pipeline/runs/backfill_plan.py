"""What a backfill would do, and what it would cost: read from the ledger of the table, before any forward pass."""

from dataclasses import dataclass
from datetime import date

from robert_pipeline.config import Settings
from robert_pipeline.core.backfill import Made, PartitionFacts, Reprocess, choose, in_range
from robert_pipeline.core.price import Estimate, Rates, estimate, rates
from robert_pipeline.errors import CorpusError
from robert_pipeline.runs.label import check_label
from robert_pipeline.runs.machine import machine_name
from robert_pipeline.runs.plan import PartitionPlan, Plan, list_partitions, plan
from robert_pipeline.runs.publish import planned_key, planned_of, published_keys
from robert_pipeline.runs.score import load_head_for
from robert_pipeline.storage.registry import with_current_head
from robert_pipeline.storage.run_records import failed_partitions, recent_samples
from robert_pipeline.storage.warehouse import Sink, open_warehouse


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which partitions of the corpus a backfill looks at, and which of them it runs again."""

    since: date | None = None
    until: date | None = None
    partitions: tuple[str, ...] = ()
    reprocess: Reprocess = "none"
    newest_first: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class BackfillPlan:
    """All partitions looked at, those to run in their order, and the price.

    `settings` names the current head, so that a promotion meanwhile changes nothing.
    """

    settings: Settings
    current: Made
    facts: tuple[PartitionFacts, ...]
    chosen: tuple[PartitionFacts, ...]
    rates: Rates
    machine: str
    estimate: Estimate


def plan_backfill(
    settings: Settings, selection: Selection, *, run_id: str, price_per_hour: float | None = None
) -> BackfillPlan:
    """Compare the corpus with the ledger of the published table, and price what is to do.

    `price_per_hour` is `settings.operations.price_per_hour` by default. Raises ConfigError for a range that the
    partitions' names cannot be held against, and what `plan` and `check_label` raise.
    """
    settings = with_current_head(settings)
    names = _names(settings, selection)
    planned = plan(settings, partitions=names, run_id=run_id)
    check_label(settings, planned)
    facts = partition_facts(settings, planned)
    chosen = choose(facts, selection.reprocess, newest_first=selection.newest_first)
    machine = machine_name()
    known = rates(recent_samples(settings.store), encoder_fingerprint=planned.job.encoder_fingerprint, machine=machine)
    price = settings.operations.price_per_hour if price_per_hour is None else price_per_hour
    return BackfillPlan(
        settings=settings,
        current=_current(settings, planned),
        facts=tuple(facts),
        chosen=tuple(chosen),
        rates=known,
        machine=machine,
        estimate=estimate(chosen, known, price_per_hour=price),
    )


def partition_facts(settings: Settings, planned: Plan) -> list[PartitionFacts]:
    """What is known of each planned partition. Raises ModelError where the head is for another encoder."""
    sink = open_warehouse(settings.warehouse)
    ledger = published_keys(sink)
    head = load_head_for(planned, model=settings.model).fingerprint
    failed = failed_partitions(settings.store, [partition.partition for partition in planned.partitions])
    return [
        _facts(
            partition,
            published_key=planned_of(ledger[partition.partition]) if partition.partition in ledger else None,
            current_key=planned_key(planned, partition, head),
            last_run_failed=partition.partition in failed,
            sink=sink,
        )
        for partition in planned.partitions
    ]


def is_published(settings: Settings, partition: str, *, run_id: str) -> bool:
    """Whether the ledger has the partition as a run of now would publish it. `settings` must name the head."""
    planned = plan(settings, partitions=[partition], run_id=run_id)
    head = load_head_for(planned, model=settings.model).fingerprint
    ledger = published_keys(open_warehouse(settings.warehouse))
    return planned_of(ledger.get(partition, "")) == planned_key(planned, planned.partitions[0], head)


def _names(settings: Settings, selection: Selection) -> list[str]:
    known = list_partitions(settings)
    for name in selection.partitions:
        if name not in known:
            shown = ", ".join(known[:5]) + (", …" if len(known) > 5 else "")
            raise CorpusError(f"corpus {settings.corpus} has no partition '{name}'", fix=f"It has: {shown}")
    names = in_range(selection.partitions or known, since=selection.since, until=selection.until)
    if not names:
        raise CorpusError(
            f"corpus {settings.corpus} has no partition from {selection.since or 'the start'} to "
            f"{selection.until or 'the end'}",
            fix="Widen --since and --until",
        )
    return names


def _facts(
    partition: PartitionPlan, *, published_key: str | None, current_key: str, last_run_failed: bool, sink: Sink
) -> PartitionFacts:
    is_current = published_key == current_key
    return PartitionFacts(
        partition=partition.partition,
        published_key=published_key,
        current_key=current_key,
        last_run_failed=last_run_failed,
        documents=partition.document_count,
        text_bytes=partition.text_bytes,
        missing_text_bytes=sum(unit.text_bytes for unit in partition.missing),
        missing_documents=sum(unit.document_count for unit in partition.missing),
        published_by=None if published_key is None or is_current else _made_by(sink, partition.partition),
    )


def _made_by(sink: Sink, partition: str) -> Made | None:
    """From one row of the table; None where it has none."""
    names = ("encoder_fingerprint", "chunking_fingerprint", "head_fingerprint")
    rows = sink.dataset("predictions", partition, columns=names, limit=1).head(1).to_pylist()
    return None if not rows else Made(**{name.removesuffix("_fingerprint"): rows[0][name] for name in names})


def _current(settings: Settings, planned: Plan) -> Made:
    return Made(
        encoder=planned.job.encoder_fingerprint,
        chunking=planned.job.chunking.fingerprint,
        head=load_head_for(planned, model=settings.model).fingerprint,
    )
