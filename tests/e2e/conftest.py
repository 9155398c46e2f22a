"""A real server with a real worker, as `make serve` starts them, and what a person would see of them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from tests.e2e.postgres import serving
from tests.history import write_history

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 600
ENDS = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


def pytest_collection_modifyitems(items):
    """Everything here takes minutes: `make e2e` asks for it."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(3 * PATIENCE_SECONDS))


def wait_for(found, what, *, seconds=PATIENCE_SECONDS):
    """Ask until there is an answer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := found():
            return answer
        time.sleep(0.5)
    raise AssertionError(f"waited {seconds} s in vain for {what}")


def children_of(pid):
    """(pid, command line) of every process below another."""
    found, parents = [], {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                status = (folder / "stat").read_text()
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            parents[int(folder.name)] = (int(status.rpartition(")")[2].split()[1]), command)
    for child, (parent, command) in parents.items():
        if parent == pid:
            found += [(child, command), *children_of(child)]
    return found


def processes_with(variable):
    """Processes that carry NAME=VALUE in their environment, the youngest first, whoever their parents are."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if variable.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:
                continue
    return sorted(found, reverse=True)


def kill_9(pids):
    """kill -9 of each that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@dataclass(kw_only=True)
class Site:
    """`make serve` on a project of its own."""

    settings: object
    folder: Path
    port: int
    environment: dict
    process: subprocess.Popen = None

    def launch(self):
        """Start `make serve`, for the first time or again; returns once everything is there."""
        file = self.folder / "serve.log"
        arguments = [
            "--config",
            self.folder / "robert.toml",
            "--home",
            self.folder / "prefect",
            "--port",
            str(self.port),
        ]
        with file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.serve", *arguments],
                cwd=ROOT,
                env={**quiet_environment(), **self.environment},
                stdout=log,
                stderr=log,
            )
        ready = lambda: self.process.poll() is not None or b"the UI is at" in file.read_bytes()  # noqa: E731
        wait_for(ready, "the server and the worker")
        assert self.process.poll() is None, file.read_text()

    def processes(self):
        """All of it; a run whose worker was killed is no child any more."""
        below = [pid for pid, _ in children_of(self.process.pid)]
        return [self.process.pid, *below, *processes_with(f"PREFECT_API_URL={self.url}/api")]

    def power_off(self):
        """kill -9 of everything, as when the machine goes."""
        kill_9(self.processes())
        self.process.wait()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def post(self, path, **body):
        """Ask the server; it may be starting again."""

        def ask():
            try:
                answer = httpx.post(f"{self.url}/api{path}", json=body, timeout=30)
            except httpx.TransportError:
                return None
            return answer if answer.status_code < 500 else None

        answer = wait_for(ask, f"an answer to {path}")
        assert answer.status_code < 400, answer.text
        return answer.json() if answer.content else None

    def get(self, path):
        """What is there; the server may be starting again."""

        def ask():
            try:
                answer = httpx.get(f"{self.url}/api{path}", timeout=30)
            except httpx.TransportError:
                return None
            return answer if answer.status_code < 500 else None

        return wait_for(ask, f"an answer to {path}").json()

    def start(self, deployment, **parameters):
        """Start a run of a deployment, by hand; gives its id."""
        found = self.get(f"/deployments/name/{deployment}")
        return self.post(f"/deployments/{found['id']}/create_flow_run", parameters=parameters)["id"]

    def runs(self, **wanted):
        """Flow runs, all or those of some deployment or tags."""
        return self.post("/flow_runs/filter", **({"flow_runs": wanted} if wanted else {}), limit=200)

    def state(self, run_id):
        runs = self.runs(id={"any_": [run_id]})
        return runs[0]["state"]["type"] if runs else "NONE"

    def running_tasks(self, run_id):
        """The tasks that a run is at."""
        found = self.post("/task_runs/filter", flow_runs={"id": {"any_": [run_id]}})
        return {task["name"].rpartition("-")[0] for task in found if task["state_type"] == "RUNNING"}

    def ended(self, run_id):
        """The state that a run ends in."""
        wait_for(lambda: self.state(run_id) in ENDS, f"the end of run {run_id}")
        return self.state(run_id)

    def artifacts(self):
        return self.post("/artifacts/filter", limit=200)

    def events(self, name):
        shown = self.post(
            "/events/filter", filter={"event": {"name": [name]}, "occurred": {"since": "2020-01-01T00:00:00Z"}}
        )
        return shown["events"]

    def emit(self, event, resource, *, tags=()):
        """Send an event, as runs do."""
        related = [{"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in tags]
        sent = {
            "id": str(uuid.uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": event,
            "resource": {"prefect.resource.id": resource},
            "related": related,
        }
        assert httpx.post(f"{self.url}/api/events", json=[sent], timeout=30).status_code < 400

    def process_of(self, *words):
        """The process id below `make serve` whose command line has all these words."""
        found = [pid for pid, command in children_of(self.process.pid) if all(word in command for word in words)]
        return found[0] if found else None

    def kill(self, *words):
        """kill -9 of the process whose command line has these words."""
        pid = wait_for(lambda: self.process_of(*words), f"a process with {words}")
        os.kill(pid, signal.SIGKILL)
        return pid

    def processes_of_run(self, run_id):
        """Processes of a flow run, the youngest first."""
        return processes_with(f"PREFECT__FLOW_RUN_ID={run_id}")

    def kill_run(self, run_id):
        """kill -9 of the process of a flow run, and of what is below it."""
        wait_for(lambda: self.processes_of_run(run_id), f"the process of run {run_id}")
        kill_9(self.processes_of_run(run_id))

    def limit(self):
        """The slots for embedding, as the server counts them."""
        return self.get("/v2/concurrency_limits/robert-embedding")

    def call(self, *arguments, **environment):
        """Run Python against this server, as an operator does."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**quiet_environment(), "PREFECT_API_URL": f"{self.url}/api", **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )


def quiet_environment():
    """That of the tests, without what they or a person have told Prefect."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def free_port():
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


def write_settings(settings, file):
    """The settings as robert.toml."""
    file.write_text(
        f"corpus = '{settings.corpus}'\nstore = '{settings.store}'\nmodel = '{settings.model}'\n"
        f"registry = '{settings.registry}'\n[warehouse]\nuri = '{settings.warehouse.uri}'\n"
        f"[encoder]\nname = '{settings.encoder.name}'\nprecision = 'float32'\n"
        "[chunking]\nchunk_tokens = 16\noverlap_tokens = 4\n[operations]\nprice_per_hour = 2.0\n"
        "[bounds]\nmax_reject_share = 0.5\n"
    )
    return file


@pytest.fixture
def database():
    """Has the server use PostgreSQL where one is installed: SQLite locks where many runs report at once."""
    with serving(free_port()) as address:
        yield {} if address is None else {"PREFECT_SERVER_DATABASE_CONNECTION_URL": address}


@pytest.fixture
def serve(project, tmp_path, database):
    """Start `make serve` on a history of so many days; it ends with the test."""
    started = []

    def start(days, *, sqlite=False, **environment):
        environment |= {} if sqlite else database
        settings = write_history(project, tmp_path, days)
        write_settings(settings, tmp_path / "robert.toml")
        site = Site(settings=settings, folder=tmp_path, port=free_port(), environment=environment)
        started.append(site)
        site.launch()
        return site

    yield start
    for site in started:
        found = site.processes()
        site.process.terminate()
        site.process.wait(60)
        kill_9([*found, *site.processes()])
