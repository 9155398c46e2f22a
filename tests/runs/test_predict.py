"""A file in, prediction rows out."""

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from robert_pipeline.config import Columns
from robert_pipeline.errors import ConfigError, CorpusError, ModelError, StoreError
from robert_pipeline.runs.predict import predict
from schemas import PREDICTIONS, REJECTS
from tests.corpora import write_file
from tests.projects import LABEL, LEARN, REJECTED


@pytest.fixture
def source(project, tmp_path):
    """A copy of the file to label."""
    return shutil.copy(Path(project.corpus) / LABEL / "a.parquet", tmp_path / "in.parquet")


def run(source, project, out, **options):
    return predict(str(source), model=project.model, out=str(out), run_id="r", **options)


def test_every_document_of_a_file_is_a_row_or_a_reject(source, project, tmp_path):
    """Trying a model would need a corpus and a warehouse, or lose rows."""
    report = run(source, project, tmp_path / "new" / "out.parquet")
    assert (report.labelled, report.rejected) == (5, 5)
    rows = pq.read_table(report.path)
    PREDICTIONS.check(rows.schema, where=report.path)
    assert rows.column("doc_id").to_pylist() == ["d0", "d1", "d2", "d3", "d4"]
    assert report.rejects_path == str(tmp_path / "new" / "out.rejects.parquet")
    rejects = pq.read_table(report.rejects_path)
    REJECTS.check(rejects.schema, where=report.rejects_path)
    assert {row["doc_id"]: row["reason"] for row in rejects.to_pylist()} == REJECTED


def test_probabilities_and_passages_hold_together(source, project, tmp_path):
    """A reader would be shown a passage outside of the text, or probabilities that do not add up."""
    texts = {row["doc_id"]: row["text"] for row in pq.read_table(source).slice(0, 5).to_pylist()}
    for row in pq.read_table(run(source, project, tmp_path / "out.parquet").path).to_pylist():
        probabilities = dict(row["probabilities"])
        assert sum(probabilities.values()) == pytest.approx(1)
        assert row["probability"] == probabilities[row["candidate_label"]] == max(probabilities.values())
        assert 0 <= row["passage_start"] < row["passage_end"] <= len(texts[row["doc_id"]])
        assert row["tokens_seen"] == row["tokens_total"] > 0


def test_rejects_of_an_earlier_run_do_not_stay(source, project, tmp_path):
    """Rejects of another file would lie beside the rows of this one."""
    out = tmp_path / "out.parquet"
    assert Path(run(source, project, out).rejects_path).exists()
    write_file(tmp_path / "good.parquet", doc_id=["x"], text=["match goal"])
    report = run(tmp_path / "good.parquet", project, out)
    assert (report.labelled, report.rejected, report.rejects_path) == (1, 0, None)
    assert not (tmp_path / "out.rejects.parquet").exists()


def test_columns_may_have_other_names(project, tmp_path):
    """A file would have to be rewritten before a model can be tried on it."""
    write_file(tmp_path / "in.parquet", key=[7], body=["match goal"])
    report = run(tmp_path / "in.parquet", project, tmp_path / "out.parquet", columns=Columns(doc_id="key", text="body"))
    assert pq.read_table(report.path).column("doc_id").to_pylist() == ["7"]


def test_a_folder_is_labelled_partition_by_partition(project, tmp_path):
    """Rows of a folder would not say which partition they are of."""
    report = run(project.corpus, project, tmp_path / "out.parquet")
    partitions = pq.read_table(report.path).column("partition").to_pylist()
    assert partitions == [LEARN] * 40 + [LABEL] * 5


def test_vectors_are_kept_where_a_store_is_named(source, project, tmp_path):
    """Trying a second head on the same file would embed it again; or vectors would stay where nobody asked for them."""
    store = str(tmp_path / "store")
    first = run(source, project, tmp_path / "out.parquet", store=store)
    again = run(source, project, tmp_path / "out.parquet", store=store)
    assert (first.embed.embedded_unit_count, again.embed.embedded_unit_count) == (1, 0)
    shutil.rmtree(store)
    run(source, project, tmp_path / "out.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out.parquet", "out.rejects.parquet"]


def test_the_input_is_never_overwritten(source, project, tmp_path, monkeypatch):
    """Somebody's documents would be replaced by their labels."""
    before = Path(source).read_bytes()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.parquet").symlink_to(source)
    for out in ("in.parquet", str(source), "../" + tmp_path.name + "/in.parquet", "link.parquet"):
        with pytest.raises(ConfigError, match=r"--out is .*, which lies in what is read"):
            run("in.parquet", project, out)
    with pytest.raises(ConfigError, match=r"--out is .*, which lies in what is read"):
        run(shutil.copy(source, "a.rejects.parquet"), project, "a.parquet")
    with pytest.raises(ConfigError, match=r"--out is .*, which lies in what is read"):
        run(project.corpus, project, f"{project.corpus}/{LABEL}/out.parquet")
    assert Path(source).read_bytes() == before


@pytest.mark.parametrize("name", ["out.parquet", "out.rejects.parquet"])
def test_only_earlier_predictions_are_replaced(source, project, tmp_path, name):
    """A corpus of one's own would be gone, because its name was given by mistake."""
    own = shutil.copy(source, tmp_path / name)
    before = Path(own).read_bytes()
    with pytest.raises(ConfigError, match=rf"--out is .*out\.parquet', but .*{name} is there, and not of an earlier"):
        run(source, project, tmp_path / "out.parquet")
    assert Path(own).read_bytes() == before
    Path(own).unlink()
    for _ in range(2):
        assert run(source, project, tmp_path / "out.parquet").labelled == 5


@pytest.mark.parametrize("out", ["out.csv", "out", "s3://bucket/out.parquet"])
def test_an_output_of_another_kind_is_refused(source, project, out):
    """Parquet would be written into a file called .csv."""
    with pytest.raises(ConfigError, match=f"--out is '{out}'. Give a local file name that ends in .parquet"):
        run(source, project, out)


def test_what_cannot_be_written_is_known_before_anything_is_embedded(source, project, tmp_path):
    """An hour of embedding would end in an error about a folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*file/out\.parquet"):
        run(source, project, tmp_path / "file" / "out.parquet", store=str(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_a_missing_head_or_file_is_named(source, project, tmp_path):
    """A mistyped path would be a traceback."""
    with pytest.raises(ModelError, match=r"there is no trained head at .*nowhere"):
        predict(str(source), model=str(tmp_path / "nowhere"), out=str(tmp_path / "out.parquet"), run_id="r")
    with pytest.raises(CorpusError, match=r"corpus .*nowhere does not exist"):
        run(tmp_path / "nowhere", project, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_an_encoder_that_moved_is_named(source, project, tmp_path):
    """A head that was copied to another machine would fail without saying what it lacks."""
    from robert_pipeline.storage.heads import load_head, save_head

    head = load_head(project.model)
    gone = replace(head.origin, encoder=replace(head.origin.encoder, name="/gone/encoder"))
    save_head(str(tmp_path / "model"), replace(head, origin=gone))
    with pytest.raises(Exception, match="encoder /gone/encoder is not a folder"):
        predict(str(source), model=str(tmp_path / "model"), out=str(tmp_path / "out.parquet"), run_id="r")
