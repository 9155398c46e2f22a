"""A small Iceberg REST catalog over a SQLite one, for tests: PyIceberg's requests, answered as specified."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from pyiceberg.catalog.rest import CreateTableRequest, TableResponse
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.table import CommitTableRequest

STATUS = {
    NoSuchTableError: 404,
    NoSuchNamespaceError: 404,
    NamespaceAlreadyExistsError: 409,
    TableAlreadyExistsError: 409,
    CommitFailedException: 409,
}


class Handler(BaseHTTPRequestHandler):
    """One request. The server has `catalog`, `token`, and `failing`: a status to answer everything with."""

    def log_message(self, *args):
        """Say nothing."""

    def do_GET(self):
        self._answer("GET")

    def do_POST(self):
        self._answer("POST")

    def do_HEAD(self):
        self._answer("HEAD")

    def _answer(self, method):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if self.server.failing:
                raise RuntimeError("the catalog is being repaired")
            if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
                self._send(401, {"error": {"message": "not authorized", "type": "NotAuthorized", "code": 401}})
                return
            path = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")[1:]]
            with self.server.lock:
                self._send(200, self._content(method, path, body))
        except tuple(STATUS) as error:
            code = STATUS[type(error)]
            self._send(code, {"error": {"message": str(error), "type": type(error).__name__, "code": code}})
        except RuntimeError as error:
            code = self.server.failing
            self._send(code, {"error": {"message": str(error), "type": "ServiceUnavailable", "code": code}})

    def _content(self, method, path, body):
        catalog = self.server.catalog
        match (method, path):
            case ("GET", ["config"]):
                return {"defaults": {}, "overrides": {}}
            case ("POST", ["namespaces"]):
                wanted = json.loads(body)
                catalog.create_namespace(tuple(wanted["namespace"]))
                return {"namespace": wanted["namespace"], "properties": {}}
            case (("GET" | "HEAD"), ["namespaces", name]):
                namespace = tuple(name.split("\x1f"))
                return {"namespace": list(namespace), "properties": catalog.load_namespace_properties(namespace)}
            case ("POST", ["namespaces", name, "tables"]):
                wanted = CreateTableRequest.model_validate({"location": None, **json.loads(body)})
                table = catalog.create_table(
                    (*name.split("\x1f"), wanted.name),
                    schema=wanted.table_schema,
                    partition_spec=wanted.partition_spec,
                    properties=wanted.properties,
                )
                return self._table(table)
            case (("GET" | "HEAD"), ["namespaces", name, "tables", table]):
                return self._table(catalog.load_table((*name.split("\x1f"), table)))
            case ("POST", ["namespaces", name, "tables", table]):
                wanted = CommitTableRequest.model_validate_json(body)
                found = catalog.load_table((*name.split("\x1f"), table))
                done = catalog.commit_table(found, tuple(wanted.requirements), tuple(wanted.updates))
                return json.loads(done.model_dump_json())
            case _:
                raise NoSuchTableError(f"{method} {path}")

    def _table(self, table):
        answer = TableResponse(metadata_location=table.metadata_location, metadata=table.metadata)
        return json.loads(answer.model_dump_json(by_alias=True))

    def _send(self, code, content):
        raw = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)


@contextmanager
def serving(folder, token=""):
    """A catalog whose tables lie in `folder`; gives the server, `server.address` its address."""
    folder.mkdir(parents=True, exist_ok=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.catalog = SqlCatalog("served", uri=f"sqlite:///{folder}/served.db", warehouse=str(folder))
    server.lock, server.token, server.failing = threading.Lock(), token, 0
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
