"""Cleaning a store: only what is held for nothing goes, and only on request."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from robert_pipeline.errors import CorpusError
from robert_pipeline.runs.store_gc import Reason, collect_garbage
from robert_pipeline.storage.store import open_store
from tests.corpora import write_texts
from tests.stores import counting_encoder, embed_missing, job_of, missing_units, settings_of, units_of, write_partition

HOURS = 3600
DAY = "day=2"
TEXTS = ["one text", "another text", "a third one"]


@pytest.fixture
def encoder(tiny):
    return counting_encoder(tiny.tokenizer)


@pytest.fixture
def own(tmp_path, encoder):
    """Two embedded days, the second with rejects, predictions and contributions; all files two days old."""
    write_partition(tmp_path / "corpus", "day=1", ["of the first day"])
    write_partition(tmp_path / "corpus", DAY, [*TEXTS, None])
    settings = settings_of(tmp_path / "corpus", tmp_path / "store")
    embed_missing(settings, encoder)
    store, key = open_store(settings.store), job_of(settings, encoder).key
    for unit in units_of(settings):
        if unit.partition == DAY:
            for path_of in (store.prediction_path, store.contribution_path):
                store.files.write_bytes(path_of("h" * 16, key, DAY, unit.unit_id), b"rows")
    age(settings)
    return settings


def age(settings):
    then = time.time() - 48 * HOURS
    for path in Path(settings.store).rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def files(settings):
    return {path for path in Path(settings.store).rglob("*") if path.is_file()}


def test_a_store_without_leftovers_has_nothing_to_give(own):
    """Live vectors would go, and be paid for again."""
    report = collect_garbage(own, delete=True, older_than_hours=0, superseded_days=0)
    assert report.garbage == ()


def test_leftovers_of_killed_runs_go_when_they_are_old_and_on_request(own):
    """Half-written files would fill the disk, or a look would delete, or the file of a running embed would go."""
    folder = Path(own.store, "embeddings")
    old, young = folder / "a.parquet.1-2.tmp", folder / "b.parquet.1-2.tmp"
    survey = Path(own.store, "surveys", "e-c-float16", DAY, "u.run")
    survey.parent.mkdir(parents=True)
    for path in (old, young, survey):
        path.write_bytes(b"half")
    for path in (old, survey):
        os.utime(path, (1, 1))
    before = files(own)
    report = collect_garbage(own)
    assert {(item.path.rpartition("/")[2], item.reason) for item in report.garbage} == {
        (old.name, Reason.TEMPORARY),
        (survey.name, Reason.SURVEY),
    }
    assert (report.is_deleted, files(own)) == (False, before)
    assert collect_garbage(own, delete=True).is_deleted
    assert before - files(own) == {old, survey}


def test_what_is_not_ours_stays(own):
    """In a folder or bucket that is shared, somebody's draft would be deleted as a leftover."""
    draft = Path(own.store, "mine", "draft.tmp")
    draft.parent.mkdir()
    draft.write_text("mine")
    os.utime(draft, (1, 1))
    assert collect_garbage(own, delete=True).garbage == ()
    assert draft.exists()


def test_a_damaged_shard_stops_no_clean_up(own, encoder, caplog):
    """One damaged page would keep everything, until somebody thinks of `verify`."""
    (before,) = Path(own.store, "embeddings").rglob(f"*{DAY}*/*.parquet")
    write_partition(Path(own.corpus), DAY, TEXTS[:2])
    embed_missing(own, encoder)
    columns = pq.ParquetFile(before).metadata.row_group(0)
    (hashes,) = (
        columns.column(i) for i in range(columns.num_columns) if columns.column(i).path_in_schema == "text_hash"
    )
    content = bytearray(before.read_bytes())
    content[hashes.data_page_offset - 8] ^= 1  # the end of the dictionary, before the pages
    before.write_bytes(content)
    age(own)
    leftover = Path(own.store, "embeddings", "a.parquet.1-2.tmp")
    leftover.write_bytes(b"half")
    os.utime(leftover, (1, 1))
    report = collect_garbage(own, delete=True)
    assert before.exists()
    assert not leftover.exists()
    assert report.kept_superseded_shards == 1
    assert f"{before.name} is left: " in caplog.text


def test_shards_of_rows_that_are_gone_go_once_their_texts_are_elsewhere(own, encoder):
    """Every change of the corpus would leave a copy of all vectors behind, or take vectors that texts come back to."""
    write_partition(own.corpus, DAY, TEXTS[::-1])  # the same good texts, without the bad row
    embed_missing(own, encoder)
    age(own)
    report = collect_garbage(own, delete=True)
    reasons = {(item.path.partition("/")[0], item.reason) for item in report.garbage}
    assert ("embeddings", Reason.REDUNDANT) in reasons
    assert {kind for kind, _ in reasons} == {"embeddings", "rejects", "predictions", "contributions"}
    assert all(DAY in item.path for item in report.garbage)
    assert missing_units(own, encoder) == []
    assert collect_garbage(own).garbage == ()


def test_texts_that_nobody_has_any_more_stay_until_they_are_let_go(own, encoder):
    """A text that comes back tomorrow would be paid for again, or nothing would ever be let go."""
    write_partition(own.corpus, DAY, ["something else entirely"])
    embed_missing(own, encoder)
    age(own)
    kept = collect_garbage(own)
    assert "embeddings" not in {item.path.partition("/")[0] for item in kept.garbage}
    assert kept.kept_superseded_shards == 1
    assert kept.kept_superseded_bytes > 0
    gone = collect_garbage(own, delete=True, superseded_days=1)
    assert Reason.SUPERSEDED in {item.reason for item in gone.garbage}
    assert missing_units(own, encoder) == []


def test_an_encoders_last_shards_take_its_index_with_them(own, encoder):
    """What a clean-up leaves for nothing would be found by the next one only."""
    write_partition(own.corpus, DAY, TEXTS)
    embed_missing(own, encoder)  # makes an index of what was there
    for day in ("day=1", DAY):
        write_partition(own.corpus, day, ["something else entirely"])  # and not embedded
    age(own)
    gone = collect_garbage(own, delete=True, superseded_days=1)
    assert {Reason.SUPERSEDED, Reason.INDEX} <= {item.reason for item in gone.garbage}
    assert collect_garbage(own, superseded_days=1).garbage == ()


def test_shards_of_another_corpus_are_not_touched(own, encoder, tmp_path):
    """Cleaning up after one corpus would delete the vectors of another that shares the store."""
    other = replace(own, corpus=str(tmp_path / "other"))
    write_texts(tmp_path / "other" / "p" / "a.parquet", ["of another corpus"])
    embed_missing(other, encoder)
    age(own)
    report = collect_garbage(own, delete=True, older_than_hours=0, superseded_days=0)
    assert (report.garbage, report.other_shards > 0) == ((), True)
    assert missing_units(other, encoder) == []


def test_without_a_corpus_nothing_is_garbage(own, tmp_path):
    """A corpus that is not mounted would empty the store."""
    before = files(own)
    with pytest.raises(CorpusError):
        collect_garbage(replace(own, corpus=str(tmp_path / "unmounted")), delete=True, older_than_hours=0)
    assert files(own) == before


def test_what_belongs_to_no_shard_goes(own):
    """Rejects and predictions of a lost shard would be kept for ever."""
    (place,) = [p for p in open_store(own.store).shards("embeddings") if p.partition_folder == DAY]
    Path(own.store, place.entry.path).unlink()
    report = collect_garbage(own)
    assert {item.reason for item in report.garbage} == {Reason.ORPHAN}
    assert {item.path.partition("/")[0] for item in report.garbage} == {"rejects", "predictions", "contributions"}
