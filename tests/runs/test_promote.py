"""The gate: which head labels, since when, and who let it."""

import shutil
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from robert_pipeline.config import Gate
from robert_pipeline.errors import GateError, ModelError, RobertError
from robert_pipeline.runs.explain import explain
from robert_pipeline.runs.label import label
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.promote import promote, rollback
from robert_pipeline.runs.promotions import promotions
from robert_pipeline.runs.query import query
from robert_pipeline.runs.score import score
from robert_pipeline.runs.thresholds import set_thresholds
from robert_pipeline.storage.heads import load_head, load_learned_keys, save_head
from robert_pipeline.storage.registry import current_head
from robert_pipeline.storage.warehouse import Commit
from tests.heads import trained
from tests.projects import LEARN, elsewhere

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
LIMITS = Gate(min_documents=10)
ANYTHING = Gate(max_flip_share=1, max_distribution_change=1, max_accuracy_drop=1, min_documents=0)


@pytest.fixture
def settings(project, tmp_path):
    """The project with a warehouse, a registry and a model of its own."""
    model = str(tmp_path / "model")
    save_head(model, load_head(project.model), learned_keys=load_learned_keys(project.model))
    return replace(
        elsewhere(project, tmp_path), store=project.store, model=model, registry=str(tmp_path / "models"), gate=LIMITS
    )


@pytest.fixture
def better(settings, tmp_path):
    """A head that gives nearly the same labels."""
    return varied(settings, tmp_path / "better", 0.501)


@pytest.fixture
def worse(settings, tmp_path):
    """A head that gives labels at random."""
    known = load_head(settings.model)
    save_head(str(tmp_path / "worse"), trained(known.labels, origin=known.origin, dimension=known.dimension, seed=3))
    return str(tmp_path / "worse")


def varied(settings, folder, threshold):
    """The same head with another threshold."""
    save_head(str(folder), load_head(settings.model), learned_keys=load_learned_keys(settings.model))
    set_thresholds(str(folder), decision={load_head(settings.model).labels[1]: threshold})
    return str(folder)


def promoted(settings, candidate=None, **options):
    given = {"partitions": [LEARN], "out": f"{settings.registry}-diff", "decided_by": "ada", "run_id": "r"}
    return promote(settings, candidate=candidate, clock=lambda: NOON, **given | options)


def fingerprint(folder):
    return load_head(folder).fingerprint


def heads(settings):
    return [(entry.action, entry.head_fingerprint) for entry in promotions(settings.warehouse)[0]]


def test_a_first_head_is_promoted_without_a_comparison(settings):
    """Nobody could begin to use the gate."""
    report = promoted(settings)
    assert report.diff is None
    assert (report.entry.number, report.entry.previous_head_fingerprint) == (1, None)
    assert current_head(settings).promotion == report.entry
    with pytest.raises(GateError, match="is the current one already"):
        promoted(settings)


def test_the_head_that_labels_is_compared_even_if_it_was_never_promoted(settings, worse):
    """The first promotion could change every label of the table."""
    with pytest.raises(GateError, match="is not promoted"):
        promoted(settings, worse)
    assert heads(settings) == []


def test_within_the_limits_a_head_becomes_the_current_one_and_the_ledger_says_how(settings, better):
    """Nobody could tell later who changed the labels, when, and on what evidence."""
    promoted(settings)
    entry = promoted(settings, better, reason="it is better").entry
    (_, last), current = promotions(settings.warehouse)
    assert last == entry == current
    assert (entry.number, entry.action, entry.decided_by, entry.decided_at) == (2, "promote", "ada", NOON)
    assert (entry.head_fingerprint, entry.previous_head_fingerprint) == (
        fingerprint(better),
        fingerprint(settings.model),
    )
    assert (entry.documents, entry.compared_partitions, entry.reason) == (40, (LEARN,), "it is better")
    assert dict(entry.limits) == {
        "min_documents": 10,
        "max_flip_share": 0.05,
        "max_distribution_change": 0.05,
        "max_accuracy_drop": 0.0,
    }
    assert dict(entry.measured)["max_flip_share"] == entry.flips / 40
    assert query(settings.warehouse, "SELECT count(*) AS n FROM promotions").to_pylist() == [{"n": 2}]


def test_beyond_a_limit_nothing_changes_and_every_limit_is_named(settings, worse):
    """A worse head would label tonight, or nobody would know why it may not."""
    promoted(settings)
    before = heads(settings)
    with pytest.raises(GateError) as caught:
        promoted(replace(settings, gate=Gate(min_documents=1000)), worse)
    for words in ("at least 1,000 wanted", "documents that get another label: ", "distribution", "[gate]"):
        assert words in str(caught.value)
    assert heads(settings) == before
    assert [path.name for path in Path(settings.registry).iterdir()] == [fingerprint(settings.model)]
    assert Path(f"{settings.registry}-diff", "diff.html").exists()


def test_a_loss_of_accuracy_closes_the_gate_where_the_truth_is_known(settings, worse, tmp_path):
    """A head that errs more would pass because it changes little enough."""
    fresh = str(tmp_path / "fresh")
    save_head(fresh, load_head(settings.model))
    settings = replace(settings, model=fresh)
    promoted(settings)
    lenient = replace(ANYTHING, max_accuracy_drop=0.01)
    with pytest.raises(GateError, match=r"loss of accuracy: \d\d\.\d+%, at most 1\.00% allowed"):
        promoted(replace(settings, gate=lenient), worse)
    assert promoted(replace(settings, gate=ANYTHING), worse).entry.number == 2


def test_the_promoted_head_labels_whatever_training_leaves(settings, better):
    """A table would change under its readers because somebody trained a new head."""
    promoted(settings)
    first = fingerprint(settings.model)
    save_head(settings.model, load_head(better))
    assert labelled(settings) == first
    assert labelled(replace(settings, labelled_by="model")) == fingerprint(better)
    promoted(settings)
    assert labelled(settings) == fingerprint(better)


def labelled(settings):
    """Fingerprint of the head that made the published rows, once the day has been labelled."""
    label(settings, plan(settings, partitions=[LEARN], run_id="l"))
    (row,) = query(settings.warehouse, "SELECT DISTINCT head_fingerprint AS head FROM predictions").to_pylist()
    return row["head"]


def test_going_back_restores_the_head_before_and_its_labels_without_scoring(settings, better):
    """A bad head would label until somebody has trained a good one."""
    with pytest.raises(GateError, match="no head was promoted yet"):
        back(settings)
    promoted(settings)
    with pytest.raises(GateError, match="is the first one"):
        back(settings)
    assert labelled(settings) == fingerprint(settings.model)
    promoted(settings, better)
    assert labelled(settings) == fingerprint(better)
    entry = back(settings).entry
    assert (entry.number, entry.action, entry.head_fingerprint) == (3, "rollback", fingerprint(settings.model))
    planned = plan(settings, partitions=[LEARN], run_id="l")
    assert score(planned, model=current_head(settings).model).scored_shard_count == 0
    report = label(settings, planned)
    assert [partition.commit for partition in report.publish.partitions] == [Commit.COMMITTED]
    (told,) = explain(settings.warehouse, "sport-1").explanations
    assert [(entry.number, entry.action) for entry in told.promotions] == [(1, "promote"), (3, "rollback")]


def back(settings):
    return rollback(settings, decided_by="bob", run_id="r")


def test_a_head_that_was_rolled_back_can_come_again_and_each_step_back_goes_further(settings, better, tmp_path):
    """After two bad promotions the way back would end at the first of them."""
    third = varied(settings, tmp_path / "third", 0.502)
    a, b, c = map(fingerprint, (settings.model, better, third))
    for candidate in (None, better, third):
        promoted(settings, candidate)
    assert [back(settings).entry.head_fingerprint for _ in range(2)] == [b, a]
    promoted(settings, third)
    assert back(settings).entry.head_fingerprint == a
    assert heads(settings)[3:] == [("rollback", b), ("rollback", a), ("promote", c), ("rollback", a)]


def test_of_two_who_promote_at_the_same_moment_one_is_told(settings, better, tmp_path):
    """A head would be the current one that was never compared with the one before it."""
    promoted(settings)
    third = varied(settings, tmp_path / "third", 0.502)
    outcome = at_once(
        lambda meet: promoted(settings, better, on_documents=meet),
        lambda meet: promoted(settings, third, on_documents=meet),
    )
    (refusal,) = [each for each in outcome if isinstance(each, RobertError)]
    assert isinstance(refusal, GateError)
    assert "at the same moment (entry 000002)" in str(refusal)
    (winner,) = [each for each in outcome if not isinstance(each, RobertError)]
    assert heads(settings) == [("promote", fingerprint(settings.model)), ("promote", winner.entry.head_fingerprint)]


def test_a_promotion_that_was_compared_with_a_head_since_rolled_back_is_refused(settings, better, tmp_path):
    """The comparison that let a head pass would be one with a head that labels no more."""
    promoted(settings)
    promoted(settings, better)
    third = varied(settings, tmp_path / "third", 0.502)
    with pytest.raises(GateError, match="at the same moment"):
        promoted(settings, third, on_documents=lambda _: back(settings))
    assert heads(settings)[-1] == ("rollback", fingerprint(settings.model))


def at_once(*calls):
    """What each call gives or raises; each goes on from `meet` when all have come there."""
    barrier, outcomes = threading.Barrier(len(calls), timeout=60), []

    def run(call):
        try:
            outcomes.append(call(lambda _: barrier.wait()))
        except RobertError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run, args=[call]) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_a_registry_that_lost_its_head_or_holds_another_is_named(settings, better):
    """A head that nobody promoted would label, or the one in `model` in silence."""
    folder = promoted(settings).folder
    save_head(folder, load_head(better))
    with pytest.raises(ModelError, match=f"holds head {fingerprint(better)}"):
        current_head(settings)
    elsewhere_registry = replace(settings, registry=f"{settings.registry}-moved")
    with pytest.raises(ModelError, match=r"is not at .*-moved"):
        current_head(elsewhere_registry)
    assert current_head(replace(settings, labelled_by="model")).model == settings.model


def test_an_encoder_in_the_folder_of_the_head_goes_with_it(settings, project, tmp_path):
    """The next training would write another encoder in the place of the one that the promoted head reads."""
    folder = tmp_path / "whole"
    shutil.copytree(project.encoder.name, folder / "encoder")
    known = load_head(settings.model)
    origin = replace(known.origin, encoder=replace(known.origin.encoder, name=str(folder / "encoder")))
    save_head(str(folder), replace(known, origin=origin))
    settings = replace(settings, model=str(folder))
    registered = promoted(settings).folder
    shutil.rmtree(folder)
    moved = load_head(registered).origin.encoder
    assert moved.name == f"{registered}/encoder"
    assert labelled(replace(settings, encoder=moved)) == known.fingerprint


def test_an_encoder_beside_its_head_needs_a_registry_on_a_disk(project, settings, tmp_path, s3_server, monkeypatch):
    """A fitted model would be promoted, and every run from then on look for its encoder on the hub."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3_server}")
    folder = tmp_path / "whole"
    shutil.copytree(project.encoder.name, folder / "encoder")
    known = load_head(settings.model)
    origin = replace(known.origin, encoder=replace(known.origin.encoder, name=str(folder / "encoder")))
    save_head(str(folder), replace(known, origin=origin))
    settings = replace(settings, model=str(folder), registry="s3://bucket/registry")
    with pytest.raises(ModelError, match="lies in its folder and is loaded from a disk"):
        promoted(settings, out=str(tmp_path / "diff"))
    assert promotions(settings.warehouse) == ([], None)


def test_the_registry_keeps_what_the_head_has_learned_from(settings):
    """A promoted head would be judged on the documents that it was trained on."""
    folder = promoted(settings).folder
    assert load_learned_keys(folder).tolist() == load_learned_keys(settings.model).tolist()
