"""A real scheduler and real workers: the same table, deaths that cost little, and an end that always comes."""

import contextlib
import dataclasses
import os
import random
import threading
from collections import Counter
from pathlib import Path

import distributed
import pyarrow as pa
import pytest

from robert_pipeline.config import Embedding
from robert_pipeline.engine import Engine
from robert_pipeline.errors import EncoderError, EngineError, ModelError
from robert_pipeline.runs.embed import embed
from robert_pipeline.runs.label import label
from robert_pipeline.runs.outcome import partition_outcome
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.score import score
from robert_pipeline.stages.engines.dask_local import local_cluster, machine_cores, share_out
from robert_pipeline.stages.pipeline import score_shards
from robert_pipeline.stages.progress import listening
from robert_pipeline.stages.scoring import ScoreJob
from robert_pipeline.storage.store import open_store
from tests.clusters import LOGGED, cluster, until
from tests.corpora import shard_rows, write_texts
from tests.projects import LABEL, REJECTED, WORDS, elsewhere

# A busy machine takes minutes to start a dozen processes that import torch and Beam.
pytestmark = pytest.mark.timeout(900)

UNITS = 24
STAMPED = ["run_id", "scored_at"]

LACKING = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "robert_pipeline":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
"""
OTHER = "import robert_pipeline\nrobert_pipeline.__version__ = '0.0.9'"
LATE = (
    "import sys, time\nif not hasattr(sys, 'now'):\n    sys.now = time.time\n    time.time = lambda: sys.now() - 3600"
)
BLIND = """
from pathlib import Path
if not hasattr(Path, "is_really_dir"):
    Path.is_really_dir = Path.is_dir
    Path.is_dir = lambda self: False if self.name == "tiny" else self.is_really_dir()
"""
TOGETHER = """
import threading
from robert_pipeline.stages import pipeline
if not hasattr(pipeline, "unmet"):
    pipeline.unmet = pipeline.embed_unit
    met = threading.Barrier(3)
def embed_unit(*arguments, **more):
    met.wait(60)  # raises where the two others do not come
    return pipeline.unmet(*arguments, **more)
pipeline.embed_unit = embed_unit
"""
DEADLY = "import os\nfrom robert_pipeline.stages import embedding\nembedding.read_unit = lambda *_: os._exit(1)"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """One scheduler and all kinds of workers, told apart by what they offer: a run takes only those it asks for."""
    folder = tmp_path_factory.mktemp("cluster")
    with cluster(folder) as started:
        for name in ("sound", "sound", "spare"):
            preload = LOGGED.format(log=str(folder / "log"), seconds=0.05)
            started.kinds[name].append(started.add_worker("--resources", f"{name}=1", preload=preload))
        started.add_worker("--nthreads", "3", "--resources", "wide=3", preload=TOGETHER)
        faults = {"lacking": LACKING, "other": OTHER, "late": LATE, "blind": BLIND}
        for name, preload in (*faults.items(), ("deadly", DEADLY), ("deadly", DEADLY)):
            started.add_worker("--resources", f"{name}=1", preload=preload)
        yield started


@pytest.fixture
def many(project, tmp_path):
    """A partition of as many units as documents, none of them embedded."""
    chosen = random.Random(1)  # noqa: S311 - not for secrets
    words = [word for kind in WORDS.values() for word in kind]
    texts = [" ".join(chosen.choices(words, k=50)) for _ in range(UNITS)]
    write_texts(tmp_path / "corpus" / "day=1" / "a.parquet", texts)
    settings = dataclasses.replace(elsewhere(project, tmp_path), corpus=str(tmp_path / "corpus"))
    return dataclasses.replace(settings, embedding=Embedding(unit_bytes=1))


def on(settings, running, kind, *, patience_seconds=400):
    """The same settings on workers of one kind."""
    engine = Engine(name=running.engine_name, resources=f"{kind}=1", patience_seconds=patience_seconds)
    return dataclasses.replace(settings, engine=engine)


def rows(settings):
    """The outcome of the partition to label: predictions and rejects, without who made them and when."""
    planned = plan(settings, partitions=[LABEL], run_id="look")
    outcome = partition_outcome(planned, planned.partitions[0], score(planned, model=settings.model).head_fingerprint)
    table = pa.Table.from_batches(list(outcome.predictions()))
    return table.drop_columns(STAMPED).to_pylist(), outcome.rejects.drop_columns(["run_id", "rejected_at"]).to_pylist()


@contextlib.contextmanager
def then(condition, act):
    """While the block runs, wait for something and act on it."""
    thread = threading.Thread(target=lambda: (until(condition), act()))
    thread.start()
    try:
        yield
    finally:
        thread.join()


def log_of(running):
    """(process, unit) of everything that was embedded."""
    place = running.folder / "log"
    return [tuple(line.split()) for line in place.read_text().splitlines()] if place.exists() else []


def test_the_table_is_the_local_one(project, running, tmp_path):
    """Another engine would give other labels, lose rows, or lose its rejects; a bad row would stop the cluster."""
    small = dataclasses.replace(elsewhere(project, tmp_path / "a"), embedding=Embedding(unit_bytes=200))
    there = on(dataclasses.replace(elsewhere(small, tmp_path / "b")), running, "sound")
    for settings in (small, there):
        planned = plan(settings, partitions=[LABEL], run_id="r")
        assert len(planned.missing) > 3
        label(settings, planned)
    predictions, rejects = rows(there)
    assert (predictions, rejects) == rows(small)
    assert len(predictions) == 5
    assert {row["doc_id"]: row["reason"] for row in rejects} == REJECTED


def test_work_is_shared_and_progress_is_heard(many, running):
    """One worker would do everything while the others wait, or the bar would stand still until the end."""
    heard = []
    before = len(log_of(running))
    with listening(heard.append):
        report = embed(on(many, running, "sound"), run_id="shared")
    done = Counter(process for process, _ in log_of(running)[before:])
    assert report.counts.documents == UNITS
    # Neither more nor fewer than the two that offer what was asked for.
    assert set(done) == {str(worker.pid) for worker in running.kinds["sound"]}
    assert min(done.values()) >= UNITS // 4
    assert sum(event.documents for event in heard) == UNITS


def test_a_worker_of_three_threads_has_three_units_under_way(many, running):
    """A GPU would wait while its only unit is read and written; or units beside each other would mix their rows."""
    embed(many, run_id="r")
    there = on(elsewhere(many, Path(many.store).parent / "wide"), running, "wide")
    embed(there, run_id="r")
    wide, local = plan(there, run_id="look"), plan(many, run_id="look")
    units = local.partitions[0].units
    assert len(units) == UNITS
    for unit in units:
        assert shard_rows(wide.job, unit) == shard_rows(local.job, unit)


def test_a_killed_worker_costs_only_what_it_was_doing(many, running):
    """A lost machine would cost hours of finished work, or the run. One worker is left for the tests below."""
    victim, _ = running.kinds["sound"]
    before = len(log_of(running))
    with then(lambda: len(log_of(running)) > before + UNITS // 3, victim.kill):
        report = embed(on(many, running, "sound"), run_id="killed")
    log = log_of(running)[before:]
    assert victim.wait() == -9
    assert report.counts.embedded == UNITS
    assert {process for process, _ in log} == {str(worker.pid) for worker in running.kinds["sound"]}
    assert len(log) <= UNITS + 1


def test_without_workers_a_run_ends_and_a_later_one_finishes(many, running):
    """A run would hang for ever, and a schedule with it."""
    settings = on(many, running, "sound", patience_seconds=5)
    before = len(log_of(running))
    with (
        then(lambda: len(log_of(running)) > before + 3, running.kinds["sound"][1].kill),
        pytest.raises(EngineError, match=r"has had no worker that offers sound=1 for 5 s\. Start workers and run"),
    ):
        embed(settings, run_id="alone")
    left = len(plan(settings, run_id="look").missing)
    assert 0 < left <= UNITS - 3
    report = embed(on(many, running, "spare"), run_id="again")
    assert (report.embedded_unit_count, report.counts.embedded) == (left, UNITS)
    with pytest.raises(EngineError, match=r"no worker that offers sound=1\. Start one: .*--resources \"sound=1\""):
        embed(dataclasses.replace(settings, store=settings.store + "2"), run_id="r")


@pytest.mark.parametrize(
    ("kind", "raised", "text"),
    [
        ("lacking", EngineError, r"Dask worker tcp://127\.0\.0\.\d:\d+ has no robert_pipeline \(here 0\.1\.0\)\. "),
        ("other", EngineError, r"Dask worker tcp://\S+ has robert_pipeline 0\.0\.9 \(here 0\.1\.0\)\. "),
        ("late", EngineError, r"the clock of Dask worker tcp://\S+ is 3,\d\d\d s slow\. "),
        ("blind", EncoderError, r"Dask worker tcp://\S+: encoder \S+tiny is not a folder\. "),
    ],
)
def test_an_unfit_worker_is_named_before_any_work(many, running, kind, raised, text):
    """Rows would come from another release, bear a wrong time, or the run would end in another machine's traceback."""
    with pytest.raises(raised, match=text):
        embed(on(many, running, kind), run_id="r")
    assert not open_store(many.store).files.list()


def test_a_head_that_a_worker_has_not_is_named(project, running, tmp_path):
    """Scoring would fail on the cluster with a traceback of another machine."""
    settings = on(elsewhere(project, tmp_path), running, "spare")
    job = ScoreJob(
        store=settings.store,
        model="/nowhere",
        head_fingerprint="f",
        key=plan(settings, run_id="r").job.key,
        run_id="r",
    )
    with pytest.raises(ModelError, match=r"Dask worker tcp://\S+: .*/nowhere"):
        score_shards([], job, settings.engine)


def test_a_unit_that_kills_its_workers_is_an_error_and_not_a_loop(many, running):
    """A document that is too large for a worker would bring down one worker after the other, for ever."""
    with pytest.raises(EngineError, match=r"2 Dask workers died over the same unit, .* Most often it is memory"):
        embed(on(many, running, "deadly"), run_id="r")


def test_a_cluster_of_this_machine_keeps_workers_apart_and_works(many):
    """Workers would fight over cores, or the way to use several GPUs of one machine would not work at all."""
    cores = machine_cores()
    with local_cluster(2, patience_seconds=400) as address, distributed.Client(address, set_as_default=False) as client:
        found = client.run(lambda: (sorted(os.sched_getaffinity(0)), os.environ["OMP_NUM_THREADS"]))
        places = share_out(cores, [], 2)
        assert sorted(found.values()) == sorted((list(place.cores), str(len(place.cores))) for place in places)
        engine = Engine(name=address.replace("tcp://", "dask://"), patience_seconds=400)
        assert embed(dataclasses.replace(many, engine=engine), run_id="own").counts.embedded == UNITS


def test_the_largest_are_begun_first(many, tmp_path):
    """Everybody would wait at the end for the worker that found a 50 MB document among the last units."""
    large = " ".join(word for kind in WORDS.values() for word in kind) * 50
    texts = [f"{number} {'goal ' * (7 * number % UNITS + 1)}" for number in range(UNITS)]
    write_texts(Path(many.corpus) / "day=1" / "a.parquet", [*texts, large])
    units = plan(many, run_id="look").missing
    size = {unit.unit_id: unit.text_bytes for unit in units}
    assert max(size.values()) == len(large)
    with cluster(tmp_path) as started:
        for _ in range(2):
            started.add_worker(preload=LOGGED.format(log=str(tmp_path / "log"), seconds=0.2))
        engine = Engine(name=started.engine_name, patience_seconds=400)
        embed(dataclasses.replace(many, engine=engine), run_id="large")
        begun = [size[unit] for _, unit in log_of(started)]
    assert sorted(begun) == sorted(size.values())
    # Dask gives each of the two workers two units before it looks at the order.
    assert len(large) in begun[:6]
    rest = [text_bytes for text_bytes in begun[4:] if text_bytes != len(large)]
    assert sum(rest[:8]) > 2 * sum(rest[-8:])


def test_no_scheduler_at_the_address(many):
    """A typing error in the address would look like a hang or a traceback."""
    engine = Engine(name="dask://127.0.0.1:1", patience_seconds=1)
    with pytest.raises(EngineError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1 within 1 s"):
        embed(dataclasses.replace(many, engine=engine), run_id="r")


def test_a_scheduler_that_goes_away_is_named(many, running):
    """A run would hang for ever on a scheduler that was taken down. The last test: nothing works after it."""
    before = len(log_of(running))
    with (
        then(lambda: len(log_of(running)) > before + 3, running.scheduler.kill),
        pytest.raises(EngineError, match=r"scheduler at tcp://\S+ does not answer any more"),
    ):
        embed(on(many, running, "spare", patience_seconds=5), run_id="gone")
