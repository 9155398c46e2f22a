"""Where a label came from, told by the published tables alone."""

import dataclasses
import time
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from published_rows import SCORED_AT, prediction_row, predictions

from robert_pipeline.config import Warehouse
from robert_pipeline.errors import WarehouseError
from robert_pipeline.runs.explain import explain
from robert_pipeline.runs.query import query
from robert_pipeline.storage.warehouse import open_warehouse
from robert_pipeline.storage.warehouse.sink import parse_as_of
from schemas import CONTRACTS, PREDICTIONS_V1, REJECTS


@pytest.fixture(params=["iceberg", "delta", "parquet", "duckdb"])
def warehouse(request, tmp_path):
    return Warehouse(uri=str(tmp_path / "warehouse"), sink=request.param)


def test_everything_that_made_a_label_is_told(warehouse):
    """An auditor's question, why this label, would need files that may be gone."""
    sink = open_warehouse(warehouse)
    for day in ("day=1", "day=2"):
        sink.replace_partition("predictions", day, [predictions(day, 3)], "a")
    (first, second) = explain(warehouse, "doc-1").explanations
    assert (first.partition, second.partition) == ("day=1", "day=2")
    row = prediction_row("day=2", "doc-1")
    for name in set(dataclasses.asdict(second)) & set(row) - {"labels"}:
        assert getattr(second, name) == row[name], name
    assert second.labels == ("sport",)
    told = [(t.label, t.probability, t.decision, t.review) for t in second.thresholds]
    assert told == [("sport", 0.75, 0.5, 0.6), ("tech", 0.25, 0.5, 0.0)]
    assert explain(warehouse, "doc-1", partition="day=2").explanations == (second,)


def test_a_label_of_an_earlier_contract_is_explained_as_far_as_it_goes(warehouse, monkeypatch):
    """Labels of before an upgrade could not be explained at all."""
    with monkeypatch.context() as patch:
        patch.setitem(CONTRACTS, "predictions", PREDICTIONS_V1)
        rows = predictions("p", 1, contract=PREDICTIONS_V1)
        open_warehouse(warehouse).replace_partition("predictions", "p", [rows], "a")
    (found,) = explain(warehouse, "doc-0").explanations
    assert [(t.label, t.decision, t.review) for t in found.thresholds] == [("sport", None, None), ("tech", None, None)]


def test_a_rejected_document_is_explained_too(warehouse):
    """Someone who looks for a missing document would be told that there is none."""
    row = {"doc_id": "bad", "partition": "p", "file": "part-0.parquet", "row": 7, "reason": "empty_text"}
    row |= {"detail": "text has 0 characters", "run_id": "run-1", "rejected_at": SCORED_AT}
    sink = open_warehouse(warehouse)
    sink.replace_partition("rejects", "p", [pa.RecordBatch.from_pylist([row], schema=REJECTS.schema)], "a")
    (rejection,) = explain(warehouse, "bad").rejections
    assert dataclasses.asdict(rejection) == row


def test_an_unknown_document_is_one_clear_error(warehouse):
    """A mistyped id would look like a document without a label."""
    with pytest.raises(WarehouseError, match="no document 'x' is published"):
        explain(warehouse, "x")
    open_warehouse(warehouse).replace_partition("predictions", "p", [predictions("p", 1)], "a")
    for doc_id, partition in (("x", None), ("doc-0", "q"), ("' or 1=1 --", None)):
        with pytest.raises(WarehouseError, match="no document"):
            explain(warehouse, doc_id, partition=partition)


@pytest.mark.parametrize("warehouse", ["iceberg", "delta", "parquet"], indirect=True)
def test_labels_of_the_past_can_be_asked_for(warehouse):
    """What a report said last week could not be found out after a new head."""
    sink = open_warehouse(warehouse)
    sink.replace_partition("predictions", "p", [predictions("p", 2, "head-a")], "a")
    between = datetime.now(UTC)
    time.sleep(0.01)
    sink.replace_partition("predictions", "p", [predictions("p", 2, "head-b")], "b")
    version = next(v.id for v in sink.history("predictions") if v.commit_key == "a")
    for as_of, head in ((between, "head-a"), (version, "head-a"), (None, "head-b")):
        (found,) = explain(warehouse, "doc-0", as_of=as_of).explanations
        assert found.head_fingerprint == head
    sql = "select distinct head_fingerprint as head, (select count(*) from rejects) as rejects from predictions"
    assert query(warehouse, sql, as_of=between).to_pylist() == [{"head": "head-a", "rejects": 0}]
    assert query(warehouse, sql).to_pylist() == [{"head": "head-b", "rejects": 0}]
    with pytest.raises(WarehouseError, match="keeps no version as old as 2001"):
        query(warehouse, sql, as_of=datetime(2001, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_a_sink_without_history_refuses_the_past(warehouse):
    """Today's label would be shown as last week's."""
    open_warehouse(warehouse).replace_partition("predictions", "p", [predictions("p", 1)], "a")
    for ask in (
        lambda: explain(warehouse, "doc-0", as_of=datetime.now(UTC)),
        lambda: query(warehouse, "select 1", as_of=datetime.now(UTC)),
    ):
        with pytest.raises(WarehouseError, match="keeps no earlier versions"):
            ask()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T10:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("2026-01-31T10:00+02:00", datetime(2026, 1, 31, 8, tzinfo=UTC)),
        ("20260131", "20260131"),
        ("7", "7"),
        ("abc", "abc"),
    ],
)
def test_a_time_is_told_from_a_version(text, meant):
    """A version that looks like a date would be taken for one, or a time be read in the zone of some machine."""
    assert parse_as_of(text) == meant
