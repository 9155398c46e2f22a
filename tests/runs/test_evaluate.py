"""Evaluation: every model on the same documents, none of which it has learned from; written as JSON and as a page."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robert_pipeline.config import TrainingConfig
from robert_pipeline.core.compare import NAMES
from robert_pipeline.core.evaluation import from_json
from robert_pipeline.errors import ConfigError, TrainingError
from robert_pipeline.runs.embed import embed
from robert_pipeline.runs.evaluate import Comparison, evaluate, evaluate_head
from robert_pipeline.runs.plan import plan
from robert_pipeline.storage.heads import load_head, save_head
from tests.corpora import write_file
from tests.projects import LEARN, WORDS, texts

JUDGE = "day=2026-01-03"


@pytest.fixture(scope="module")
def settings(project, tmp_path_factory):
    """Two labelled days, embedded; one text of the first is in the second as well."""
    folder = tmp_path_factory.mktemp("evaluate")
    for day, count in ((LEARN, 20), (JUDGE, 12)):
        words = [text for label in WORDS for text in texts(label, count, day)]
        if day == JUDGE:
            words[0] = texts("sport", 1, LEARN)[0]
        write_file(
            folder / "corpus" / day / "a.parquet",
            doc_id=[f"{day}-{n}" for n in range(len(words))],
            text=words,
            label=[label for label in WORDS for _ in range(count)],
        )
    settings = replace(
        project,
        corpus=str(folder / "corpus"),
        store=str(folder / "store"),
        training=TrainingConfig(epochs=3, validation_fraction=0.2),
    )
    embed(settings, run_id="r")
    return settings


def compared(settings, tmp_path, **comparison):
    return evaluate(settings, plan(settings, run_id="r"), Comparison(**comparison), out=str(tmp_path / "out"))


def test_all_models_are_compared_over_seeds_and_written(settings, tmp_path):
    """RoBERT would be shown without the simple models that often match it, or the luck of one seed taken for skill."""
    report = compared(settings, tmp_path, seeds=2)
    found = report.evaluation
    assert [model.name for model in found.models] == list(NAMES.values())
    assert [len(model.runs) for model in found.models] == [2, 2, 2, 2, 1]
    assert found.learned_documents + found.held_out_documents + found.test_documents == 64
    assert from_json(Path(report.json_path).read_text()) == found
    assert "TF-IDF" in Path(report.page_path).read_text()


def test_a_text_of_both_partitions_is_only_judged_by(settings, tmp_path):
    """A head would be praised for documents that it has learned by heart."""
    found = compared(settings, tmp_path, learn_from=(LEARN,), judge_on=(JUDGE,), seeds=1, against=("mean",)).evaluation
    assert (found.test_documents, found.learned_documents + found.held_out_documents) == (24, 39)
    assert [model.name for model in found.models] == ["RoBERT", "mean of chunks"]


def test_evaluating_keeps_no_head(settings, tmp_path):
    """A look at what a head is worth would replace the one that labels."""
    before = load_head(settings.model).fingerprint
    compared(settings, tmp_path, seeds=1, against=("first-chunk",))
    assert load_head(settings.model).fingerprint == before


@pytest.mark.parametrize(
    ("comparison", "named"),
    [
        ({"test_fraction": 1.0}, "test fraction is 1.0"),
        ({"seeds": 0}, "number of seeds is 0"),
        ({"learn_from": ("a",)}, "no partition to judge on"),
        ({"learn_from": ("a",), "judge_on": ("a", "b")}, "'a' is to be learned from and judged on"),
        ({"against": ("bert",)}, "no model 'bert'"),
    ],
)
def test_an_impossible_comparison_is_named(comparison, named):
    """An evaluation would run for minutes and then fail, or judge a head on what it knows."""
    with pytest.raises(ConfigError, match=named):
        Comparison(**comparison)


def test_a_label_unseen_in_training_is_named(settings, tmp_path):
    """Documents of a label that no head has seen would count as errors of all of them."""
    place = tmp_path / "corpus" / "day=1" / "a.parquet"
    words = texts("sport", 20, "unseen")
    write_file(
        place, doc_id=[str(n) for n in range(20)], text=words, label=["sport"] * 8 + ["business"] * 8 + ["art"] * 4
    )
    write_file(
        tmp_path / "corpus" / "day=2" / "a.parquet",
        doc_id=["x", "y"],
        text=texts("sport", 2, "other"),
        label=["politics", "sport"],
    )
    settings = replace(settings, corpus=str(tmp_path / "corpus"), store=str(tmp_path / "store"))
    embed(settings, run_id="r")
    with pytest.raises(TrainingError, match="label 'politics' has no document to learn from"):
        compared(settings, tmp_path, learn_from=("day=1",), judge_on=("day=2",))


def test_a_head_is_judged_as_it_is(settings, tmp_path):
    """A head that is there could be judged only by training another one."""
    planned = plan(settings, partitions=[JUDGE], run_id="r")
    report = evaluate_head(settings, planned, out=str(tmp_path / "out"))
    (model,) = report.evaluation.models
    assert model.name == f"head {load_head(settings.model).fingerprint}"
    assert report.evaluation.all_unseen
    assert report.evaluation.learned_documents is None


def test_a_head_with_an_unknown_past_is_not_praised(settings, tmp_path):
    """An imported head would be said to be judged on documents that it has never seen."""
    model = str(tmp_path / "model")
    save_head(model, load_head(settings.model))
    planned = plan(settings, partitions=[JUDGE], run_id="r")
    report = evaluate_head(replace(settings, model=model), planned, out=str(tmp_path / "out"))
    assert not report.evaluation.all_unseen
    assert "nobody knows" in dict(report.evaluation.facts)["learned from"]


def test_documents_that_the_head_has_learned_from_are_left_out(settings, tmp_path):
    """A head would be judged on the documents that it has learned by heart."""
    keys = read_keys(settings, tmp_path)
    model = str(tmp_path / "model")
    save_head(model, load_head(settings.model), learned_keys=keys[:10])
    planned = plan(settings, partitions=[JUDGE], run_id="r")
    report = evaluate_head(replace(settings, model=model), planned, out=str(tmp_path / "out"))
    assert report.evaluation.test_documents == 14
    save_head(model, load_head(settings.model), learned_keys=keys)
    with pytest.raises(TrainingError, match="has learned from all 24 labelled documents"):
        evaluate_head(replace(settings, model=model), planned, out=str(tmp_path / "out"))


def read_keys(settings, folder):
    from robert_pipeline.runs.labelled import read_training_set

    planned = plan(settings, partitions=[JUDGE], run_id="r")
    return np.array(read_training_set(settings, planned, folder / "keys.arrow").text_key_B)
