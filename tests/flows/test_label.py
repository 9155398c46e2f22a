"""The flow that a schedule runs, on a real server."""

from dataclasses import replace

import pytest

from robert_pipeline.config import TrainingConfig
from robert_pipeline.errors import ConfigError, ModelError, RobertError
from robert_pipeline.runs.query import query
from robert_pipeline.storage.heads import has_head, load_head
from robert_pipeline.storage.warehouse import Commit
from tests.projects import LABEL, LEARN, elsewhere


@pytest.fixture
def settings(project, tmp_path, prefect):
    """The project without a head, with an empty store and an empty warehouse."""
    return replace(elsewhere(project, tmp_path), model=str(tmp_path / "model"))


def test_a_flow_trains_labels_and_publishes_and_does_so_once(settings):
    """A schedule would not do what `robert train` and `robert label` do, or would do it again every night."""
    from flows.label import label_partitions

    first = label_partitions(settings, [LABEL], learn_from=[LEARN])
    assert has_head(settings.model)
    assert (first.embed.counts.documents, first.embed.embedded_unit_count) == (50, 2)
    (published,) = first.publish.partitions
    assert (published.labelled, published.rejected, published.commit) == (5, 5, Commit.COMMITTED)
    assert query(settings.warehouse, "SELECT count(*) AS n FROM predictions").to_pylist() == [{"n": 5}]

    again = label_partitions(settings, [LABEL], learn_from=[LEARN])
    assert (again.embed.embedded_unit_count, again.score.scored_shard_count) == (0, 0)
    assert again.score.head_fingerprint == first.score.head_fingerprint
    assert [partition.commit for partition in again.publish.partitions] == [Commit.ALREADY_COMMITTED]

    retrained = label_partitions(settings, [LABEL], learn_from=[LEARN], retrain=True)
    assert retrained.embed.embedded_unit_count == 0


def test_a_flow_labels_with_the_promoted_head_and_what_it_trains_is_a_candidate(settings, project, tmp_path):
    """A schedule that retrains would change every table before anybody has looked at the new head."""
    from flows.label import label_partitions
    from robert_pipeline.runs.promote import promote

    settings = replace(settings, registry=str(tmp_path / "models"), training=TrainingConfig(seed=7))
    entry = promote(settings, candidate=project.model, out=str(tmp_path / "diff"), decided_by="ada", run_id="r").entry
    report = label_partitions(settings, [LABEL], learn_from=[LEARN])
    assert report.score.head_fingerprint == entry.head_fingerprint
    assert not has_head(settings.model)  # there is a head: none has to be trained
    report = label_partitions(settings, [LABEL], learn_from=[LEARN], retrain=True)
    assert report.score.head_fingerprint == entry.head_fingerprint
    assert load_head(settings.model).fingerprint != entry.head_fingerprint
    told = label_partitions(replace(settings, labelled_by="model"), [LABEL])
    assert told.score.head_fingerprint == load_head(settings.model).fingerprint


@pytest.mark.parametrize(
    ("partitions", "options", "error", "words"),
    [
        ([], {}, ConfigError, "no partition to label"),
        ([LABEL], {"retrain": True}, ConfigError, "nothing to learn from"),
        ([LABEL], {}, ModelError, "there is no trained head"),
        (["day=9"], {"learn_from": [LEARN]}, RobertError, "has no partition 'day=9'"),
    ],
    ids=["no partition", "nothing to learn from", "no head", "unknown partition"],
)
def test_what_stops_a_flow_stops_it_at_once(settings, tmp_path, partitions, options, error, words):
    """A schedule would embed for hours before it fails, or retry for minutes what cannot get better."""
    from flows.label import label_partitions

    with pytest.raises(error, match=words):
        label_partitions(settings, partitions, **options)
    assert not (tmp_path / "store").exists()


def test_what_may_go_away_is_tried_again(settings, monkeypatch):
    """A night's labels would be missing because a disk was busy for a second."""
    from flows import label as flow

    calls = []
    genuine = flow.plan_run.plan

    def sometimes(*arguments, **options):
        calls.append(1)
        if len(calls) == 1:
            raise TimeoutError("busy")
        return genuine(*arguments, **options)

    monkeypatch.setattr(flow.plan_run, "plan", sometimes)
    for task in (flow.plan, flow.embed, flow.train, flow.score, flow.publish):
        monkeypatch.setattr(task, "retry_delay_seconds", 0)
    report = flow.label_partitions(settings, [LABEL], learn_from=[LEARN])
    assert report.publish.partitions[0].labelled == 5
    assert len(calls) > 1
