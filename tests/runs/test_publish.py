"""Publishing: labelled and rejected rows of a partition together, in one step, once."""

import shutil
from pathlib import Path

import pytest

from robert_pipeline.errors import AccountingError, StoreError
from robert_pipeline.runs import publish as publish_run
from robert_pipeline.runs.embed import embed
from robert_pipeline.runs.outcome import partition_outcome
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.publish import publish
from robert_pipeline.runs.query import query
from robert_pipeline.runs.score import load_head_for, score
from robert_pipeline.storage.warehouse import Commit
from schemas import PREDICTIONS
from tests.projects import LABEL, REJECTED, elsewhere, train_another_head


@pytest.fixture
def settings(project, tmp_path):
    """The project with a store and a warehouse of its own; the partition to label is scored."""
    settings = elsewhere(project, tmp_path)
    shutil.copytree(project.store, settings.store)
    embed(settings, partitions=[LABEL], run_id="r")
    score(planned_of(settings), model=settings.model)
    return settings


def planned_of(settings):
    return plan(settings, partitions=[LABEL], run_id="r")


def outcome_of(settings):
    planned = planned_of(settings)
    head = load_head_for(planned, model=settings.model)
    return partition_outcome(planned, planned.partitions[0], head.fingerprint)


def delete(settings, kind):
    """Remove the partition's files of one kind from the store, as a careless clean-up would."""
    for path in Path(settings.store, kind).rglob("*.parquet"):
        if LABEL in str(path):
            path.unlink()


def published(settings):
    return query(settings.warehouse, "SELECT count(*) AS n FROM predictions").to_pylist()[0]["n"]


def test_an_outcome_holds_every_document_once(settings):
    """A document would be neither labelled nor rejected, or both."""
    outcome = outcome_of(settings)
    rows = [row for batch in outcome.predictions() for row in batch.to_pylist()]
    assert (outcome.documents, outcome.labelled) == (10, 5)
    assert [row["doc_id"] for row in rows] == ["d0", "d1", "d2", "d3", "d4"]
    assert {row["doc_id"]: row["reason"] for row in outcome.rejects.to_pylist()} == REJECTED
    for batch in outcome.predictions():
        PREDICTIONS.check(batch.schema, where="here")


def test_lost_rejects_stop_a_publication(settings):
    """Documents would vanish from the tables, and the run would report success."""
    publish(settings, planned_of(settings))
    delete(settings, "rejects")
    with pytest.raises(AccountingError, match="has 10 documents, but 5 were labelled and 0 rejected; nothing was pub"):
        publish(settings, planned_of(settings))
    assert published(settings) == 5


def test_a_partition_that_is_not_scored_is_named(settings):
    """A partition would be published without its labels."""
    delete(settings, "predictions")
    with pytest.raises(StoreError, match=r"prediction shard .* does not exist. Run `robert score`"):
        publish(settings, planned_of(settings))


def test_the_same_result_is_one_commit_and_another_head_s_a_second(settings, tmp_path):
    """Readers would see a new version where nothing changed, or the labels of an old head for ever."""
    first = publish(settings, planned_of(settings))
    again = publish(settings, planned_of(settings))
    assert [report.partitions[0].commit for report in (first, again)] == [Commit.COMMITTED, Commit.ALREADY_COMMITTED]
    other = train_another_head(settings, tmp_path / "other")
    score(planned_of(other), model=other.model)
    assert publish(other, planned_of(other)).partitions[0].commit == Commit.COMMITTED
    assert published(settings) == 5


def test_rejects_are_there_once_predictions_are(settings, monkeypatch):
    """A reader who finds a published partition would not find what was rejected of it."""
    tables = []

    class Recorder:
        def check(self):
            pass

        def location(self, table):
            return table

        def commit_keys(self, table):
            return {}

        def replace_partition(self, table, partition, rows, key):
            tables.append((table, sum(batch.num_rows for batch in rows), key))
            return Commit.COMMITTED

    monkeypatch.setattr(publish_run, "open_warehouse", lambda _: Recorder())
    publish(settings, planned_of(settings))
    (first, rejected, key), (second, labelled, same) = tables
    assert (first, rejected, second, labelled) == ("rejects", 5, "predictions", 5)
    assert key == same
