"""The dashboard, the alerts and the documentation: all of them speak of figures that runs send, by their names."""

import json
import re
from pathlib import Path

import promql_parser as promql
import pytest
import yaml

import robert_pipeline.runs
from robert_pipeline.telemetry import instruments
from robert_pipeline.telemetry.instruments import INSTRUMENTS

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
DASHBOARD = json.loads((INFRA / "grafana" / "robert.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((INFRA / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
COMPOSE = yaml.safe_load((INFRA / "compose.yaml").read_text())["services"]
GRID_COLUMNS = 24
OPTIONS = {"stat": "reduceOptions", "timeseries": "legend", "table": "showHeader"}
"""Kinds of panels, and an option without which Grafana shows another thing than was meant."""
BUILT_IN = {"__interval": "1h", "__range": "30d"}
JOB = "job"
"""The label that Prometheus makes of service.name."""


def prometheus_name(instrument):
    """What Prometheus calls a gauge that comes by OTLP: dots are underscores, units are spelt out at the end."""
    return instrument.name.replace(".", "_") + {"s": "_seconds", "1": "_ratio"}.get(instrument.unit, "")


LABELS = {prometheus_name(instrument): {JOB, *instrument.attributes} for instrument in INSTRUMENTS}


def expressions():
    """Every query of the dashboard and of the alerts, with what Grafana puts in for its variables."""
    found = [(rule["alert"], rule["expr"]) for rule in RULES]
    for panel in DASHBOARD["panels"]:
        found += [(f"{panel['title']} {target['refId']}", filled(target["expr"])) for target in panel["targets"]]
    for variable in queried():
        (selector,) = re.findall(r"label_values\((.+), \w+\)", variable["definition"])
        found.append((variable["name"], filled(selector)))
    return found


def queried():
    return [variable for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"]


def filled(text):
    values = {**BUILT_IN, **{variable["name"]: "x" for variable in DASHBOARD["templating"]["list"]}}
    return re.sub(r"\$(\w+)", lambda match: values[match[1]], text)


def used(expression):
    """(metric, labels it is selected by), and the labels that results are grouped by."""
    selected, grouped = [], set()

    def visit(node):
        if isinstance(node, promql.VectorSelector):
            selected.append((node.name, {matcher.name for matcher in node.matchers.matchers}))
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            grouped.update(node.modifier.labels)
        if isinstance(node, promql.MatrixSelector):
            visit(node.vector_selector)

    promql.walk(promql.parse(expression), visit)
    return selected, grouped


@pytest.mark.parametrize(("name", "expression"), expressions(), ids=[name for name, _ in expressions()])
def test_an_expression_asks_for_what_runs_send(name, expression):
    """A panel would stay empty, or an alert silent for ever, over a name that nothing has."""
    selected, grouped = used(expression)
    assert selected
    for metric, labels in selected:
        assert labels <= LABELS[metric]
        assert grouped <= LABELS[metric]


@pytest.mark.parametrize(("name", "expression"), expressions(), ids=[name for name, _ in expressions()])
def test_an_expression_looks_over_a_range(name, expression):
    """Five minutes after a run everything would be empty: its points are the only ones, and nothing scrapes them."""
    metrics = "|".join(sorted(LABELS, key=len, reverse=True))
    if name not in {variable["name"] for variable in queried()}:
        assert len(re.findall(rf"\b({metrics})\b", expression)) == len(re.findall(r"\[\w+\]", expression))


def test_every_figure_is_sent_and_shown():
    """A figure would be declared that no run sends, or sent for nobody to see."""
    source = "".join(path.read_text() for path in Path(robert_pipeline.runs.__file__).parents[1].rglob("*.py"))
    shown = {metric for _, expression in expressions() for metric, _ in used(expression)[0]}
    for name, value in vars(instruments).items():
        if isinstance(value, instruments.Instrument):
            assert f"{name}.point(" in source
            assert prometheus_name(value) in shown
            assert value in INSTRUMENTS


def test_the_dashboard_has_the_form_that_grafana_wants():
    """Grafana would refuse to provision it, or draw panels over one another."""
    assert DASHBOARD["schemaVersion"] >= 39
    assert DASHBOARD.get("id") is None
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", DASHBOARD["uid"])
    assert DASHBOARD["title"]
    taken, ids = set(), set()
    for panel in DASHBOARD["panels"]:
        ids.add(panel["id"])
        assert OPTIONS[panel["type"]] in panel["options"]
        assert panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert {"defaults", "overrides"} == set(panel["fieldConfig"])
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0
        assert all(target["instant"] != target["range"] for target in panel["targets"])
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < GRID_COLUMNS
        assert not cells & taken
        taken |= cells
    assert len(ids) == len(DASHBOARD["panels"])


def test_the_alert_for_silence_looks_back_as_far_as_anything_is_kept():
    """The longest outage would look mended once its last publication is out of sight."""
    (rule,) = (rule for rule in RULES if rule["alert"] == "RobertPublishLate")
    (kept,) = re.findall(r"retention\.time=(\w+)", (INFRA / "compose.yaml").read_text())
    assert f"[{kept}]" in rule["expr"]


def test_an_alert_says_whose_it_is_and_how_bad():
    """Somebody who is woken would not know by what."""
    assert RULES
    for rule in RULES:
        assert set(rule) == {"alert", "expr", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"warning", "critical"}
        asked = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert JOB in asked <= used(rule["expr"])[1]


def test_the_services_fit_together():
    """Runs would push to a closed door, or Grafana show nothing."""
    worker, prometheus, grafana = (COMPOSE[name] for name in ("prefect-worker", "prometheus", "grafana"))
    assert worker["environment"]["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"] == (
        "http://prometheus:9090/api/v1/otlp/v1/metrics"
    )
    assert "--web.enable-otlp-receiver" in prometheus["command"]
    (source,) = yaml.safe_load((INFRA / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (provider,) = yaml.safe_load((INFRA / "grafana/provisioning/dashboards/robert.yaml").read_text())["providers"]
    assert f"./grafana/robert.json:{provider['options']['path']}/robert.json:ro" in grafana["volumes"]
    configured = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text())
    assert all((INFRA / "prometheus" / name).exists() for name in configured["rule_files"])
    for service in (prometheus, grafana):
        for host, mount in (volume.split(":")[:2] for volume in service["volumes"]):
            assert mount.startswith("/")
            assert not host.startswith("./") or (INFRA / host).exists()


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_what_others_made_is_locked_down_too(name):
    """It would run as root, of any version, open to the network, or write to its image."""
    service = COMPOSE[name]
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])
    assert service["user"].split(":")[0] not in {"0", "root"}
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_every_metric_is_documented():
    """An operator would have to read the code to know what a number means."""
    text = (ROOT / "docs" / "operations.md").read_text()
    rows = {row[0]: row for row in re.findall(r"^\| `(robert_\w+)` \| ([^|]*) \| ([^|]*) \|", text, re.M)}
    assert set(rows) == set(LABELS)
    for name, labels, _ in rows.values():
        assert set(re.findall(r"`(\w+)`", labels)) == LABELS[name] - {JOB}
    for rule in RULES:
        assert rule["alert"] in text
