"""Points out of the process, by OTLP over HTTP, where OpenTelemetry's environment variables name an endpoint.

Imports OpenTelemetry only then. Takes a few seconds at most, and whatever goes wrong is one line of the log.
"""

import functools
import importlib.util
import logging
import os
import threading
from collections.abc import Sequence

from robert_pipeline import __version__
from robert_pipeline.errors import ConfigError, first_line
from robert_pipeline.telemetry.instruments import Point

PUSH_SECONDS = 5.0
"""A run waits no longer for its points to be taken."""

SERVICE = "robert"
PROTOCOL = "http/protobuf"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTER = "opentelemetry.exporter.otlp.proto.http.metric_exporter"

log = logging.getLogger(__name__)


def is_on() -> bool:
    """Whether the environment asks for metrics."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = os.environ.get("OTEL_METRICS_EXPORTER") or "otlp"
    return "otlp" in (name.strip() for name in exporters.split(",")) and _first(_ENDPOINTS) is not None


def check() -> None:
    """Raise ConfigError where metrics are asked for that cannot be sent from here, whatever the other end is."""
    chosen = _first(_PROTOCOLS)
    if chosen is not None and chosen[1] != PROTOCOL:
        raise ConfigError(
            f"{chosen[0]} is '{chosen[1]}', metrics are sent by {PROTOCOL}",
            fix=f"Set {_PROTOCOLS[0]}={PROTOCOL} and {_ENDPOINTS[0]}, or OTEL_METRICS_EXPORTER=none",
        )
    endpoint = _first(_ENDPOINTS)
    if endpoint is not None and not _is_installed(_EXPORTER):
        raise ConfigError(
            f"{endpoint[0]} asks for metrics, which needs OpenTelemetry's exporter, which is not installed",
            fix="Install it with: pip install 'robert-pipeline[metrics]', or unset the variable",
        )


def push(points: Sequence[Point]) -> None:
    """Send the points, all with the time of now, waiting at most PUSH_SECONDS. Raises nothing."""
    reasons: list[str] = []

    def send() -> None:
        _complaints().of_thread[threading.get_ident()] = reasons
        try:
            if _send(points):
                reasons.clear()
            elif not reasons:
                reasons.append("refused")
        except Exception as error:  # metrics are no reason to fail
            reasons.append(first_line(error))
        finally:
            del _complaints().of_thread[threading.get_ident()]

    sender = threading.Thread(target=send, name="metrics", daemon=True)
    sender.start()
    sender.join(PUSH_SECONDS)
    if sender.is_alive() and not reasons:
        reasons.append(f"not taken within {PUSH_SECONDS:g} s")
    if reasons:
        endpoint = _first(_ENDPOINTS) or ("the endpoint", "")
        log.warning("metrics of this run were not sent: %s (see %s)", reasons[0], endpoint[0])


class _Complaints(logging.Handler):
    """What the exporter logs while a thread sends: the first of it is why, in one line of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.of_thread: dict[int, list[str]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the innermost error, where it names one, else the message."""
        errors = [argument for argument in record.args or () if isinstance(argument, Exception)]
        reason = first_line(_innermost(errors[0])) if errors else record.getMessage()
        self.of_thread.get(record.thread or 0, []).append(reason)


@functools.cache
def _complaints() -> _Complaints:
    handler, exporters = _Complaints(), logging.getLogger(_EXPORTER)
    exporters.addHandler(handler)
    exporters.propagate = False
    return handler


def _innermost(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def _send(points: Sequence[Point]) -> bool:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExportResult
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource

    # Not Resource.create: it names every process, and a name a process is a label on every series.
    ours = Resource({SERVICE_NAME: SERVICE, SERVICE_VERSION: __version__})
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
    meter = provider.get_meter("robert_pipeline", __version__)
    gauges = {
        instrument.name: meter.create_gauge(instrument.name, instrument.unit, instrument.description)
        for instrument in {point.instrument for point in points}
    }
    for point in points:
        gauges[point.instrument.name].set(point.value, dict(point.attributes))
    data = reader.get_metrics_data()
    exporter = OTLPMetricExporter()
    try:
        return data is None or exporter.export(data) is MetricExportResult.SUCCESS
    finally:
        exporter.shutdown()
        provider.shutdown()


def _first(names: Sequence[str]) -> tuple[str, str] | None:
    """The first of these variables that is set, and its value."""
    return next(((name, value) for name in names if (value := os.environ.get(name, "").strip())), None)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a package that it lies in
        return False
