"""A fresh warehouse for every sink, and processes that publish into it."""

import dataclasses
import multiprocessing
import os
from pathlib import Path

import pytest
from rest_catalog import serving
from warehouses import CATALOGS, ROOT, SINKS, configured, serving_postgres

from robert_pipeline.storage.warehouse import open_warehouse

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def postgres():
    """The address of a server that dies with the session."""
    with serving_postgres() as address:
        yield address


@pytest.fixture
def rest_catalog(tmp_path_factory):
    """An Iceberg REST catalog."""
    with serving(tmp_path_factory.mktemp("rest") / "tables") as server:
        yield server


@pytest.fixture(params=SINKS + CATALOGS)
def warehouse(request, tmp_path):
    """The configuration of an empty warehouse of each kind."""
    return configured(request.param, request, tmp_path)


@pytest.fixture
def sink(warehouse):
    return open_warehouse(warehouse)


class Publisher:
    """A process that runs one action of `writer.py`."""

    def __init__(self, context, config, action, arguments):
        import writer

        self._pipe, theirs = context.Pipe(duplex=False)
        self._process = context.Process(
            target=writer.run, args=(dataclasses.asdict(config), action, [str(a) for a in arguments], theirs)
        )
        self._process.start()
        theirs.close()

    def line(self):
        """The next thing it says; waits for it."""
        return self._pipe.recv()

    def running(self):
        """Whether it has not ended yet."""
        return self._process.is_alive()

    def kill(self):
        """kill -9."""
        self._process.kill()
        self._process.join()

    def ended(self):
        """Its exit code (less than 0: the signal that killed it), and the last thing it said."""
        said = ""
        try:
            while self._pipe.poll(200):
                said = self._pipe.recv()
        except EOFError:
            pass
        self._process.join(200)
        return self._process.exitcode, said

    def finished(self):
        """The last thing it said; it must have ended well."""
        code, said = self.ended()
        assert code == 0, said
        return said


@pytest.fixture(scope="session")
def _forking():
    """Writers are forked from a process that has loaded the libraries, which takes each of them two seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["writer"])
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "OMP_NUM_THREADS")}
    os.environ.update(PYTHONPATH=os.pathsep.join([str(ROOT), str(HERE)]), OMP_NUM_THREADS="1")
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    return context


@pytest.fixture
def publisher(_forking):
    """A function that starts a process; all are dead when the test ends."""
    started = []

    def start(config, action, *arguments):
        started.append(Publisher(_forking, config, action, arguments))
        return started[-1]

    yield start
    for process in started:
        process.kill()
