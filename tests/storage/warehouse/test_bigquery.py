"""The BigQuery sink with Google's own client, against a local server that answers as BigQuery's API does.

Nothing here has ever met BigQuery itself.
"""

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow.parquet as pq
import pytest
from published_rows import predictions

from robert_pipeline.config import Warehouse
from robert_pipeline.errors import StoreError, WarehouseError
from robert_pipeline.storage.warehouse import Commit, open_warehouse
from robert_pipeline.storage.warehouse import bigquery_sql as sql
from robert_pipeline.storage.warehouse.sink import PartitionExists
from schemas import PREDICTIONS


class Handler(BaseHTTPRequestHandler):
    """One request: recorded, answered by `server.answers` or as if all went well."""

    def log_message(self, *args):
        """Say nothing."""

    def _answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.split("?")[0].removeprefix("/bigquery/v2/projects/p/")
        self.server.requests.append((self.command, path, self.headers, body))
        code, content = self.server.reply(self.command, path, self.headers, body)
        raw = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.send_header("Location", f"http://{self.headers['Host']}/session")
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST = do_DELETE = do_PUT = _answer


class FakeBigQuery(ThreadingHTTPServer):
    """Tables that exist, the outcome that a swap gives, the races that it loses first, and all that was asked."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.tables, self.outcome, self.lost_races = [], {}, "committed", 0
        self.jobs = {}

    def reply(self, method, path, headers, body):
        if path.startswith("datasets/robert/tables/") and method == "GET":
            name = path.rpartition("/")[2]
            if name in self.tables:
                return 200, self._table(name)
            return 404, {"error": {"code": 404, "message": f"Not found: Table {name}", "errors": []}}
        if path == "jobs" and method == "POST":
            job = json.loads(body)
            return self._job(job)
        if method == "POST" and "upload" in path:  # a resumable upload: what it is for, then its bytes
            self.loading = json.loads(body)
            return 200, {}
        if method == "PUT":
            self.loaded = (self.loading, pq.read_table(io.BytesIO(body)))
            return self._job(self.loading)
        if path.startswith("jobs/") and method == "GET":
            return 200, self.jobs[path.rpartition("/")[2]]
        if path.startswith("queries/"):
            return 200, self._rows(path.rpartition("/")[2])
        if method == "DELETE":
            return 204, {}
        return 200, json.loads(body or b"{}")

    def _table(self, name):
        reference = {"projectId": "p", "datasetId": "robert", "tableId": name}
        return {"tableReference": reference, "schema": {"fields": self.tables[name]}}

    def _job(self, job):
        identity = job["jobReference"]["jobId"]
        text = job["configuration"].get("query", {}).get("query", "")
        status = {"state": "DONE"}
        if text.startswith("DECLARE") and self.lost_races:
            self.lost_races -= 1
            error = {"reason": "invalidQuery", "message": "Transaction is aborted due to concurrent update"}
            status |= {"errorResult": error, "errors": [error]}
        made = {**job, "status": status, "statistics": {"query": {"statementType": "SCRIPT"}}, "id": identity}
        self.jobs[identity] = made
        return 200, made

    def _rows(self, identity):
        text = self.jobs[identity]["configuration"]["query"]["query"]
        rows, fields = [], [{"name": "outcome", "type": "STRING"}]
        if text.startswith("DECLARE"):
            rows = [{"f": [{"v": self.outcome}]}]
        elif "ARRAY_AGG(commit_key" in text:
            fields = [{"name": "partition", "type": "STRING"}, {"name": "commit_key", "type": "STRING"}]
            rows = [{"f": [{"v": "p"}, {"v": "old"}]}]
        return {
            "jobReference": {"projectId": "p", "jobId": identity},
            "jobComplete": True,
            "schema": {"fields": fields},
            "rows": rows,
            "totalRows": str(len(rows)),
        }

    def texts(self):
        bodies = [json.loads(body) for method, path, _, body in self.requests if (method, path) == ("POST", "jobs")]
        return [body["configuration"]["query"]["query"] for body in bodies]


@pytest.fixture
def server(monkeypatch):
    from google.auth.credentials import AnonymousCredentials

    server = FakeBigQuery()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("google.auth.default", lambda **_: (AnonymousCredentials(), "p"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def sink(server):
    return open_warehouse(Warehouse(sink="bigquery", uri="bigquery://p?location=EU"))


def test_a_first_publication_makes_tables_loads_rows_and_swaps(server, sink):
    """The first night would fail, or load rows that nothing takes over."""
    assert sink.replace_partition("predictions", "p", [predictions("p", 3)], "key") is Commit.COMMITTED
    texts = server.texts()
    wanted = ["CREATE TABLE IF NOT EXISTS"] * 2 + [
        "MERGE",
        "IF NOT EXISTS (SELECT 1 FROM",
        "CREATE TABLE IF NOT EXISTS",
    ]
    assert [text.split(" `")[0] for text in texts[:5]] == wanted
    assert "DELETE FROM `p.robert.robert_commits` WHERE table_name = 'predictions'" in texts[3]
    assert texts[5].startswith("DECLARE")
    described, rows = server.loaded
    load = described["configuration"]["load"]
    assert load["sourceFormat"] == "PARQUET"
    assert load["parquetOptions"]["enableListInference"] is True
    assert [field["name"] for field in load["schema"]["fields"]] == PREDICTIONS.schema.names
    assert rows["doc_id"].to_pylist() == ["doc-0", "doc-1", "doc-2"]
    stage = load["destinationTable"]["tableId"]
    assert f"FROM `p.robert.{stage}`" in texts[5]
    assert ("DELETE", f"datasets/robert/tables/{stage}") in [(method, path) for method, path, _, _ in server.requests]
    swap = next(json.loads(body) for *_, body in server.requests if b"DECLARE" in body)
    given = {p["name"]: p["parameterValue"]["value"] for p in swap["configuration"]["query"]["queryParameters"]}
    assert given == {"partition": "p", "commit_key": "key", "only_new": "false"}


def test_a_lost_race_is_run_again(server, sink):
    """Two days published at the same moment would fail one of them."""
    server.lost_races = 2
    assert sink.replace_partition("predictions", "p", [predictions("p", 1)], "key") is Commit.COMMITTED
    assert sum(text.startswith("DECLARE") for text in server.texts()) == 3


def test_outcomes_of_the_swap_are_told(server, sink):
    """A repetition, or an entry that somebody else made, would be taken for a commit."""
    server.outcome = "already_committed"
    assert sink.replace_partition("predictions", "p", [predictions("p", 1)], "key") is Commit.ALREADY_COMMITTED
    server.outcome = "exists"
    with pytest.raises(PartitionExists):
        sink.replace_partition("predictions", "p", [predictions("p", 1)], "key", only_new=True)


def test_an_old_table_gets_its_columns_and_a_foreign_one_is_refused(server, sink):
    """After an upgrade nothing could be published, or somebody else's table would be changed."""
    fields = sql.load_schema(PREDICTIONS)
    server.tables["predictions"] = [field for field in fields if field["name"] not in PREDICTIONS.added]
    assert sink.commit_keys("predictions") == {}  # made by hand: nothing was ever committed
    server.tables[sql.LEDGER] = []
    assert sink.commit_keys("predictions") == {"p": "old"}
    sink.replace_partition("predictions", "p", [predictions("p", 1)], "key")
    assert sum("ADD COLUMN IF NOT EXISTS" in text for text in server.texts()) == len(PREDICTIONS.added)
    server.tables["predictions"] = [field for field in fields if field["name"] != "probability"]
    with pytest.raises(WarehouseError, match="no column 'probability'"):
        sink.check()


def test_the_same_key_reads_no_rows(server, sink):
    """A re-run would score and load everything again for nothing."""
    server.tables |= {"predictions": sql.load_schema(PREDICTIONS), sql.LEDGER: []}

    def untouched():
        raise AssertionError("rows were read")
        yield

    assert sink.replace_partition("predictions", "p", untouched(), "old") is Commit.ALREADY_COMMITTED


def test_a_dataset_of_some_columns_asks_for_no_others(server, sink):
    """Looking at one label of each partition would be billed as reading the whole table, and copy it."""
    server.tables["predictions"] = sql.load_schema(PREDICTIONS)
    dataset = sink.dataset("predictions", "p", columns=["label", "probability"], limit=1)
    assert dataset.schema.names == ["label", "probability"]
    asked = "SELECT `label`, `probability` FROM `p.robert.predictions` WHERE `partition` = @partition LIMIT 1"
    assert server.texts() == [asked]


def test_an_error_of_the_rows_comes_out_and_the_stage_goes(server, sink):
    """A damaged prediction shard would be blamed on BigQuery, and leave a table that nobody removes."""

    def breaking():
        yield predictions("p", 1)
        raise StoreError("shard 7 is damaged")

    with pytest.raises(StoreError, match="shard 7"):
        sink.replace_partition("predictions", "p", breaking(), "key")
    assert not any(text.startswith("DECLARE") for text in server.texts())
    assert "DELETE" in [method for method, *_ in server.requests]


def test_a_project_out_of_reach_is_one_clear_error(monkeypatch):
    """Missing credentials would be a traceback of Google's library."""
    from google.auth.exceptions import DefaultCredentialsError

    def refuse(**_):
        raise DefaultCredentialsError("no credentials\nwere found")

    monkeypatch.setattr("google.auth.default", refuse)
    with pytest.raises(WarehouseError, match="no credentials were found") as caught:
        open_warehouse(Warehouse(sink="bigquery", uri="bigquery://p")).check()
    assert "\n" not in str(caught.value)
    with pytest.raises(WarehouseError, match="not a BigQuery project"):
        open_warehouse(Warehouse(sink="bigquery", uri="p"))
