"""The pipelines' shape, which engines rely on, and what comes back through an engine."""

import dataclasses
import inspect
import pickle
import subprocess
import sys

import pytest

from robert_pipeline import errors
from robert_pipeline.errors import RobertError
from robert_pipeline.runs.plan import plan
from robert_pipeline.stages import pipeline as stages
from robert_pipeline.stages.engine import beam
from robert_pipeline.stages.pipeline import embed_pipeline, run, score_pipeline
from robert_pipeline.stages.scoring import ScoreJob, ShardName
from robert_pipeline.storage.store import open_store
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


def transforms(pipeline):
    """Every leaf transform of a pipeline, in order."""

    class Collect(beam.pipeline.PipelineVisitor):
        def visit_transform(self, node):
            found.append(node)

    found = []
    pipeline.visit(Collect())
    return found


@pytest.mark.parametrize("kind", ["embed", "score"])
def test_a_pipeline_is_one_source_and_one_leaf(planned, score_job, kind):
    """Engines that lose rows at tags, side inputs, state or shuffles would lose ours, and report success."""
    units = planned.missing
    pipeline = (
        embed_pipeline(units, planned.job)
        if kind == "embed"
        else score_pipeline([ShardName(partition=LABEL, unit_id=unit.unit_id) for unit in units], score_job)
    )
    nodes = transforms(pipeline)
    works = [
        node for node in nodes if isinstance(getattr(node.transform, "fn", None), stages.EmbedUnit | stages.ScoreShard)
    ]
    (work,) = works
    assert not any(work.outputs[None] in node.inputs for node in nodes)
    assert list(work.outputs) == [None]
    assert not work.side_inputs
    source = {"embed": "Units", "score": "Shards"}[kind]
    assert all(node is work or node.full_label.startswith(f"{source}/") for node in nodes)
    proto = pipeline.to_runner_api()
    payloads = [
        node.spec for node in proto.components.transforms.values() if node.spec.urn == "beam:transform:pardo:v1"
    ]
    for spec in payloads:
        parsed = beam.portability.api.beam_runner_api_pb2.ParDoPayload.FromString(spec.payload)
        assert not parsed.state_specs
        assert not parsed.timer_family_specs


@pytest.mark.parametrize("work", [stages.EmbedUnit, stages.ScoreShard])
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
    run(embed_pipeline(planned.missing, planned.job))
    store = open_store(planned.job.store)
    paths = {store.embedding_path(planned.job.key, LABEL, unit.unit_id) for unit in planned.missing}
    assert paths == {entry.path for entry in store.files.list("embeddings")}


@pytest.mark.parametrize("kind", RobertError.__subclasses__(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("where", ["setup", "process"])
def test_a_worker_s_error_comes_back_as_it_was(planned, monkeypatch, kind, where):
    """The user would see an engine's traceback instead of the problem and its fix."""

    def fail(*_):
        raise kind("file 'x\"\n<y>' is bad", fix="Mend it")

    monkeypatch.setattr(stages, "worker_encoder" if where == "setup" else "embed_unit", fail)
    with pytest.raises(RobertError) as raised:
        run(embed_pipeline(planned.missing, planned.job))
    assert type(raised.value) is kind
    assert (raised.value.problem, raised.value.fix) == ("file 'x\"\n<y>' is bad", "Mend it")


def test_a_damaged_corpus_file_is_named_through_the_engine(project, planned, tmp_path):
    """A file that changes under a run would be reported as an error of the engine."""
    units = [
        dataclasses.replace(unit, ranges=(dataclasses.replace(unit.ranges[0], revision="other"),))
        for unit in planned.missing
    ]
    with pytest.raises(errors.CorpusError, match=r"a\.parquet has changed since the run was planned"):
        run(embed_pipeline(units, planned.job))
    assert not open_store(planned.job.store).files.list()


def test_an_error_nobody_foresaw_keeps_its_cause(planned, monkeypatch):
    """A bug would be shown as a user's mistake, or hide where it is."""

    def fail(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(stages, "embed_unit", fail)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run(embed_pipeline(planned.missing, planned.job))


def test_ctrl_c_in_a_worker_stops_the_run(planned, monkeypatch):
    """Ctrl-C would be reported as an error, and the run would not be called stopped."""

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "embed_unit", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(embed_pipeline(planned.missing, planned.job))


def test_importing_the_engine_says_nothing_and_leaves_logging_alone():
    """Every run would warn of clouds that nobody uses, and other libraries' log lines would start to show."""
    code = (
        "import logging; import robert_pipeline.stages.pipeline; "
        "assert logging.root.handlers == [] and logging.root.manager.disable == 0; "
        "logging.getLogger('ours').warning('still heard')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "still heard\n")
