"""What runs say of themselves: once a run, with the figures that its reports have."""

import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

import robert_pipeline.runs
from robert_pipeline.cli import main
from robert_pipeline.config import Bounds
from robert_pipeline.errors import BoundsError, ClaimError, CorpusError
from robert_pipeline.runs.backfill import run_backfill
from robert_pipeline.runs.backfill_plan import Selection, plan_backfill
from robert_pipeline.runs.embed import embed
from robert_pipeline.runs.label import label
from robert_pipeline.runs.partition import run_partition
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.score import score
from robert_pipeline.runs.train import train
from robert_pipeline.storage.claims import claimed, open_claims
from robert_pipeline.telemetry.export import PUSH_SECONDS
from robert_pipeline.telemetry.instruments import GPU_BUSY, INSTRUMENTS
from robert_pipeline.telemetry.watch import Verb
from robert_pipeline.terminal import encoder_speed
from robert_pipeline.types import EncoderUse
from tests.e2e.conftest import write_settings
from tests.history import write_history
from tests.otlp import receiving, silence
from tests.projects import LABEL, LEARN, copy_of, elsewhere


@pytest.fixture
def receiver(monkeypatch):
    """A receiver that runs of this test send to."""
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        yield receiver


def outcomes(push, name="robert.run.duration"):
    return [{key: had[key] for key in had if key != "run_id"} for had in push.attributes(name)]


def test_a_night_is_told_of_once_and_whole(project, tmp_path, receiver):
    """An operator would not see what was labelled, or see it twice."""
    settings = elsewhere(project, tmp_path)
    report = run_partition(settings, LABEL, run_id="r")
    sent = receiver.only()
    assert outcomes(sent) == [{"verb": "label", "partition": LABEL, "outcome": "ok"}]
    assert {had["run_id"] for had in sent.attributes("robert.run.duration")} == {"r"}
    assert sent.value("robert.documents", stage="publish", result="labelled") == 5
    assert sent.value("robert.documents", stage="publish", result="rejected") == 5
    assert sent.value("robert.documents", stage="embed", result="encoded") == report.embed.embedded.encoded
    assert sent.value("robert.documents", stage="embed", result="reused") == report.embed.embedded.reused
    assert sent.value("robert.tokens", result="encoded") == report.embed.embedded.encoded_tokens > 0
    assert sent.value("robert.run.documents") == 10
    assert sent.value("robert.run.rejects") == 5
    assert sent.value("robert.run.tokens") == report.embed.embedded.encoded_tokens
    assert sent.value("robert.stage.duration", stage="embed") == report.embed.seconds
    assert sent.value("robert.encoder.ceiling") == pytest.approx(report.embed.encoder_use.ceiling_share)
    assert {had["stage"] for had in sent.attributes("robert.stage.duration")} == {"plan", "embed", "score", "publish"}
    assert sent.attributes("robert.publish.timestamp") == [{"partition": LABEL, "head": report.score.head_fingerprint}]
    assert abs(sent.value("robert.publish.timestamp") - time.time()) < 60


def test_only_the_series_of_a_run_carry_its_id(project, tmp_path, receiver):
    """Every run would add to all series, and the memory of Prometheus would grow with the runs."""
    run_partition(elsewhere(project, tmp_path), LABEL, run_id="r")
    declared = {instrument.name: set(instrument.attributes) for instrument in INSTRUMENTS}
    for name, points in receiver.only().points.items():
        for had, _ in points:
            assert set(had) == declared[name]
            assert ("run_id" in had) == name.startswith("robert.run.")


def test_planning_counts_with_what_is_planned_for(project, tmp_path, receiver):
    """A command would be two runs, the first of them of no use to anybody."""
    settings = copy_of(project, tmp_path)
    planned = plan(settings, partitions=[LEARN], run_id="r")
    assert receiver.pushes == []
    time.sleep(2)
    started = time.monotonic()
    score(planned, model=settings.model)
    scoring = time.monotonic() - started
    sent = receiver.only()
    assert outcomes(sent) == [{"verb": "score", "partition": LEARN, "outcome": "ok"}]
    assert {had["stage"] for had in sent.attributes("robert.stage.duration")} == {"plan", "score"}
    seconds = sent.value("robert.run.duration")
    assert sent.value("robert.stage.duration", stage="score") <= seconds < scoring + 1


def test_a_plan_that_fails_is_told_of(project, tmp_path, receiver):
    """A corpus that is away would raise no alert."""
    with pytest.raises(CorpusError):
        plan(replace(project, corpus=str(tmp_path / "nowhere")), partitions=[LABEL], run_id="r")
    assert outcomes(receiver.only()) == [{"verb": "plan", "partition": LABEL, "outcome": "failed"}]


def test_a_run_that_fails_says_so_with_what_it_did(project, tmp_path, receiver):
    """Nobody would be woken, or nobody could see at which stage."""
    settings = replace(elsewhere(project, tmp_path), bounds=Bounds(max_reject_share=0.1))
    with pytest.raises(BoundsError):
        run_partition(settings, LABEL, run_id="r")
    sent = receiver.only()
    assert outcomes(sent) == [{"verb": "label", "partition": LABEL, "outcome": "failed"}]
    ends = {had["stage"]: had["outcome"] for had in sent.attributes("robert.stage.duration")}
    assert ends == {"plan": "ok", "embed": "ok", "score": "ok", "publish": "failed"}
    assert "robert.publish.timestamp" not in sent.points


def test_a_partition_that_another_run_has_is_no_failure(project, tmp_path, receiver):
    """Two schedules that meet would raise an alert over nothing."""
    settings = elsewhere(project, tmp_path)
    with claimed(open_claims(settings), LABEL, "other"), pytest.raises(ClaimError):
        run_partition(settings, LABEL, run_id="r")
    assert outcomes(receiver.only()) == [{"verb": "label", "partition": LABEL, "outcome": "skipped"}]


def test_ctrl_c_is_no_failure(project, tmp_path, receiver):
    """Somebody who stops a run would raise an alert."""

    def stop(_epoch):
        raise KeyboardInterrupt

    settings = replace(copy_of(project, tmp_path), model=str(tmp_path / "model"))
    with pytest.raises(KeyboardInterrupt):
        train(settings, plan(settings, partitions=[LEARN], run_id="r"), on_epoch=stop)
    assert outcomes(receiver.only()) == [{"verb": "train", "partition": LEARN, "outcome": "stopped"}]


def test_several_partitions_are_counted_one_by_one(project, tmp_path, receiver):
    """Documents of one day would be counted for another, or times of many days for one."""
    settings = elsewhere(project, tmp_path)
    embed(settings, partitions=[LEARN, LABEL], run_id="r")
    sent = receiver.only()
    assert outcomes(sent) == [{"verb": "embed", "partition": "several", "outcome": "ok"}]
    assert sent.value("robert.documents", partition=LEARN, result="encoded") == 40
    assert sent.value("robert.documents", partition=LABEL, result="rejected") == 5
    assert sent.value("robert.run.documents") == 50


def test_a_gpu_is_told_of_where_one_was_watched(project, tmp_path):
    """A GPU that starves would be seen by nobody, or a machine without one be called idle."""
    report = embed(elsewhere(project, tmp_path), partitions=[LABEL], run_id="r")
    watched = replace(report, encoder_use=report.encoder_use + EncoderUse(gpu_seconds=4.0, gpu_busy_seconds=3.0))
    assert [point.value for point in report.points() if point.instrument is GPU_BUSY] == []
    assert [point.value for point in watched.points() if point.instrument is GPU_BUSY] == [0.75]
    assert "GPU busy 75%" in encoder_speed(watched)


def test_a_trained_head_tells_how_good_it_is(project, tmp_path, receiver):
    """A head that got worse overnight would be seen by nobody."""
    settings = replace(copy_of(project, tmp_path), model=str(tmp_path / "model"))
    report = train(settings, plan(settings, partitions=[LEARN], run_id="r"))
    sent = receiver.only()
    assert sent.value("robert.train.accuracy", head=report.head.fingerprint) == report.held_out_accuracy


def test_the_command_line_sends_too(project, tmp_path, receiver, monkeypatch):
    """Who runs `robert` from cron would have no metrics."""
    write_settings(elsewhere(project, tmp_path), tmp_path / "robert.toml")
    arguments = ["robert", "label", "--config", str(tmp_path / "robert.toml"), "--partition", LABEL]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert outcomes(receiver.only()) == [{"verb": "label", "partition": LABEL, "outcome": "ok"}]


def test_a_backfill_tells_of_every_partition_and_of_itself(project, tmp_path, receiver):
    """Partitions that ran in processes of their own, or died there, would be missing."""
    settings = write_history(project, tmp_path, 1)
    planned = plan_backfill(settings, Selection(), run_id="plan")
    run_backfill(planned)
    child, parent = receiver.pushes
    assert outcomes(child) == [{"verb": "label", "partition": "day=2026-02-01", "outcome": "ok"}]
    assert outcomes(parent) == [{"verb": "backfill", "partition": "", "outcome": "ok"}]
    assert parent.value("robert.backfill.partitions", ending="published") == 1
    assert parent.value("robert.backfill.partitions", ending="failed") == 0


def test_a_collector_that_hangs_delays_a_run_by_seconds_and_fails_nothing(project, tmp_path, monkeypatch, caplog):
    """A night would not be published because nobody looks at it."""
    settings = elsewhere(project, tmp_path)
    label(settings, plan(settings, partitions=[LABEL], run_id="1"))
    again = plan(settings, partitions=[LABEL], run_id="2")
    started = time.monotonic()
    label(settings, again)
    without = time.monotonic() - started
    with silence() as address:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        started = time.monotonic()
        report = label(settings, again)
        assert time.monotonic() - started < without + PUSH_SECONDS + 3
    assert report.publish.partitions[0].labelled == 5
    assert [record.getMessage() for record in caplog.records if "metrics of this run" in record.getMessage()] == [
        f"metrics of this run were not sent: not taken within {PUSH_SECONDS:g} s (see OTEL_EXPORTER_OTLP_ENDPOINT)"
    ]


def test_every_verb_is_watched():
    """A verb would run without a trace; or one that nobody has would stand in the documentation."""
    sources = [path.read_text() for path in Path(robert_pipeline.runs.__file__).parent.glob("*.py")]
    assert {verb for text in sources for verb in re.findall(r'^@observed\("(\w+)"\)$', text, re.M)} == set(
        get_args(Verb)
    )
