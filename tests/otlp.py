"""A real receiver of OTLP over HTTP, which keeps what runs send to it; and others that are of no use."""

import gzip
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Push:
    """One request: where it went, with which headers, and the points by metric, each as its attributes and a value."""

    path: str
    headers: dict[str, str]
    resource: dict[str, str]
    points: dict[str, list[tuple[dict[str, str], float]]]

    def value(self, name, **attributes):
        """The value of the one point that has these attributes, whatever others it has."""
        (found,) = [value for had, value in self.points[name] if attributes.items() <= had.items()]
        return found

    def attributes(self, name):
        """The attributes of every point of a metric."""
        return [had for had, _ in self.points[name]]


@dataclass(kw_only=True)
class Receiver:
    """What was received, in order. `answer` is the HTTP status that the next requests get."""

    url: str = ""
    answer: int = 200
    pushes: list[Push] = field(default_factory=list)

    def only(self):
        """The one push there was."""
        (push,) = self.pushes
        return push


def _texts(attributes):
    return {each.key: each.value.string_value for each in attributes}


def _push(path, headers, body):
    request = ExportMetricsServiceRequest.FromString(body)
    (resource,) = request.resource_metrics
    points = {}
    for scope in resource.scope_metrics:
        for metric in scope.metrics:
            assert metric.WhichOneof("data") == "gauge", metric.name
            points[metric.name] = [(_texts(p.attributes), p.as_double or p.as_int) for p in metric.gauge.data_points]
    return Push(path=path, headers=dict(headers), resource=_texts(resource.resource.attributes), points=points)


@contextmanager
def receiving():
    """A receiver on a free port of this machine."""
    received = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if received.answer == 200:
                received.pushes.append(_push(self.path, self.headers.items(), body))
            self.send_response(received.answer)
            self.send_header("Content-Type", "application/x-protobuf")
            self.end_headers()

        def log_message(self, *_arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        received.url = f"http://127.0.0.1:{server.server_port}"
        yield received
        server.shutdown()
        thread.join()


@contextmanager
def silence():
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def nobody():
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}"
