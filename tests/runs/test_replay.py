"""Rejected rows: listed with their reason, run again when the cause is mended, published once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robert_pipeline.core.encoder import Encoder
from robert_pipeline.errors import ConfigError
from robert_pipeline.runs.label import label
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.query import query
from robert_pipeline.runs.rejects import list_rejects
from robert_pipeline.runs.replay import plan_replay, replay
from robert_pipeline.storage.warehouse import Commit
from tests.corpora import write_file
from tests.projects import LABEL, REJECTED, elsewhere, texts, write_corpus


@pytest.fixture
def labelled(scored, tmp_path):
    """The scored project with a corpus of its own, its day to label published."""
    write_corpus(tmp_path / "corpus")
    settings = replace(scored, corpus=str(tmp_path / "corpus"))
    label(settings, plan(settings, partitions=[LABEL], run_id="first"))
    return settings


def run_replay(settings, run_id="again"):
    return replay(settings, plan_replay(settings, partitions=[LABEL], run_id=run_id))


def published(settings):
    """(doc_id, where) of every published row of the day, sorted."""
    rows = query(
        settings.warehouse,
        "SELECT doc_id, 'labelled' AS what FROM predictions UNION ALL SELECT doc_id, reason FROM rejects",
    ).to_pylist()
    return sorted((str(row["doc_id"]), row["what"]) for row in rows)


def test_rejects_are_listed_and_counted_by_reason(labelled):
    """Nobody could see what was not labelled, and why."""
    report = list_rejects(labelled, partitions=[LABEL], run_id="r")
    assert {row["doc_id"]: row["reason"] for row in report.rows.to_pylist()} == REJECTED
    assert {(row["file"], row["row"]) for row in report.rows.to_pylist()} == {
        (f"{LABEL}/a.parquet", row) for row in range(5, 10)
    }
    assert report.counts == tuple((LABEL, reason, 1) for reason in sorted(REJECTED.values()))
    assert report.missing_unit_count == 0
    only = list_rejects(labelled, reasons=["empty_text", "null_text"], run_id="r")
    assert only.rows.num_rows == 2
    with pytest.raises(ConfigError, match=r"no reason 'empty'\. Give one of: .*empty_text"):
        list_rejects(labelled, reasons=["empty"], run_id="r")


def test_rows_that_were_mended_in_the_corpus_are_published_once(labelled):
    """A mended row would stay among the rejects, or be in the table twice."""
    ids = [*(f"d{i}" for i in range(5)), "d6", "d7", "d8", "d9", "d10"]
    good = texts("sport", 3, "label") + texts("business", 3, "label")
    mended = [*good[:5], *texts("sport", 5, "mended")]
    write_file(Path(labelled.corpus, LABEL, "a.parquet"), doc_id=ids, text=mended)
    (report,) = run_replay(labelled)
    assert (report.rejected_before, report.rejected_after, report.commit) == (5, 0, Commit.COMMITTED)
    assert published(labelled) == sorted((name, "labelled") for name in ids)
    assert run_replay(labelled) == ()


def test_rows_whose_cause_lay_outside_the_corpus_are_run_again(project, tmp_path, monkeypatch):
    """A unit that is done would never be looked at again, though the encoder has been mended."""
    settings = elsewhere(project, tmp_path)
    genuine = Encoder.__call__

    def broken(self, batch):
        vectors = genuine(self, batch)
        vectors[0] = np.nan
        return vectors

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "__call__", broken)
        label(settings, plan(settings, partitions=[LABEL], run_id="first"))
    before = published(settings)
    assert "not_finite" in {what for _, what in before}
    (report,) = run_replay(settings)
    assert report.rejected_before - report.rejected_after == [what for _, what in before].count("not_finite")
    assert [what for _, what in published(settings)].count("labelled") == 5
    assert len(published(settings)) == len(before) == 10


def test_replaying_what_is_not_mended_changes_nothing(labelled):
    """Every replay would be a new version of the table, or lose rows."""
    before = published(labelled)
    (report,) = run_replay(labelled)
    assert (report.rejected_before, report.rejected_after, report.commit) == (5, 5, Commit.ALREADY_COMMITTED)
    assert published(labelled) == before
