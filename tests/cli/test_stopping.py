"""Runs that are stopped, and readers that stop reading."""

import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from robert_pipeline.runs.embed import embed
from robert_pipeline.runs.label import label
from robert_pipeline.runs.plan import plan
from robert_pipeline.storage.store import open_store
from tests.corpora import write_texts
from tests.projects import LABEL, elsewhere, texts

ROOT = Path(__file__).resolve().parents[2]
ROBERT = [sys.executable, "-c", "from robert_pipeline.cli import main; main()"]
STOPPED = "stopped; what is done is kept: run the same command again to go on\n"
IN_SHELL = shlex.join(ROBERT)
DOCUMENTS = 600
PATIENCE_SECONDS = 120
MANY_ROWS = "FROM range(20000)"


@pytest.fixture
def settings(project, tmp_path):
    """A corpus of many documents, each a unit of its own."""
    write_texts(tmp_path / "corpus" / "a.parquet", texts("sport", DOCUMENTS, "stop"))
    settings = replace(elsewhere(project, tmp_path), corpus=str(tmp_path / "corpus"))
    return replace(settings, embedding=replace(settings.embedding, unit_bytes=1))


def start(settings, folder):
    """`robert embed` on the settings, in a process of its own."""
    (folder / "robert.toml").write_text(
        f"corpus = '{settings.corpus}'\nstore = '{settings.store}'\n"
        f"[encoder]\nname = '{settings.encoder.name}'\nprecision = 'float32'\n"
        "[chunking]\nchunk_tokens = 16\noverlap_tokens = 4\n[embedding]\nunit_bytes = 1\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.Popen(
        [*ROBERT, "embed"], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def stop(process, how):
    """Send the signal until it is heeded: a library may be in a callback that swallows what is raised in it.

    Not again to one that has said so and is leaving, where it would end the process in another way.
    """
    said = b""
    while STOPPED.encode() not in said:
        process.send_signal(how)
        try:
            return process.communicate(timeout=2)
        except subprocess.TimeoutExpired as waiting:
            said = waiting.stderr or b""
    return process.communicate()


def shards(settings):
    """Every embedding shard, and when it was written."""
    files = open_store(settings.store).files
    return {entry.path: entry.revision for entry in files.list("embeddings")}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_stopped_run_is_run_again_and_keeps_what_it_did(settings, tmp_path, how):
    """A run that was killed would lose its work, or leave a half-written shard that is taken for a whole one."""
    process = start(settings, tmp_path)
    end = time.monotonic() + PATIENCE_SECONDS
    while len(shards(settings)) < 3 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    out, err = stop(process, how)
    assert out == ""
    if how == signal.SIGINT:
        assert (process.returncode, err) == (130, STOPPED)
    before = shards(settings)
    assert 3 <= len(before) < DOCUMENTS, err
    report = embed(settings, run_id="again")
    assert (report.unit_count, report.embedded_unit_count) == (DOCUMENTS, DOCUMENTS - len(before))
    assert report.counts.embedded == DOCUMENTS
    assert before.items() <= shards(settings).items()


@pytest.mark.parametrize("option", ["", "--csv"])
def test_a_reader_that_stops_reading_is_no_error(project, tmp_path, option):
    """`robert query … | head` would end in a traceback."""
    settings = elsewhere(project, tmp_path)
    label(settings, plan(settings, partitions=[LABEL], run_id="r"))
    script = f"{IN_SHELL} query {option} '{MANY_ROWS}' --warehouse {settings.warehouse.uri} | head -1"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_closed_streams_are_no_error(project, tmp_path, closed):
    """A scheduler that gives a process no stdin or no stdout would make every run fail."""
    script = (
        f"{IN_SHELL} plan --corpus {project.corpus} --store {tmp_path}/store --encoder {project.encoder.name} {closed}"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(["bash", "-c", script], env=environment, cwd=tmp_path, check=True, capture_output=True)
