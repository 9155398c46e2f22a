"""Rows for the tests of the published tables, in the contracts' shape."""

import datetime

import pyarrow as pa

from schemas import PREDICTIONS, REJECTS

SCORED_AT = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.UTC)


def prediction_row(partition, doc_id, head="head-a", **changes):
    row = {
        "doc_id": doc_id,
        "partition": partition,
        "text_hash": "0" * 64,
        "label": "sport",
        "labels": ["sport"],
        "candidate_label": "sport",
        "needs_review": False,
        "probability": 0.75,
        "probabilities": [("sport", 0.75), ("tech", 0.25)],
        "tokens_seen": 700,
        "tokens_total": 900,
        "chunk_count": 4,
        "passage_start": 10,
        "passage_end": 90,
        "passage_chunk_index": 1,
        "passage_contribution": 0.5,
        "encoder_fingerprint": "e" * 16,
        "chunking_fingerprint": "c" * 16,
        "head_fingerprint": head,
        "code_version": "0.1.0",
        "run_id": "run-1",
        "scored_at": SCORED_AT,
        "decision_thresholds": [("sport", 0.5), ("tech", 0.5)],
        "review_thresholds": [("sport", 0.6), ("tech", 0.0)],
    }
    return row | changes


def predictions(partition, count, head="head-a", first=0, contract=PREDICTIONS, **changes):
    rows = [prediction_row(partition, f"doc-{i}", head, **changes) for i in range(first, first + count)]
    return pa.RecordBatch.from_pylist(rows, schema=contract.schema)


def rejects(partition, count):
    rows = [
        {
            "doc_id": None,
            "partition": partition,
            "file": "part-0.parquet",
            "row": i,
            "reason": "null_doc_id",
            "detail": "",
            "run_id": "run-1",
            "rejected_at": SCORED_AT,
        }
        for i in range(count)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=REJECTS.schema)
