"""Where metrics go, when they go nowhere, and what a run pays for either."""

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robert_pipeline.errors import ConfigError
from robert_pipeline.telemetry.export import PUSH_SECONDS, check, is_on, push
from robert_pipeline.telemetry.instruments import INSTRUMENTS, RUN_DURATION
from tests.otlp import nobody, receiving, silence

ROOT = Path(__file__).parents[2]
POINT = RUN_DURATION.point(1.5, verb="score", partition="day=2026-01-01", outcome="ok", run_id="r")


def warnings(caplog):
    ours = [record for record in caplog.records if record.name.startswith("robert_pipeline")]
    return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]


def test_a_point_arrives_as_it_was_sent(monkeypatch, caplog):
    """A collector would get another value, another path, or no credentials; or every process its own series."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "robert-news")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20t")
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        assert is_on()
        check()
        push([POINT])
    sent = receiver.only()
    assert (sent.path, sent.headers["authorization"]) == ("/v1/metrics", "Bearer t")
    assert sent.points == {"robert.run.duration": [(dict(POINT.attributes), 1.5)]}
    assert sent.resource["service.name"] == "robert-news"
    assert sent.resource["deployment.environment.name"] == "test"
    assert "service.instance.id" not in sent.resource
    assert warnings(caplog) == []


def test_the_endpoint_of_metrics_alone_is_taken_as_it_is(monkeypatch):
    """Prometheus, which receives at a path of its own, would answer 404."""
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{receiver.url}/api/v1/otlp/v1/metrics")
        push([POINT])
    assert receiver.only().path == "/api/v1/otlp/v1/metrics"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_METRICS_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"},
    ],
    ids=["nothing", "empty", "disabled", "none", "traces only"],
)
def test_metrics_are_off_unless_asked_for(monkeypatch, variables):
    """A run would call home, or against what OpenTelemetry's switches say."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert not is_on()


def test_a_protocol_that_is_not_spoken_is_named(monkeypatch):
    """A gRPC port would be spoken to in HTTP, and answer nothing that can be understood."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ConfigError, match=r"OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'.*http/protobuf"):
        check()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf")
    check()


def in_a_process(code, **environment):
    """Run Python code in a process of its own, with nothing of this one's environment about metrics."""
    everything = {**os.environ, "PYTHONPATH": ":".join([str(ROOT), os.environ.get("PYTHONPATH", "")]), **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=everything)


def test_a_missing_exporter_is_one_line_before_any_work(tmp_path):
    """A night's run would end in a traceback, after hours, or tell nobody and nobody would know."""
    code = (
        "import sys; sys.modules['opentelemetry.exporter'] = None\n"
        "from robert_pipeline.cli import main\n"
        f"sys.argv = ['robert', 'plan', '--corpus', {str(tmp_path / 'nowhere')!r}]\nmain()"
    )
    shown = in_a_process(code, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", COLUMNS="400")
    assert shown.returncode == 1
    assert shown.stderr == (
        "error: OTEL_EXPORTER_OTLP_ENDPOINT asks for metrics, which needs OpenTelemetry's exporter, which is not "
        "installed. Install it with: pip install 'robert-pipeline[metrics]', or unset the variable\n"
    )


def test_nothing_of_opentelemetry_is_imported_without_an_endpoint(project):
    """Who wants no metrics would wait for their libraries at every command."""
    code = (
        "import json, sys\n"
        "from robert_pipeline.runs.plan import plan\n"
        "from robert_pipeline.runs.embed import embed_plan\n"
        "from robert_pipeline.runs.score import score\n"
        "from robert_pipeline.storage.settings import settings_from_json\n"
        "settings = settings_from_json(json.loads(sys.stdin.read()))\n"
        "planned = plan(settings, partitions=['day=2026-01-01'], run_id='r')\n"
        "embed_plan(planned), score(planned, model=settings.model)\n"
        "print(json.dumps([m for m in sys.modules if m.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))]))"
    )
    from robert_pipeline.storage.settings import settings_to_json

    given = json.dumps(settings_to_json(project))
    shown = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, text=True, cwd=ROOT)
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout.splitlines()[-1]) == []


DEAD_ENDS = {
    "silent": f"not taken within {PUSH_SECONDS:g} s",
    "gone": "Connection refused",
    "refusing": "400",
    "no address": "No scheme supplied",
}


@pytest.mark.parametrize("kind", DEAD_ENDS)
def test_a_dead_end_costs_seconds_and_one_line(monkeypatch, caplog, kind):
    """A collector that is down would fail or hang every run of the night, or fill its log."""
    with receiving() as receiver, silence() as silent:
        receiver.answer = 400
        address = {"silent": silent, "gone": nobody(), "refusing": receiver.url, "no address": "collector"}[kind]
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        caplog.clear()
        started = time.monotonic()
        push([POINT])
        assert time.monotonic() - started < PUSH_SECONDS + 2
    (line,) = warnings(caplog)
    assert line.startswith("metrics of this run were not sent: ")
    assert line.endswith(" (see OTEL_EXPORTER_OTLP_ENDPOINT)")
    assert DEAD_ENDS[kind] in line
    assert len(line) < 200
    assert "\n" not in line


def test_the_exporter_says_nothing_beside_that_line():
    """Five lines about retries would stand in the output of every command."""
    code = (
        "from robert_pipeline.telemetry.export import push\n"
        "from robert_pipeline.telemetry.instruments import BACKFILL_PARTITIONS\n"
        "push([BACKFILL_PARTITIONS.point(1, ending='failed')])"
    )
    shown = in_a_process(code, OTEL_EXPORTER_OTLP_ENDPOINT=nobody())
    assert (shown.returncode, shown.stdout) == (0, "")
    assert shown.stderr == (
        "metrics of this run were not sent: [Errno 111] Connection refused (see OTEL_EXPORTER_OTLP_ENDPOINT)\n"
    )


def test_a_point_has_the_attributes_of_its_figure():
    """A label would be missing or new, and dashboards empty without a word."""
    with pytest.raises(ValueError, match=r"robert\.run\.duration has the attributes"):
        RUN_DURATION.point(1.0, verb="score")
    assert len({instrument.name for instrument in INSTRUMENTS}) == len(INSTRUMENTS)
