"""A fresh warehouse for every sink, and processes that publish into it."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from robert_pipeline.config import Warehouse
from robert_pipeline.storage.warehouse import open_warehouse

HERE = Path(__file__).parent
ROOT = HERE.parents[2]

SINKS = ["iceberg"]


@pytest.fixture(params=SINKS)
def warehouse(request, tmp_path):
    """The configuration of an empty warehouse of each kind."""
    return Warehouse(uri=str(tmp_path / "warehouse"), sink=request.param)


@pytest.fixture
def sink(warehouse):
    return open_warehouse(warehouse)


@pytest.fixture
def publisher():
    """A function that starts `writer.py` in a process of its own; all are dead when the test ends."""
    started = []

    def start(config, action, *arguments):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [
                sys.executable,
                str(HERE / "writer.py"),
                json.dumps(dataclasses.asdict(config)),
                action,
                *map(str, arguments),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
