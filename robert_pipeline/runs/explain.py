"""Where a label came from: a document's id enters; what the published tables alone say of it leaves."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from robert_pipeline.config import Warehouse
from robert_pipeline.errors import WarehouseError
from robert_pipeline.storage.promotions import Promotion, read_ledger
from robert_pipeline.storage.warehouse import Sink, TableName, open_warehouse
from robert_pipeline.storage.warehouse.sink import AsOf

Row = dict[str, Any]
"""A published row, as its contract describes it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelThresholds:
    """What the probability of one label was held against; see the predictions contract. None where unknown."""

    label: str
    probability: float
    decision: float | None
    review: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """A published label and all that made it. Characters are Unicode code points of the text."""

    doc_id: str
    partition: str
    label: str | None
    labels: tuple[str, ...]
    candidate_label: str
    needs_review: bool
    thresholds: tuple[LabelThresholds, ...]
    """The most probable label first."""
    text_hash: str
    tokens_seen: int
    tokens_total: int
    chunk_count: int
    passage_start: int
    passage_end: int
    passage_chunk_index: int
    passage_contribution: float
    encoder_fingerprint: str
    chunking_fingerprint: str
    head_fingerprint: str
    promotions: tuple[Promotion, ...]
    """The entries of the ledger by which the head became the current one; none where it was named by hand."""
    code_version: str
    run_id: str
    scored_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """A document that has no label, and why."""

    doc_id: str
    partition: str
    file: str
    row: int
    reason: str
    detail: str
    run_id: str
    rejected_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplainReport:
    """Every partition's answer: ids are unique within a partition only."""

    explanations: tuple[Explanation, ...]
    rejections: tuple[Rejection, ...]


def explain(
    warehouse: Warehouse, doc_id: str, *, partition: str | None = None, as_of: AsOf | None = None
) -> ExplainReport:
    """What is published about a document now, or was at that time or in that version of `predictions`.

    Raises WarehouseError where nothing is.
    """
    sink = open_warehouse(warehouse)
    rows = _rows(sink, "predictions", partition, doc_id, as_of)
    # A version is one table's; the other is asked as of a time only.
    rejects = [] if isinstance(as_of, str) else _rows(sink, "rejects", partition, doc_id, as_of)
    if not rows and not rejects:
        when = f" as of {as_of}" if as_of is not None else ""
        where = f" in partition '{partition}'" if partition is not None else ""
        raise WarehouseError(f"no document '{doc_id}'{where} is published in {warehouse.uri}{when}", fix="See the id")
    promotions = read_ledger(sink)
    return ExplainReport(
        explanations=tuple(_explanation(row, promotions) for row in rows),
        rejections=tuple(Rejection(**{name: row[name] for name in Rejection.__dataclass_fields__}) for row in rejects),
    )


def _rows(sink: Sink, table: TableName, partition: str | None, doc_id: str, as_of: AsOf | None) -> list[Row]:
    if not sink.commit_keys(table):
        return []
    found = sink.read(table, partition, doc_id=doc_id, as_of=as_of).read_all()
    rows: list[Row] = found.sort_by("partition").to_pylist(maps_as_pydicts="lossy")
    return rows


def _explanation(row: Row, promotions: list[Promotion]) -> Explanation:
    probabilities, decision, review = (
        row[name] or {} for name in ("probabilities", "decision_thresholds", "review_thresholds")
    )
    ranked = sorted(probabilities.items(), key=lambda pair: -pair[1])
    plain = set(Explanation.__dataclass_fields__) - {"thresholds", "promotions", "labels"}
    return Explanation(
        **{name: row[name] for name in plain},
        labels=tuple(row["labels"]),
        thresholds=tuple(
            LabelThresholds(label=label, probability=p, decision=decision.get(label), review=review.get(label))
            for label, p in ranked
        ),
        promotions=tuple(entry for entry in promotions if entry.head_fingerprint == row["head_fingerprint"]),
    )
