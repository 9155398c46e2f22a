"""Training on embedded partitions: what is learned, what is refused, and that a refusal leaves the old head."""

from dataclasses import replace

import pytest

from robert_pipeline.config import Chunking, Columns, HeadConfig, TrainingConfig
from robert_pipeline.errors import ConfigError, CorpusError, StoreError, TrainingError
from robert_pipeline.runs.embed import embed
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.train import train
from robert_pipeline.storage.heads import load_head, load_learned_keys
from tests.corpora import write_file
from tests.projects import LABEL, LEARN, texts


def trained(settings, folder, partitions=(LEARN,), **changes):
    settings = replace(settings, model=str(folder / "model"), **changes)
    return train(settings, plan(settings, partitions=partitions, run_id="t"))


def test_a_head_is_trained_saved_and_described(project, tmp_path):
    """The head that labels would not be the one that was trained, or nobody would know on what."""
    seen = []
    settings = replace(project, model=str(tmp_path / "model"))
    report = train(settings, plan(settings, partitions=[LEARN], run_id="t"), on_epoch=seen.append)
    assert report.learned_documents + report.held_out_documents == 40
    assert report.held_out_documents > 0
    assert report.epochs == tuple(seen)
    assert report.head.labels == ("business", "sport")
    found = load_head(str(tmp_path / "model"))
    assert found.fingerprint == report.head.fingerprint
    assert len(load_learned_keys(str(tmp_path / "model"))) == 40
    notes = dict(found.notes)
    assert (notes["learned_documents"], notes["seed"]) == (report.learned_documents, 0)


def test_training_again_gives_the_same_head(project, tmp_path):
    """A published label could not be traced to a head that anyone can make again."""
    assert trained(project, tmp_path / "1").head.fingerprint == trained(project, tmp_path / "2").head.fingerprint


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"head": HeadConfig(output="multiclass"), "training": TrainingConfig(positive_label="x")}, TrainingError, "x"),
        ({"columns": Columns(label="kind")}, CorpusError, "no column 'kind'"),
        ({"chunking": Chunking(chunk_tokens=17, overlap_tokens=4)}, StoreError, "not wholly embedded"),
    ],
)
def test_what_cannot_be_trained_is_named_and_the_old_head_stays(project, tmp_path, changes, error, named):
    """A mistyped option would cost the head that was there."""
    old = trained(project, tmp_path).head.fingerprint
    with pytest.raises(error, match=named):
        trained(project, tmp_path, **changes)
    assert load_head(str(tmp_path / "model")).fingerprint == old


def test_a_partition_without_labels_is_named(project, tmp_path):
    """Training on the wrong day would end in an array's error."""
    settings = replace(project, store=str(tmp_path / "store"))
    embed(settings, partitions=[LABEL], run_id="t")
    with pytest.raises((TrainingError, CorpusError), match="label"):
        trained(settings, tmp_path, [LABEL])


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (["sport"] * 10 + ["business"], "label 'business' has one document to learn from; two are needed"),
        (["sport"] * 11, "fewer than two labels"),
    ],
)
def test_too_few_documents_of_a_label_are_named(project, tmp_path, labels, named):
    """A head would be trained that has never seen one of its labels more than once."""
    place = tmp_path / "corpus" / "day=1" / "a.parquet"
    write_file(place, doc_id=[f"d{n}" for n in range(11)], text=texts("sport", 11, "few"), label=labels)
    settings = replace(project, corpus=str(tmp_path / "corpus"), store=str(tmp_path / "store"))
    embed(settings, run_id="t")
    with pytest.raises(TrainingError, match=named):
        trained(settings, tmp_path, ["day=1"])


def test_an_impossible_threshold_is_named():
    """A positive-class threshold of 70 instead of 0.7 would turn every label into the other one."""
    with pytest.raises(ConfigError, match=r"training\.positive_threshold is 70"):
        TrainingConfig(positive_threshold=70)
