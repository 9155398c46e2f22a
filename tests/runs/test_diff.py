"""What would change if another head labelled."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from robert_pipeline.config import Chunking
from robert_pipeline.core.flips import WITHHELD
from robert_pipeline.errors import ConfigError, GateError, ModelError, StoreError
from robert_pipeline.runs.diff import diff
from robert_pipeline.runs.embed import embed
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.publish import publish
from robert_pipeline.runs.query import query
from robert_pipeline.runs.score import score
from robert_pipeline.runs.thresholds import set_thresholds
from robert_pipeline.runs.train import train
from robert_pipeline.storage.heads import load_head, save_head
from tests.corpora import write_file
from tests.heads import trained
from tests.projects import LABEL, LEARN, elsewhere


@pytest.fixture
def candidate(project, tmp_path):
    """A head with the project's labels that knows nothing: it gives labels at random."""
    known = load_head(project.model)
    head = trained(known.labels, origin=known.origin, dimension=known.dimension, seed=3)
    save_head(str(tmp_path / "candidate"), head)
    return str(tmp_path / "candidate")


def compared(settings, folder, candidate, **options):
    given = {"partitions": [LEARN], "out": str(folder / "diff"), "run_id": "r"}
    return diff(settings, candidate=candidate, **given | options)


def tree(folder):
    return sorted((str(path), path.stat().st_mtime_ns) for path in Path(folder).rglob("*") if path.is_file())


def published_labels(settings, model, folder):
    """doc_id to label, as the published table has it."""
    settings = replace(elsewhere(settings, folder), model=model)
    embed(settings, partitions=[LEARN], run_id="p")
    planned = plan(settings, partitions=[LEARN], run_id="p")
    score(planned, model=model)
    publish(settings, planned)
    rows = query(settings.warehouse, "SELECT doc_id, label, passage_start, passage_end FROM predictions").to_pylist()
    return {row["doc_id"]: row for row in rows}


def test_what_is_found_is_what_the_tables_would_show(project, candidate, tmp_path):
    """A head would be promoted on figures that are not those of the published tables."""
    report = compared(project, tmp_path, candidate)
    before = published_labels(project, project.model, tmp_path / "a")
    after = published_labels(project, candidate, tmp_path / "b")
    flipped = {doc_id for doc_id, row in before.items() if row["label"] != after[doc_id]["label"]}
    assert len(flipped) > 5
    assert (report.diff.documents, report.diff.flips) == (40, len(flipped))
    for move in report.diff.moves:
        count = sum((row["label"], after[i]["label"]) == (*move.before, *move.after) for i, row in before.items())
        assert move.documents == count
    rows = pq.read_table(f"{project.corpus}/{LEARN}", columns=["doc_id", "text"]).to_pylist()
    texts = {row["doc_id"]: row["text"] for row in rows}
    assert {flip.doc_id for flip in report.diff.top_flips} <= flipped
    for flip in report.diff.top_flips:
        row = after[flip.doc_id]
        assert flip.passage_after == texts[flip.doc_id][row["passage_start"] : row["passage_end"]]


def test_only_the_report_is_written(project, candidate, tmp_path):
    """Looking at a candidate would embed, fill the store with its scores, or change what labels."""
    places = (project.store, project.corpus, project.model, candidate)
    before = [tree(place) for place in places]
    compared(project, tmp_path, candidate)
    assert [tree(place) for place in places] == before
    assert not Path(project.warehouse.uri).exists()
    assert {path.name for path in (tmp_path / "diff").iterdir()} == {"diff.json", "diff.html"}


def test_no_encoder_is_needed(project, candidate, tmp_path):
    """Heads could not be compared where the encoder is not installed, though nothing is embedded."""
    settings = replace(project, encoder=replace(project.encoder, name="no/such-encoder"))
    assert compared(settings, tmp_path, candidate).diff.documents == 40


def test_a_file_of_rejected_rows_only_is_no_hindrance(project, candidate, tmp_path):
    """One bad file would block every promotion."""
    day = "day=2026-01-09"
    shutil.copytree(project.corpus, tmp_path / "corpus")
    write_file(tmp_path / "corpus" / day / "a.parquet", doc_id=["x", "y"], text=[" ", "\t"])
    settings = replace(project, corpus=str(tmp_path / "corpus"), store=str(tmp_path / "store"))
    embed(settings, partitions=[LEARN, day], run_id="r")
    assert compared(settings, tmp_path, candidate, partitions=[LEARN, day]).diff.documents == 40


def test_accuracy_leaves_out_what_a_head_has_learned(project, candidate, tmp_path):
    """The old head would be judged on the documents that it knows by heart."""
    assert compared(project, tmp_path, candidate).diff.truth is None
    fresh = str(tmp_path / "fresh")
    save_head(fresh, load_head(project.model))  # nobody knows what it has learned from
    found = compared(replace(project, model=fresh), tmp_path, candidate).diff
    assert found.truth.documents == 40
    assert found.truth.right_before > 35
    assert found.truth.right_after == found.truth.right_before + found.truth.won - found.truth.lost
    assert "nobody knows" in (tmp_path / "diff" / "diff.html").read_text()


def test_without_labels_the_rest_is_shown(project, candidate, tmp_path):
    """A corpus that nobody has labelled could never get a new head."""
    settings = elsewhere(project, tmp_path)
    embed(settings, partitions=[LABEL], run_id="r")
    report = compared(settings, tmp_path, candidate, partitions=[LABEL])
    assert report.diff.truth is None
    assert report.diff.documents == 5


def test_a_sample_is_a_part_of_the_documents_and_always_the_same(project, candidate, tmp_path):
    """The verdict would change from run to run, or a sample take as long as everything."""
    found = compared(project, tmp_path, candidate, sample=20).diff
    assert 8 < found.documents < 32
    assert compared(project, tmp_path, candidate, sample=20).diff == found
    assert compared(project, tmp_path, candidate, sample=1000).diff.documents == 40
    with pytest.raises(ConfigError, match="sample is 0"):
        compared(project, tmp_path, candidate, sample=0)


def test_heads_for_different_vectors_meet_by_document(project, tmp_path):
    """A new chunking or a new encoder could not be compared with what labels now."""
    other = replace(project, chunking=Chunking(chunk_tokens=24, overlap_tokens=4), model=str(tmp_path / "other"))
    unread = trained(("a", "b"), origin=replace(load_head(project.model).origin, chunking=other.chunking))
    save_head(str(tmp_path / "unread"), unread)
    with pytest.raises(StoreError, match="not wholly embedded"):
        compared(project, tmp_path, str(tmp_path / "unread"))
    settings = replace(other, store=str(tmp_path / "store"))
    for each in (settings, replace(settings, chunking=project.chunking)):
        embed(each, partitions=[LEARN], run_id="r")
    train(settings, plan(settings, partitions=[LEARN], run_id="r"))
    report = compared(replace(settings, model=project.model), tmp_path, other.model)
    assert report.diff.documents == 40
    assert report.diff.flip_share < 0.2


def test_thresholds_alone_make_a_candidate(project, tmp_path):
    """A head that withholds more would pass as unchanged."""
    stricter = str(tmp_path / "stricter")
    save_head(stricter, load_head(project.model))
    set_thresholds(stricter, review={"sport": 1.0})
    found = compared(project, tmp_path, stricter).diff
    assert {move.after for move in found.moves if move.before != move.after} == {WITHHELD}


def test_the_page_is_one_file_and_shows_text_as_text(project, tmp_path):
    """A page that is mailed would be empty, or a document would run a script in the reader's browser."""
    evil = "<script>alert(1)</script> & 'quotes' match goal team player"
    corpus = tmp_path / "corpus"
    write_file(corpus / "<b>" / "a.parquet", doc_id=["<i>1</i>", "2"], text=[evil, evil + " profit bank"])
    settings = replace(elsewhere(project, tmp_path), corpus=str(corpus))
    embed(settings, run_id="r")
    known = load_head(project.model)
    renamed = trained(("<u>x</u>", "y"), origin=known.origin, dimension=known.dimension, seed=3)
    save_head(str(tmp_path / "candidate"), renamed)
    report = compared(settings, tmp_path, str(tmp_path / "candidate"), partitions=())
    assert report.diff.flips == 2
    page = Path(report.page_path).read_text()
    assert not re.search(r"<(script|i|b|u|link|img|iframe)[ >]|https?://|@import|url\(", page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert json.loads(Path(report.json_path).read_text())["diff"]["documents"] == 2


def test_what_cannot_be_compared_is_one_clear_error(project, candidate, tmp_path):
    """A mistyped folder would look like a head without flips."""
    with pytest.raises(ModelError, match=r"there is no trained head at .*nowhere"):
        compared(project, tmp_path, str(tmp_path / "nowhere"))
    with pytest.raises(GateError, match="is the head that labels now"):
        compared(project, tmp_path, project.model)
    with pytest.raises(StoreError, match=f"partition '{LABEL}' is not wholly embedded"):
        compared(elsewhere(project, tmp_path), tmp_path, candidate, partitions=[LABEL])
    assert not (tmp_path / "diff").exists()
