"""Calibration and thresholds of a head that is there: on documents that it has not learned from, and saved."""

from dataclasses import replace

import pytest

from robert_pipeline.config import TrainingConfig
from robert_pipeline.errors import ConfigError, TrainingError
from robert_pipeline.runs.calibrate import calibrate
from robert_pipeline.runs.embed import embed
from robert_pipeline.runs.evaluate import evaluate_head
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.thresholds import set_thresholds
from robert_pipeline.storage.heads import load_head, load_learned_keys, save_head
from tests.corpora import write_file
from tests.projects import LEARN, WORDS, texts

FRESH = "day=2026-01-03"


@pytest.fixture(scope="module")
def fresh(project, tmp_path_factory):
    """The project with a day of thirty labelled documents that its head has not learned from, all embedded."""
    folder = tmp_path_factory.mktemp("fresh")
    ids, words, labels = [], [], []
    for label in WORDS:
        words += texts(label, 15, "fresh")
        labels += [label] * 15
    ids = [f"f{n}" for n in range(len(words))]
    write_file(folder / "corpus" / FRESH / "a.parquet", doc_id=ids, text=words, label=labels)
    for number, label in enumerate(WORDS):  # the day that it learned from, again
        again = texts(label, 20, "learn")
        write_file(
            folder / "corpus" / LEARN / f"{number}.parquet",
            doc_id=[f"{label}-{n}" for n in range(20)],
            text=again,
            label=[label] * 20,
        )
    settings = replace(project, corpus=str(folder / "corpus"), store=str(folder / "store"))
    embed(settings, run_id="r")
    return settings


@pytest.fixture
def settings(fresh, tmp_path):
    """The same with a head of its own."""
    save_head(str(tmp_path / "model"), load_head(fresh.model), learned_keys=load_learned_keys(fresh.model))
    return replace(fresh, model=str(tmp_path / "model"))


def planned(settings, *partitions):
    return plan(settings, partitions=partitions, run_id="r")


def test_a_head_is_calibrated_on_what_it_has_not_learned_from(settings):
    """Probabilities fitted to documents that the head knows by heart are too high for all others."""
    before = load_head(settings.model)
    settings = replace(settings, training=TrainingConfig(target_precision=0.9))
    report = calibrate(settings, planned(settings))
    assert (report.documents, report.learned_documents) == (30, 40)
    after = load_head(settings.model)
    assert after.fingerprint == report.head.fingerprint != before.fingerprint
    assert (after.calibration.method, after.calibration.documents) == ("platt", 30)
    assert after.weights_sha256 == before.weights_sha256
    assert len(load_learned_keys(settings.model)) == 70


def test_what_it_was_calibrated_on_is_not_fresh_any_more(settings):
    """A head would be judged on the documents that its probabilities were fitted to."""
    calibrate(settings, planned(settings, FRESH))
    with pytest.raises(TrainingError, match="of 30 labelled documents the head was trained or calibrated on all but 0"):
        calibrate(settings, planned(settings, FRESH))
    with pytest.raises(TrainingError, match="has learned from all 30"):
        evaluate_head(settings, planned(settings, FRESH), out=f"{settings.model}-evaluation")


def test_what_nobody_knows_is_not_known_after_calibrating(settings):
    """A head from elsewhere would be said not to have learned from the documents that it knows by heart."""
    save_head(settings.model, load_head(settings.model))
    assert calibrate(settings, planned(settings, FRESH)).documents == 30
    assert load_learned_keys(settings.model) is None
    found = evaluate_head(settings, planned(settings, LEARN), out=f"{settings.model}-evaluation").evaluation
    assert (found.test_documents, found.all_unseen) == (40, False)


def test_a_label_that_the_head_does_not_know_is_named(settings):
    """A document's true label would be taken for another one."""
    other = load_head(settings.model)
    save_head(settings.model, replace(other, labels=("business", "politics")))
    with pytest.raises(TrainingError, match="label 'sport' of 35 documents is none of the head's labels"):
        calibrate(settings, planned(settings))


def test_thresholds_are_changed_and_saved(settings):
    """A threshold that was set would not decide, or the head forget what it has learned from."""
    report = set_thresholds(settings.model, decision={"sport": 0.7}, review={"business": 0.9})
    found = load_head(settings.model)
    assert found.fingerprint == report.head.fingerprint != report.before.fingerprint
    assert found.thresholds.decision == pytest.approx((0.3, 0.7))
    assert found.thresholds.review == (0.9, 0.0)
    assert len(load_learned_keys(settings.model)) == 40
    assert set_thresholds(settings.model).head.fingerprint == found.fingerprint


def test_an_impossible_threshold_leaves_the_head_as_it_was(settings):
    """A mistyped threshold would be half set."""
    before = load_head(settings.model).fingerprint
    for wrong in ({"sport": 70}, {"spot": 0.7}, {"sport": float("nan")}):
        with pytest.raises(ConfigError):
            set_thresholds(settings.model, review={"business": 0.5} | wrong)
    assert load_head(settings.model).fingerprint == before
