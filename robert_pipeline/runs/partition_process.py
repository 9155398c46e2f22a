"""A process that runs one partition of a backfill: a request on stdin, an exit code, and log lines on stderr.

What it did is in the run's record in the store.
"""

import contextlib
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import robert_pipeline
from robert_pipeline.config import Settings
from robert_pipeline.cores import usable_cores
from robert_pipeline.errors import ClaimError, RobertError
from robert_pipeline.storage.settings import settings_from_json, settings_to_json

REFUSED = 3
"""Exit code where trying again will not help: the error names its fix."""

AWAY = 4
"""Exit code where the error may go away by itself."""

CLAIMED = 75
"""Exit code where another run works on the partition (EX_TEMPFAIL of sysexits.h)."""

LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What the process is to do; see `run_partition`."""

    settings: Settings
    partition: str
    run_id: str
    force: bool
    active: int
    started: float


def start(request: Request, log: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start a process for a partition, of this program and no other, in a session of its own.

    The starter decides what a Ctrl-C means. The processes share the machine's cores.
    """
    here = str(Path(robert_pipeline.__file__).parents[1])
    paths = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = {
        "OMP_NUM_THREADS": str(max(1, len(usable_cores()) // request.active)),
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
    }
    process = subprocess.Popen(  # noqa: S603 - this program
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env=environment,
        start_new_session=True,
    )
    handed = {name: getattr(request, name) for name in ("partition", "run_id", "force", "active", "started")}
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    with contextlib.suppress(BrokenPipeError), process.stdin as stdin:  # one that died at once shows its exit code
        stdin.write(json.dumps({**handed, "settings": settings_to_json(request.settings)}).encode())
    return process


def main() -> int:
    """Do what stdin asks for."""
    handed = json.loads(sys.stdin.read())
    settings = settings_from_json(handed.pop("settings"))
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    from robert_pipeline.runs.partition import run_partition

    try:
        run_partition(settings, handed.pop("partition"), **handed)
    except ClaimError as error:
        logging.warning("%s", error)
        return CLAIMED
    except RobertError as error:
        logging.error("%s", error)
        return AWAY if error.transient else REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
