"""What could not be labelled, and why: the reject shards of the planned units, embedded and scored ones alike."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from robert_pipeline.config import Settings
from robert_pipeline.errors import ConfigError
from robert_pipeline.runs.plan import Plan, plan
from robert_pipeline.storage.heads import has_head, load_head
from robert_pipeline.storage.registry import current_head
from robert_pipeline.storage.rejects import read_rejects
from robert_pipeline.storage.store import open_store
from robert_pipeline.types import WorkUnit
from schemas import REJECT_REASONS, REJECTS


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectsReport:
    """Rows of the rejects contract, in corpus order, and how many there are of each kind."""

    rows: pa.Table
    counts: tuple[tuple[str, str, int], ...]
    """(partition, reason, rows)."""
    missing_unit_count: int
    """Units that are not embedded yet: their rejects are not known."""


def list_rejects(
    settings: Settings, *, partitions: Sequence[str] = (), reasons: Sequence[str] = (), run_id: str
) -> RejectsReport:
    """The rejected rows of the named partitions, or of all, those of the head that labels among them.

    Read from the store, so what is not published yet is seen too. Raises ConfigError for a reason that does not exist,
    StoreError for a damaged shard, and what planning raises.
    """
    for reason in reasons:
        if reason not in REJECT_REASONS:
            raise ConfigError(f"there is no reason '{reason}'", fix=f"Give one of: {', '.join(REJECT_REASONS)}")
    planned = plan(settings, partitions=partitions, run_id=run_id)
    tables = [rows for _, rows in unit_rejects(planned, heads(settings))]
    rows = pa.concat_tables([REJECTS.schema.empty_table(), *tables])
    if reasons:
        rows = rows.filter(pc.is_in(rows.column("reason"), pa.array(list(reasons), pa.string())))
    kinds = Counter(zip(rows.column("partition").to_pylist(), rows.column("reason").to_pylist(), strict=True))
    return RejectsReport(
        rows=rows,
        counts=tuple((partition, reason, count) for (partition, reason), count in sorted(kinds.items())),
        missing_unit_count=len(planned.missing),
    )


def heads(settings: Settings) -> list[str]:
    """The fingerprint of the head that labels, where there is one."""
    model = current_head(settings).model
    return [load_head(model).fingerprint] if has_head(model) else []


def unit_rejects(planned: Plan, head_fingerprints: Iterable[str]) -> Iterator[tuple[WorkUnit, pa.Table]]:
    """Each planned unit that has rejected rows, of embedding or of scoring by these heads, with those rows."""
    store = open_store(planned.job.store)
    key = planned.job.key
    for partition in planned.partitions:
        name = partition.partition
        missing = {unit.unit_id for unit in partition.missing}
        done = [unit for unit in partition.units if unit.unit_id not in missing]
        paths = [store.reject_path(key, name, unit.unit_id) for unit in done]
        by_head = [[store.unscored_path(head, key, name, unit.unit_id) for unit in done] for head in head_fingerprints]
        present = store.present(paths).union(*(store.present(scored) for scored in by_head))
        for unit, *places in zip(done, paths, *by_head, strict=True):
            tables = [read_rejects(store.files, place) for place in places if place in present]
            if tables:
                yield unit, pa.concat_tables(tables)
