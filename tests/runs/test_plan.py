"""Planning: what there is to embed, and what stops a run before it."""

from dataclasses import replace

import pytest

from robert_pipeline.config import Chunking, EncoderSource
from robert_pipeline.errors import CorpusError, EncoderError, StoreError
from robert_pipeline.runs.plan import corpus_documents, list_partitions, plan
from tests.corpora import write_texts
from tests.projects import DOCUMENTS_TO_LABEL, LABEL, LEARN, elsewhere


def test_a_plan_covers_every_row_of_the_partitions_named_or_all(project):
    """Documents of a partition would be left out, or another partition would be embedded too."""
    assert list_partitions(project) == [LEARN, LABEL]
    every = plan(project, run_id="r")
    assert [partition.partition for partition in every.partitions] == [LEARN, LABEL]
    assert every.document_count == 40 + DOCUMENTS_TO_LABEL == corpus_documents(project.corpus, project.columns)
    (one,) = plan(project, partitions=[LABEL], run_id="r").partitions
    assert (one.partition, one.document_count) == (LABEL, DOCUMENTS_TO_LABEL)


def test_a_partition_that_is_named_twice_is_planned_once(project):
    """Its documents would be counted twice, and two workers would write one shard."""
    planned = plan(project, partitions=[LABEL, LEARN, LABEL], run_id="r")
    assert [partition.partition for partition in planned.partitions] == [LABEL, LEARN]


def test_what_is_embedded_is_not_missing(project):
    """Vectors would be made again by every run, or never."""
    learned, other = plan(project, run_id="r").partitions
    assert learned.missing == ()
    assert len(other.missing) == len(other.units) == 1
    planned = plan(project, run_id="r")
    assert (planned.missing, planned.missing_document_count) == (list(other.units), DOCUMENTS_TO_LABEL)


def test_another_store_encoder_or_chunking_has_everything_missing(project, tmp_path, minilm_folder):
    """Vectors of another encoder would be taken for those that are wanted."""
    for settings in (
        elsewhere(project, tmp_path),
        replace(project, encoder=EncoderSource(name=str(minilm_folder))),
        replace(project, encoder=replace(project.encoder, pooling="cls")),
        replace(project, chunking=Chunking(chunk_tokens=17, overlap_tokens=4)),
        replace(project, embedding=replace(project.embedding, vector_dtype="float32")),
    ):
        learned, _ = plan(settings, run_id="r").partitions
        assert learned.missing == learned.units


def test_a_plan_is_the_same_whoever_makes_it(project):
    """A run that was killed would not find what it had done."""
    one, other = (plan(project, run_id=run_id) for run_id in ("one", "two"))
    assert one.partitions == other.partitions


def test_units_are_cut_by_bytes(project):
    """A crash would cost more than `unit_bytes` says, and two workers could not share a partition."""
    small = replace(project, embedding=replace(project.embedding, unit_bytes=2_000))
    (partition,) = plan(small, partitions=[LEARN], run_id="r").partitions
    assert len(partition.units) > 3
    assert sum(unit.document_count for unit in partition.units) == 40


def test_one_large_document_takes_no_neighbour_with_it(project, tmp_path):
    """Its unit would be the heaviest twice over, and named by rows that have nothing to do with it."""
    texts = ["goal " * 20] * 30 + ["bank " * 1_000] + ["team " * 20] * 10
    write_texts(tmp_path / "corpus" / "a.parquet", texts)
    settings = replace(project, corpus=str(tmp_path / "corpus"), embedding=replace(project.embedding, unit_bytes=2_000))
    (partition,) = plan(settings, run_id="r").partitions
    assert [unit.document_count for unit in partition.units if unit.ranges[0].first_row == 30] == [1]
    assert max(unit.text_bytes for unit in partition.units) == 5_000
    assert sorted(unit.text_bytes for unit in partition.units)[-2] <= 2_000
    assert sum(unit.document_count for unit in partition.units) == len(texts)


def test_what_is_not_wholly_embedded_is_refused_by_name(project):
    """A head would be trained, or a partition published, with half of its documents."""
    planned = plan(project, run_id="r")
    with pytest.raises(StoreError, match=f"partition '{LABEL}' is not wholly embedded: 1 of 1 units are missing"):
        planned.require_embedded()
    planned.embedded().require_embedded()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"corpus": "/nowhere"}, CorpusError),
        ({"encoder": EncoderSource(name="/nowhere")}, EncoderError),
    ],
    ids=["corpus", "encoder"],
)
def test_what_stops_a_run_stops_its_plan(project, tmp_path, change, error):
    """A run would embed for hours before it fails."""
    with pytest.raises(error):
        plan(replace(elsewhere(project, tmp_path), **change), run_id="r")
    with pytest.raises(CorpusError, match="has no partition 'day=9'"):
        plan(elsewhere(project, tmp_path), partitions=["day=9"], run_id="r")
    assert not (tmp_path / "store").exists()
