"""Scoring of embedded partitions: what is labelled, what is rejected, what is refused, and the side table."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from robert_pipeline.core.examples import logits
from robert_pipeline.errors import ModelError, StoreError
from robert_pipeline.runs.embed import embed
from robert_pipeline.runs.labelled import read_training_set
from robert_pipeline.runs.outcome import partition_outcome
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.score import score
from robert_pipeline.storage.heads import load_head, save_head
from robert_pipeline.storage.store import open_store
from tests.heads import rewrite_shard
from tests.projects import LEARN, elsewhere


@pytest.fixture
def embedded(project, tmp_path):
    """The labelled day, embedded into a store of its own: settings and plan."""
    settings = elsewhere(project, tmp_path)
    embed(settings, partitions=[LEARN], run_id="r")
    return settings, plan(settings, partitions=[LEARN], run_id="r")


def outcome(planned, report):
    return partition_outcome(planned, planned.partitions[0], report.head_fingerprint)


def contributions(settings, planned, report):
    store = open_store(settings.store)
    tables = [
        pq.read_table(
            store.files.full_path(
                store.contribution_path(report.head_fingerprint, planned.job.key, LEARN, unit.unit_id)
            )
        )
        for unit in planned.partitions[0].units
    ]
    return pa.concat_tables(tables)


def test_every_chunk_s_contribution_can_be_had_and_they_sum_to_the_logit(embedded, tmp_path):
    """The evidence that is published could not be checked, or would not add up to what was decided."""
    settings, planned = embedded
    assert score(planned, model=settings.model).scored_shard_count == 1
    report = score(planned, model=settings.model, contributions=True)
    assert report.scored_shard_count == 1  # the predictions were there, the side table was not
    assert score(planned, model=settings.model, contributions=True).scored_shard_count == 0
    rows = contributions(settings, planned, report)
    predictions = pa.Table.from_batches(outcome(planned, report).predictions())
    assert rows.num_rows == pc.sum(predictions.column("chunk_count")).as_py()
    sums = dict(
        zip(
            *rows.group_by("doc_id").aggregate([("contribution", "sum")]).to_pydict().values(),
            strict=True,
        )
    )
    head = load_head(settings.model)
    data = read_training_set(settings, planned, tmp_path / "v.arrow")
    logit_B = logits(head.module, data, np.arange(len(data)))[:, 0]
    bias = head.module.out.bias.tolist()[0]
    for doc_id, candidate, logit in zip(
        predictions.column("doc_id").to_pylist(),
        predictions.column("candidate_label").to_pylist(),
        logit_B,
        strict=True,
    ):
        sign = 1 if candidate == head.labels[1] else -1
        assert sums[doc_id] == pytest.approx(sign * (logit - bias), abs=1e-4)
    strongest = predictions.column("passage_contribution").to_pylist()
    largest = rows.group_by("doc_id", use_threads=False).aggregate([("contribution", "max")])
    assert largest.column("contribution_max").to_pylist() == pytest.approx(strongest)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_document_with_a_broken_vector_is_rejected_and_its_neighbours_are_labelled(embedded, broken):
    """NaN in one vector would give a document a label that means nothing, or take its shard down."""
    settings, planned = embedded
    good = outcome(planned, score(planned, model=settings.model))
    labels = {row["doc_id"]: row["label"] for batch in good.predictions() for row in batch.to_pylist()}
    (unit,) = planned.partitions[0].units
    store = open_store(settings.store)
    doc_id = rewrite_shard(store, store.embedding_path(planned.job.key, LEARN, unit.unit_id), document=3, value=broken)
    other = load_head(settings.model).with_thresholds(review={"sport": 0.01})
    save_head(f"{settings.store}-model", other)
    found = outcome(planned, score(planned, model=f"{settings.store}-model"))
    assert found.rejects.select(["doc_id", "reason"]).to_pylist() == [{"doc_id": doc_id, "reason": "not_finite"}]
    kept = {row["doc_id"]: row["label"] for batch in found.predictions() for row in batch.to_pylist()}
    assert kept == {key: label for key, label in labels.items() if key != doc_id}


def test_a_damaged_shard_is_named_and_nothing_is_scored(embedded):
    """Flipped bits in a shard would become labels."""
    settings, planned = embedded
    (unit,) = planned.partitions[0].units
    store = open_store(settings.store)
    path = store.embedding_path(planned.job.key, LEARN, unit.unit_id)
    content = bytearray(store.files.read_bytes(path))
    content[len(content) // 3] ^= 4
    store.files.write_bytes(path, bytes(content))
    with pytest.raises(StoreError, match=rf"{unit.unit_id}\.parquet is damaged"):
        score(planned, model=settings.model)
    assert store.files.list("predictions") == []


def test_a_head_for_other_vectors_is_refused_with_both_names(embedded, tmp_path):
    """Any head gives any vector of the right size a label."""
    settings, planned = embedded
    head = load_head(settings.model)
    other = replace(head, origin=replace(head.origin, encoder_fingerprint="0" * 16))
    save_head(str(tmp_path / "other"), other)
    with pytest.raises(ModelError, match=rf"{planned.job.encoder_fingerprint}.*{'0' * 16}"):
        score(planned, model=str(tmp_path / "other"))
