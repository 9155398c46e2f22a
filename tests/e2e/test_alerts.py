"""Trouble is told: a real server calls a real receiver of webhooks and runs a real deployment."""

import json
import os
import signal
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.corpora import write_texts
from tests.e2e.conftest import wait_for
from tests.history import commits, days

WORKER = ("prefect", "worker", "start")
BAD_DAY = "day=2026-03-01"
TOLD = """
import json
from pathlib import Path
from prefect import flow

@flow
def told(alert: dict):
    Path(__file__).with_suffix(".json").write_text(json.dumps(alert))
"""


@pytest.fixture
def receiver():
    """Takes what is posted to it, by path."""
    taken = defaultdict(list)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            taken[self.path].append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield taken, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def make_block(site, kind, name, data):
    """A block, as the form of the UI makes it."""
    kind_id = site.get(f"/block_types/slug/{kind}")["id"]
    (schema,) = site.post("/block_schemas/filter", block_schemas={"block_type_id": {"any_": [kind_id]}})
    site.post("/block_documents/", name=name, data=data, block_type_id=kind_id, block_schema_id=schema["id"])
    return f"{kind}/{name}"


def make_told(site):
    """A deployment of the operator's own, which takes an alert; gives the file where it leaves it."""
    script = site.folder / "told.py"
    script.write_text(TOLD)
    deploy = f"told.from_source({str(site.folder)!r}, 'told.py:told').deploy('told', work_pool_name='robert')"
    done = site.call("-c", f"from told import told; {deploy}", PYTHONPATH=str(site.folder))
    assert done.returncode == 0, done.stderr
    return script.with_suffix(".json")


def test_what_fails_is_late_or_out_of_bounds_is_told(serve, receiver):
    """Nobody would know in the morning that a night's labels are missing."""
    taken, url = receiver
    site = serve(1, PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS="30")
    webhook = make_block(site, "webhook", "pager", {"url": f"{url}/pager"})
    written = {"subject": "{{subject}}", "body": "{{body}}"}
    mail = make_block(site, "custom-webhook", "mail", {"name": "mail", "url": f"{url}/mail", "json_data": written})
    file = make_told(site)
    made = site.call("-m", "flows.automations", "--notify", webhook, "--notify", mail, "--run", "told/told")
    assert made.returncode == 0, made.stderr
    assert len(site.post("/automations/filter")) == 5

    def told(alert):
        return wait_for(
            lambda: [one for one in taken["/pager"] if one["alert"] == f"robert: {alert}"], alert, seconds=90
        )

    failed = site.start("label-partition/partition", partition="day=1999-01-01")
    (alert,) = told("a run failed")
    assert site.ended(failed) == "FAILED"
    assert alert["run"] == "label day=1999-01-01"
    assert "has no partition 'day=1999-01-01'" in alert["text"]
    assert alert["url"].endswith(failed)
    wait_for(file.exists, "the operator's deployment to have run")
    assert json.loads(file.read_text()) == alert

    write_texts(site.folder / "corpus" / BAD_DAY / "a.parquet", ["good words"] + [" "] * 3, prefix="bad-")
    outside = site.start("label-partition/partition", partition=BAD_DAY)
    (alert,) = told("a partition is out of bounds")
    assert site.ended(outside) == "FAILED"
    assert alert["what"] == BAD_DAY
    assert "3 of 4 documents rejected" in alert["message"]
    assert commits(site.settings) == {}

    worker = wait_for(lambda: site.process_of(*WORKER), "the worker")
    os.kill(worker, signal.SIGSTOP)
    late = site.start("label-partition/partition", partition=days(1)[0])
    (alert,) = told("a run is late")
    os.kill(worker, signal.SIGCONT)
    assert alert["deployment"] == "label-partition/partition"
    assert alert["parameters"]["partition"] == days(1)[0]
    assert site.ended(late) == "COMPLETED"

    forced = site.start("label-partition/partition", partition=BAD_DAY, force=True)
    assert site.ended(forced) == "COMPLETED"
    assert commits(site.settings) == {days(1)[0]: 1, BAD_DAY: 1}
    assert len(taken["/pager"]) == 3, "each is told once"
    assert [one["subject"] for one in taken["/mail"]] == [
        "robert: a run failed: label day=1999-01-01, label-partition/partition",
        f"robert: a partition is out of bounds: {BAD_DAY}, label-partition/partition",
        f"robert: a run is late: {alert['run']}, label-partition/partition",
    ]
    assert "3 of 4 documents rejected" in taken["/mail"][1]["body"]
