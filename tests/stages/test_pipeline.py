"""The pipelines' shape, which engines rely on, and what comes back through an engine."""

import dataclasses
import inspect
import pickle
import subprocess
import sys
from itertools import chain

import pytest
from apache_beam.internal import pickler
from apache_beam.portability.api import beam_runner_api_pb2 as pb2
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from robert_pipeline import errors
from robert_pipeline.engine import Engine
from robert_pipeline.errors import RobertError
from robert_pipeline.runs.plan import plan
from robert_pipeline.stages import pipeline as stages
from robert_pipeline.stages.engines import LocalHost
from robert_pipeline.stages.engines.beam import beam
from robert_pipeline.stages.pipeline import (
    embed_pipeline,
    embedding_host,
    run,
    score_pipeline,
    shared_pipeline,
    survey_pipeline,
)
from robert_pipeline.stages.scoring import ScoreJob, ShardName
from robert_pipeline.storage.shards import open_shard
from robert_pipeline.storage.store import open_store
from robert_pipeline.types import SharedTexts
from tests.projects import LABEL, elsewhere


@pytest.fixture
def planned(project, tmp_path):
    """The partition to label, in several units, none of them embedded."""
    settings = elsewhere(project, tmp_path)
    embedding = dataclasses.replace(settings.embedding, unit_bytes=300)
    return plan(dataclasses.replace(settings, embedding=embedding), partitions=[LABEL], run_id="r")


@pytest.fixture
def score_job(planned):
    return ScoreJob(store=planned.job.store, model="nowhere", head_fingerprint="f", key=planned.job.key, run_id="r")


def embed_units(units, job, engine):
    """Embed on an engine, without looking for shared texts first."""
    with embedding_host(engine, job) as host:
        run(embed_pipeline(units, job, host), host)


def faults(pipeline):
    """What a pipeline's graph holds that some engine loses rows with, or that would send documents through it."""
    proto = pipeline.to_runner_api()
    nodes = proto.components.transforms
    pardos = {
        name: pb2.ParDoPayload.FromString(node.spec.payload)
        for name, node in nodes.items()
        if node.spec.urn == "beam:transform:pardo:v1"
    }
    works = [name for name in pardos if _source_of(nodes[name].unique_name) is None]
    read = {pcollection for node in nodes.values() for pcollection in node.inputs.values()}
    found = []
    if len([name for name in works if not set(nodes[name].outputs.values()) & read]) != 1:
        found.append("not one leaf")
    for name, payload in pardos.items():
        if len(nodes[name].outputs) > 1:
            found.append("tags")
        if payload.state_specs or payload.timer_family_specs:
            found.append("state")
        if payload.side_inputs:
            found.append("side inputs")
        if name in works and _emits_late(payload):
            found.append("finish_bundle")
    made = {pcollection for name in works for pcollection in nodes[name].outputs.values()}
    for node in nodes.values():
        if node.spec.urn == "beam:transform:group_by_key:v1" and (
            _source_of(node.unique_name) is None or made & set(node.inputs.values())
        ):
            found.append("a shuffle")
        if "Write" in node.unique_name.rpartition("/")[2]:
            found.append("a file sink")
    return sorted(set(found))


def _source_of(name):
    """The source that a transform is part of, if any: Beam makes several of one, with a shuffle of descriptors."""
    first = name.partition("/")[0]
    return first if first in ("Units", "SharedTexts", "Shards") else None


def _emits_late(payload):
    return type(pickler.loads(payload.do_fn.payload)[0]).finish_bundle is not beam.DoFn.finish_bundle


@pytest.mark.parametrize("kind", ["survey", "shared", "embed", "score"])
def test_a_pipeline_holds_nothing_that_engines_lose_rows_with(planned, score_job, kind):
    """Engines that lose rows at tags, side inputs, state or shuffles would lose ours, and report success."""
    units = planned.missing
    pipeline = {
        "survey": lambda host: survey_pipeline(units, planned.job, host),
        "shared": lambda host: shared_pipeline([SharedTexts(picks=((units[0], (0,)),))], planned.job, host),
        "embed": lambda host: embed_pipeline(units, planned.job, host),
        "score": lambda host: score_pipeline([ShardName(partition=LABEL, unit_id="u")], score_job, host),
    }[kind](LocalHost())
    assert faults(pipeline) == []


class Tagging(beam.DoFn):
    def process(self, element):
        yield beam.pvalue.TaggedOutput("other", element)


class Remembering(beam.DoFn):
    seen = ReadModifyWriteStateSpec("seen", beam.coders.BytesCoder())

    def process(self, element, seen=beam.DoFn.StateParam(seen)):  # noqa: B008 - Beam's way
        yield element


class Late(beam.DoFn):
    def process(self, element):
        pass

    def finish_bundle(self):
        yield beam.utils.windowed_value.WindowedValue(1, 0, ())


@pytest.mark.parametrize(
    ("build", "fault"),
    [
        (lambda units: units | beam.ParDo(Tagging()).with_outputs("other", main="main"), "tags"),
        (lambda units: units | beam.Map(lambda unit: (unit, 1)) | beam.ParDo(Remembering()), "state"),
        (lambda units: units | beam.ParDo(Late()), "finish_bundle"),
        (lambda units: (units | "a" >> beam.Map(str), units | "b" >> beam.Map(str)), "not one leaf"),
        (lambda units: units | beam.Map(str) | beam.Reshuffle() | "b" >> beam.Map(str), "a shuffle"),
        (lambda units: units | beam.Map(str) | beam.io.WriteToText("nowhere"), "a file sink"),
        (lambda units: units | beam.Map(lambda unit, n: n, beam.pvalue.AsList(units)), "side inputs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_such_construct_would_be_found(build, fault):
    """The test above could not fail."""
    pipeline = beam.Pipeline(runner=LocalHost().runner, options=LocalHost().options)
    build(pipeline | "Units" >> beam.Create([1, 2]))
    assert fault in faults(pipeline)


def test_the_largest_unit_is_begun_first(planned, monkeypatch):
    """A unit of one huge document, begun last, would keep one worker busy while all others wait."""
    begun = []
    monkeypatch.setattr(stages, "_pipeline", lambda _, handed, *others: begun.extend(chain.from_iterable(handed)))
    embed_pipeline(planned.missing, planned.job, LocalHost())
    sizes = [unit.text_bytes for unit in begun]
    assert sizes == sorted(sizes, reverse=True)
    assert set(begun) == set(planned.missing)


@pytest.mark.parametrize("work", [stages.EmbedUnits, stages.ScoreShard])
def test_a_dofn_loads_in_setup_and_works_in_process_and_nowhere_else(work):
    """Rows emitted from finish_bundle are lost on some engines; a model loaded at import slows every command."""
    own = {name for name, _ in inspect.getmembers(work, inspect.isfunction) if name in vars(work)}
    assert own == {"__init__", "setup", "process"}


def test_descriptors_are_small(planned):
    """Documents would travel through the engine instead of staying in the worker that reads them."""
    for unit in planned.missing:
        assert len(pickle.dumps(unit)) < 2_000
    assert len(pickle.dumps(planned.job)) < 2_000


def test_running_writes_every_shard_once(planned):
    """Units would be lost or done twice between the plan and the store."""
    assert len(planned.missing) > 2
    embed_units(planned.missing, planned.job, Engine())
    store = open_store(planned.job.store)
    paths = {store.embedding_path(planned.job.key, LABEL, unit.unit_id) for unit in planned.missing}
    assert paths == {entry.path for entry in store.files.list("embeddings")}


def test_several_units_at_once_write_what_one_after_the_other_does(planned, tmp_path, monkeypatch):
    """On a GPU units would share counts, rejects or rows that are not theirs."""
    shards = []
    for number, count in enumerate((1, 3)):
        monkeypatch.setattr(stages, "units_at_once", lambda _kind, count=count: count)
        job = dataclasses.replace(planned.job, store=str(tmp_path / f"store-{number}"))
        embed_units(planned.missing, job, Engine())
        files = open_store(job.store).files
        found = [open_shard(files, entry.path) for entry in files.list("embeddings")]
        shards.append({(shard.path, shard.header.counts): shard.load().file.read() for shard in found})
    one, three = shards
    assert len(planned.missing) > 2
    assert one.keys() == three.keys()
    for key, rows in one.items():
        assert three[key].drop_columns("vector").equals(rows.drop_columns("vector"))


@pytest.mark.parametrize("kind", RobertError.__subclasses__(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("where", ["setup", "process"])
def test_a_worker_s_error_comes_back_as_it_was(planned, monkeypatch, kind, where):
    """The user would see an engine's traceback instead of the problem and its fix."""

    def fail(*_, **__):
        raise kind("file 'x\"\n<y>' is bad", fix="Mend it")

    monkeypatch.setattr(stages, "worker_encoder" if where == "setup" else "embed_unit", fail)
    with pytest.raises(RobertError) as raised:
        embed_units(planned.missing, planned.job, Engine())
    assert type(raised.value) is kind
    assert (raised.value.problem, raised.value.fix) == ("file 'x\"\n<y>' is bad", "Mend it")


def test_a_damaged_corpus_file_is_named_through_the_engine(project, planned, tmp_path):
    """A file that changes under a run would be reported as an error of the engine."""
    units = [
        dataclasses.replace(unit, ranges=(dataclasses.replace(unit.ranges[0], revision="other"),))
        for unit in planned.missing
    ]
    with pytest.raises(errors.CorpusError, match=r"a\.parquet has changed since the run was planned"):
        embed_units(units, planned.job, Engine())
    assert not open_store(planned.job.store).files.list()


def test_an_error_nobody_foresaw_keeps_its_cause(planned, monkeypatch):
    """A bug would be shown as a user's mistake, or hide where it is."""

    def fail(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(stages, "embed_unit", fail)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        embed_units(planned.missing, planned.job, Engine())


def test_ctrl_c_in_a_worker_stops_the_run(planned, monkeypatch):
    """Ctrl-C would be reported as an error, and the run would not be called stopped."""

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "embed_unit", interrupt)
    with pytest.raises(KeyboardInterrupt):
        embed_units(planned.missing, planned.job, Engine())


def test_importing_the_engine_says_nothing_and_leaves_logging_alone():
    """Every run would warn of clouds that nobody uses, and other libraries' log lines would start to show."""
    code = (
        "import logging; import robert_pipeline.stages.pipeline; "
        "assert logging.root.handlers == [] and logging.root.manager.disable == 0; "
        "logging.getLogger('ours').warning('still heard')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "still heard\n")
