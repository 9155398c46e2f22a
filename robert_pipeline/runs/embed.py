"""Embed what is missing of some partitions, and account for every row."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from robert_pipeline.config import Settings
from robert_pipeline.engine import Engine
from robert_pipeline.errors import AccountingError, StoreError
from robert_pipeline.runs.plan import PartitionPlan, Plan, plan
from robert_pipeline.runs.shared import embed_shared_texts, remove_scratch
from robert_pipeline.stages.embedding import EmbedJob
from robert_pipeline.storage.content_index import refresh_index
from robert_pipeline.storage.shards import ShardHeader, open_shard
from robert_pipeline.storage.store import Store, open_store
from robert_pipeline.telemetry.instruments import (
    DOCUMENTS,
    ENCODER_CEILING,
    ENCODER_PADDING,
    GPU_BUSY,
    TOKENS,
    Point,
    partition_label,
)
from robert_pipeline.telemetry.watch import observed
from robert_pipeline.types import Counts, EncoderUse, WorkUnit

READERS = 8
"""Footers read at once: on an object store, reading one is mostly waiting."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedReport:
    """What is in the store for the planned partitions, and what of it this run did."""

    counts: Counts
    """All planned units, those embedded earlier among them."""
    embedded: Counts
    """The units of this run."""
    unit_count: int
    embedded_unit_count: int
    seconds: float
    encoder_use: EncoderUse = field(default_factory=EncoderUse)
    """Of the units of this run: padding, and the share of the machine's ceiling."""
    by_partition: tuple[tuple[str, Counts], ...] = ()
    """`embedded`, by partition; those of which nothing was embedded are left out."""

    @property
    def tokens_per_second(self) -> float:
        """Useful tokens (each counted once, however many chunks overlap it) that this run encoded."""
        return self.embedded.encoded_tokens / self.seconds if self.seconds else 0.0

    @property
    def documents_per_second(self) -> float:
        """Documents of this run, the reused and the rejected ones among them."""
        return self.embedded.documents / self.seconds if self.seconds else 0.0

    @property
    def encoded_tokens_per_second(self) -> float:
        """Tokens that the encoder read in this run: those of every chunk, so those that chunks overlap in twice."""
        return self.encoder_use.encoded_tokens / self.seconds if self.seconds else 0.0

    @property
    def hours_per_million_documents(self) -> float:
        """What a million documents like these would take at the pace of this run."""
        return self.seconds / 3600 * 1e6 / self.embedded.documents if self.embedded.documents else 0.0

    def points(self) -> Iterator[Point]:
        """Documents and tokens of this run by partition, and how well the machine was used."""
        for name, counts in self.by_partition:
            yield DOCUMENTS.point(counts.encoded, stage="embed", partition=name, result="encoded")
            yield DOCUMENTS.point(counts.reused, stage="embed", partition=name, result="reused")
            yield DOCUMENTS.point(counts.rejected, stage="embed", partition=name, result="rejected")
            yield TOKENS.point(counts.encoded_tokens, partition=name, result="encoded")
            yield TOKENS.point(counts.reused_tokens, partition=name, result="reused")
        partition = partition_label(name for name, _ in self.by_partition)
        if self.encoder_use.encoded_tokens:
            yield ENCODER_CEILING.point(self.encoder_use.ceiling_share, partition=partition)
            yield ENCODER_PADDING.point(self.encoder_use.padding_share, partition=partition)
        if self.encoder_use.gpu_seconds:
            yield GPU_BUSY.point(self.encoder_use.gpu_busy_share, partition=partition)


def embed(settings: Settings, *, partitions: Sequence[str] = (), run_id: str) -> EmbedReport:
    """Plan and embed the named partitions, or all."""
    return embed_plan(plan(settings, partitions=partitions, run_id=run_id))


@observed("embed")
def embed_plan(planned: Plan) -> EmbedReport:
    """Embed a plan's missing units.

    A text that any earlier unit of the store holds is copied. Of a text that several documents of this run hold, one is
    encoded; only where two runs meet the same unknown text at the same time does each encode it. Raises
    AccountingError where rows went missing, and what a worker raised.
    """
    started = time.monotonic()
    missing = planned.missing
    if missing:
        _embed_missing(missing, planned.job, planned.engine)
    seconds = time.monotonic() - started
    headers = {
        unit: header for partition in planned.partitions for unit, header in partition_headers(planned, partition)
    }
    new = [headers[unit.unit_id] for unit in missing]
    by_partition: dict[str, Counts] = {}
    for unit, header in zip(missing, new, strict=True):
        by_partition[unit.partition] = by_partition.get(unit.partition, Counts()) + header.counts
    return EmbedReport(
        counts=sum((header.counts for header in headers.values()), Counts()),
        embedded=sum((header.counts for header in new), Counts()),
        unit_count=sum(len(partition.units) for partition in planned.partitions),
        embedded_unit_count=len(missing),
        seconds=seconds,
        encoder_use=sum((header.encoder_use for header in new), EncoderUse()),
        by_partition=tuple(by_partition.items()),
    )


def _embed_missing(units: Sequence[WorkUnit], job: EmbedJob, engine: Engine) -> None:
    # Loading Beam takes two seconds: not for a run that has nothing to do.
    from robert_pipeline.stages.pipeline import embed_pipeline, embedding_host, run

    with embedding_host(engine, job) as host:
        refresh_index(open_store(job.store), job.key)
        shared = embed_shared_texts(units, job, host)
        run(embed_pipeline(units, job, host), host)
        remove_scratch(units, shared, job)


def partition_headers(planned: Plan, partition: PartitionPlan) -> list[tuple[str, ShardHeader]]:
    """(unit id, header) from footers. Raises StoreError for a missing shard, AccountingError for lost rows."""
    store = open_store(planned.job.store)
    with ThreadPoolExecutor(READERS, thread_name_prefix="footers") as readers:
        headers = readers.map(lambda unit: _unit_header(store, planned.job, unit), partition.units)
        return [(unit.unit_id, found) for unit, found in zip(partition.units, headers, strict=True)]


def _unit_header(store: Store, job: EmbedJob, unit: WorkUnit) -> ShardHeader:
    path = store.embedding_path(job.key, unit.partition, unit.unit_id)
    if not store.files.exists(path):
        raise StoreError(
            f"partition '{unit.partition}' has no embedding shard {store.files.describe(path)}",
            fix="Run `robert embed` again; units that are done are kept",
        )
    header = open_shard(store.files, path).header
    counts = header.counts
    if counts.documents != unit.document_count or counts.documents != counts.embedded + counts.rejected:
        raise AccountingError(
            f"shard {store.files.describe(path)} accounts for {counts.embedded} embedded and {counts.rejected} "
            f"rejected of {unit.document_count} rows",
            fix="Run `robert store verify`, which sets it aside and embeds its texts again",
        )
    return header
