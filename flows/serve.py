"""`make serve`: a Prefect server and a worker on this machine, with the deployments, until Ctrl-C.

Both are started again when they die. Nothing reports home. The server listens on localhost; on any other address only
with an auth string (PREFECT_SERVER_API_AUTH_STRING).
"""

import argparse
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

LOCAL = ("127.0.0.1", "localhost", "::1")
POOL = "robert"
ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 180.0
RESTART_SECONDS = 2.0
STOP_SECONDS = 15.0
AUTH = "PREFECT_SERVER_API_AUTH_STRING"
SERVER_SETTINGS = {
    # In memory, the default, a server that dies while a slot is held leaks the slot for ever.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # A slot whose holder died is found, and asked for again, soon after its lease has ended.
    "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "5",
    "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "10",
    # A worker looks for runs every 10 seconds, and a busy one is no reason to wake anybody.
    "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "120",
}
"""What every server of these flows needs; those of infra/ have it too."""


@dataclass(kw_only=True, slots=True)
class Service:
    """A process that is kept alive."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    process: "subprocess.Popen[bytes] | None" = field(default=None)

    def keep_alive(self) -> bool:
        """Start it unless it runs; gives whether it had to be."""
        if self.process is not None and self.process.poll() is None:
            return False
        self.process = subprocess.Popen(  # noqa: S603 - this program's own words
            [sys.executable, "-m", "prefect", *self.arguments],
            env=self.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        return True

    def stop(self) -> None:
        """End it, by force where it does not heed."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def main() -> None:
    """Start everything, tell where it is, and keep it alive."""
    parser = argparse.ArgumentParser(prog="python -m flows.serve", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("robert.toml"), help="settings file [robert.toml]")
    parser.add_argument(
        "--home", type=Path, default=Path(".prefect"), help="where the server keeps its state [.prefect]"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on [127.0.0.1]")
    parser.add_argument("--port", type=int, default=4200, help="port to listen on [4200]")
    parser.add_argument("--embedding-slots", type=int, default=1, help="runs that embed at the same time: GPUs [1]")
    options = parser.parse_args()
    if options.host not in LOCAL and not os.environ.get(AUTH):
        parser.error(
            f"--host {options.host} opens the server to others: set {AUTH} (and PREFECT_API_AUTH_STRING) first"
        )
    if not options.config.exists():
        parser.error(f"there is no settings file {options.config}: write one, or name it with --config")
    environment = service_environment(options.home, options.host, options.port)
    server = Service(
        name="server",
        arguments=["server", "start", "--host", options.host, "--port", str(options.port)],
        environment=environment,
    )
    worker = Service(
        name="worker", arguments=["worker", "start", "--pool", POOL, "--type", "process"], environment=environment
    )
    signal.signal(signal.SIGTERM, _stop)
    try:
        server.keep_alive()
        wait_for_server(environment["PREFECT_API_URL"])
        setup = [sys.executable, "-m", "flows.setup", str(options.config.absolute()), str(options.embedding_slots)]
        subprocess.run(setup, env=environment, cwd=ROOT, check=True)  # noqa: S603 - this program's own words
        worker.keep_alive()
        _say(f"\nthe UI is at http://{options.host}:{options.port}; Ctrl-C stops server and worker\n")
        while True:
            for service in (server, worker):
                if service.keep_alive():
                    _say(f"the {service.name} had ended and was started again")
            time.sleep(RESTART_SECONDS)
    except KeyboardInterrupt:
        _say("stopping")
    finally:
        for service in (worker, server):
            service.stop()


def service_environment(home: Path, host: str, port: int) -> dict[str, str]:
    """Where server and worker find each other; what the shell has set wins, but for the address."""
    shown = f"[{host}]" if ":" in host else host
    defaults = {
        "PREFECT_HOME": str(home.absolute()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        **SERVER_SETTINGS,
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "robert_pipeline",
    }
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        **defaults,
        **os.environ,
        "PREFECT_API_URL": f"http://{shown}:{port}/api",
        "PYTHONPATH": os.pathsep.join(paths),
    }


def wait_for_server(api_url: str) -> None:
    """Return once it answers. Raises SystemExit when it does not for long."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{api_url}/health", timeout=5):  # noqa: S310 - http, to our own server
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    sys.exit(f"the server at {api_url} did not start within {START_SECONDS:.0f} seconds")


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    from robert_pipeline.terminal import say

    say(text)


if __name__ == "__main__":
    main()
