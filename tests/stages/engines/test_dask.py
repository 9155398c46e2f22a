"""A real scheduler and real workers: the same table, deaths that cost little, and an end that always comes."""

import dataclasses
import os
import random
import threading
import time
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from robert_pipeline.config import Embedding, Engine
from robert_pipeline.errors import EncoderError, EngineError, ModelError, StoreError
from robert_pipeline.runs.embed import embed, embed_plan
from robert_pipeline.runs.label import label
from robert_pipeline.runs.outcome import partition_outcome
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.score import score
from robert_pipeline.stages.progress import listening
from robert_pipeline.storage.store import open_store
from tests.clusters import LOGGED, cluster, until
from tests.corpora import write_texts
from tests.projects import LABEL, REJECTED, WORDS, elsewhere

UNITS = 24
STAMPED = ["run_id", "scored_at"]


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """Two workers that say what they embed."""
    folder = tmp_path_factory.mktemp("cluster")
    with cluster(folder) as running:
        for _ in range(2):
            running.add_worker(preload=LOGGED.format(log=str(folder / "log"), seconds=0.02))
        yield running


@pytest.fixture
def many(project, tmp_path):
    """A partition of as many units as documents, none of them embedded."""
    chosen = random.Random(1)
    words = [word for kind in WORDS.values() for word in kind]
    texts = [" ".join(chosen.choices(words, k=50)) for _ in range(UNITS)]
    write_texts(tmp_path / "corpus" / "day=1" / "a.parquet", texts)
    settings = dataclasses.replace(elsewhere(project, tmp_path), corpus=str(tmp_path / "corpus"))
    return dataclasses.replace(settings, embedding=Embedding(unit_bytes=1))


def on(settings, running, **changes):
    """The same settings on a cluster."""
    return dataclasses.replace(settings, engine=Engine(name=running.engine_name, **changes))


def rows(settings):
    """The outcome of the partition to label: predictions and rejects, without who made them and when."""
    planned = plan(settings, partitions=[LABEL], run_id="look")
    outcome = partition_outcome(planned, planned.partitions[0], score(planned, model=settings.model).head_fingerprint)
    table = pa.Table.from_batches(list(outcome.predictions()))
    return table.drop_columns(STAMPED).to_pylist(), outcome.rejects.drop_columns(["run_id", "rejected_at"]).to_pylist()


def log_of(running):
    """(process, unit) of everything that was embedded."""
    place = running.folder / "log"
    return [tuple(line.split()) for line in place.read_text().splitlines()] if place.exists() else []


def test_the_table_is_the_local_one(project, workers, tmp_path):
    """Another engine would give other labels, lose rows, or lose its rejects; a bad row would stop the cluster."""
    small = dataclasses.replace(elsewhere(project, tmp_path / "a"), embedding=Embedding(unit_bytes=200))
    there = on(dataclasses.replace(small, **{"store": str(tmp_path / "b")}), workers)
    for settings in (small, there):
        planned = plan(settings, partitions=[LABEL], run_id="r")
        assert len(planned.missing) > 3
        label(settings, planned)
    predictions, rejects = rows(there)
    assert (predictions, rejects) == rows(small)
    assert len(predictions) == 5
    assert {row["doc_id"]: row["reason"] for row in rejects} == REJECTED


def test_work_is_shared_and_progress_is_heard(many, workers):
    """One worker would do everything while the others wait, or the bar would stand still until the end."""
    heard = []
    before = len(log_of(workers))
    with listening(heard.append):
        report = embed(on(many, workers), run_id="shared")
    done = Counter(process for process, _ in log_of(workers)[before:])
    assert report.counts.documents == UNITS
    assert len(done) == 2
    assert min(done.values()) >= UNITS // 4
    assert sum(event.documents for event in heard) == UNITS


def test_a_killed_worker_costs_only_what_it_was_doing(many, tmp_path):
    """A lost machine would cost hours of finished work, or the run."""
    with cluster(tmp_path) as running:
        for _ in range(2):
            running.add_worker(preload=LOGGED.format(log=str(tmp_path / "log"), seconds=0.1))
        settings = on(many, running)

        def kill():
            until(lambda: len(log_of(running)) > UNITS // 3)
            running.workers[0].kill()

        killer = threading.Thread(target=kill)
        killer.start()
        report = embed(settings, run_id="killed")
        killer.join()
        log = log_of(running)
    assert running.workers[0].returncode == -9
    assert report.counts.embedded == UNITS
    assert {process for process, _ in log} == {str(worker.pid) for worker in running.workers}
    assert len(log) <= UNITS + 1
    assert not [entry for entry in open_store(settings.store).files.list() if entry.path.startswith("run-")]


def test_without_workers_a_run_ends_and_a_later_one_finishes(many, tmp_path):
    """A run would hang for ever, and a schedule with it."""
    with cluster(tmp_path) as running:
        running.add_worker(preload=LOGGED.format(log=str(tmp_path / "log"), seconds=0.1))
        settings = on(many, running, patience_seconds=3)
        planned = plan(settings, run_id="alone")
        killer = threading.Thread(
            target=lambda: (until(lambda: len(log_of(running)) > 3), running.workers[0].kill())
        )
        killer.start()
        with pytest.raises(EngineError, match=r"has had no worker for 3 s\. Start workers and run again"):
            embed_plan(planned)
        killer.join()
        done = UNITS - len(plan(settings, run_id="alone").missing)
        assert done >= 3
        running.add_worker()
        report = embed(dataclasses.replace(settings, engine=Engine(name=running.engine_name)), run_id="again")
        assert (report.embedded_unit_count, report.counts.embedded) == (UNITS - done, UNITS)


def test_a_scheduler_that_goes_away_is_named(many, tmp_path):
    """A run would hang for ever on a scheduler that was taken down."""
    with cluster(tmp_path) as running:
        running.add_worker(preload=LOGGED.format(log=str(tmp_path / "log"), seconds=0.1))
        settings = on(many, running, patience_seconds=3)
        killer = threading.Thread(target=lambda: (until(lambda: len(log_of(running)) > 3), running.scheduler.kill()))
        killer.start()
        started = time.monotonic()
        with pytest.raises(EngineError, match=r"scheduler at tcp://\S+ does not answer any more"):
            embed(settings, run_id="gone")
        killer.join()
        assert time.monotonic() - started < 40


def test_no_scheduler_at_the_address(many):
    """A typing error in the address would look like a hang or a traceback."""
    engine = Engine(name="dask://127.0.0.1:1", patience_seconds=1)
    with pytest.raises(EngineError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1 within 1 s"):
        embed(dataclasses.replace(many, engine=engine), run_id="r")


LACKING = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "robert_pipeline":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
"""
OTHER = "import robert_pipeline\nrobert_pipeline.__version__ = '0.0.9'"
LATE = "import time\nnow = time.time\ntime.time = lambda: now() - 3600"
BLIND = """
from pathlib import Path
is_dir = Path.is_dir
Path.is_dir = lambda self: False if self.name == "tiny" else is_dir(self)
"""
APART = """
from robert_pipeline.storage.files import Files
exists = Files.exists
Files.exists = lambda self, path: False if path.startswith("run-") else exists(self, path)
"""


@pytest.fixture(scope="module")
def unfit(tmp_path_factory):
    """One worker of each fault, told apart by what it offers."""
    with cluster(tmp_path_factory.mktemp("unfit")) as running:
        for name, preload in {"lacking": LACKING, "other": OTHER, "late": LATE, "blind": BLIND, "apart": APART}.items():
            running.add_worker("--resources", f"{name}=1", preload=preload)
        yield running


@pytest.mark.parametrize(
    ("fault", "raised", "text"),
    [
        ("lacking", EngineError, r"Dask worker tcp://127\.0\.0\.\d:\d+ has no robert_pipeline \(here 0\.1\.0\)"),
        ("other", EngineError, r"Dask worker tcp://\S+ has robert_pipeline 0\.0\.9 \(here 0\.1\.0\)"),
        ("late", EngineError, r"the clock of Dask worker tcp://\S+ is 3,\d\d\d s slow"),
        ("blind", EncoderError, r"Dask worker tcp://\S+: encoder \S+tiny is not a folder"),
        ("apart", StoreError, r"Dask worker tcp://\S+: store \S+ there is not the one of this run"),
    ],
)
def test_an_unfit_worker_is_named_before_any_work(many, unfit, fault, raised, text):
    """Hours of work would be lost on a disk that nobody reads, or end in an engine's traceback."""
    with pytest.raises(raised, match=text):
        embed(on(many, unfit, resources=f"{fault}=1"), run_id="r")
    assert not open_store(many.store).files.list()


def test_work_goes_where_its_resources_are(many, tmp_path):
    """Work for a GPU would be given to workers without one."""
    with cluster(tmp_path) as running:
        preload = LOGGED.format(log=str(tmp_path / "log"), seconds=0)
        running.add_worker(preload=preload)
        running.add_worker("--resources", "GPU=1", preload=preload)
        embed(on(many, running, resources="GPU=1"), run_id="r")
        assert {process for process, _ in log_of(running)} == {str(running.workers[1].pid)}
        with pytest.raises(EngineError, match=r"has no worker that offers TPU=1. Start one: .*--resources \"TPU=1\""):
            embed(on(dataclasses.replace(many, store="other"), running, resources="TPU=1", patience_seconds=1), run_id="r")


def test_a_head_that_a_worker_has_not_is_named(project, workers, tmp_path):
    """Scoring would fail on the cluster with a traceback of another machine."""
    settings = elsewhere(project, tmp_path)
    planned = plan(on(settings, workers), partitions=[LABEL], run_id="r")
    embed_plan(planned)
    from robert_pipeline.stages import pipeline
    from robert_pipeline.stages.scoring import ScoreJob

    job = ScoreJob(store=settings.store, model="/nowhere", head_fingerprint="f", key=planned.job.key, run_id="r")
    with pytest.raises(ModelError, match=r"Dask worker tcp://\S+: "):
        pipeline.score_shards([], job, planned.engine)


KILLER = """
from robert_pipeline.stages import embedding
import os
embedding.read_unit = lambda *_: os._exit(1)
"""


def test_a_unit_that_kills_its_workers_is_an_error_not_a_loop(many, tmp_path):
    """A document that is too large for a worker would bring down one worker after the other."""
    with cluster(tmp_path) as running:
        for _ in range(4):
            running.add_worker(preload=KILLER)
        until(lambda: True)
        with pytest.raises(EngineError, match=r"4 Dask workers died over the same unit|has had no worker"):
            embed(on(many, running, patience_seconds=5), run_id="r")
