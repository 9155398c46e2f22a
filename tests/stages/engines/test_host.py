"""Engines by their names: what each is given, and what is said where one is not to be had."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robert_pipeline.engine import Engine
from robert_pipeline.errors import ConfigError, EngineError
from robert_pipeline.runs.plan import plan
from robert_pipeline.stages.engines import LocalHost, open_host
from robert_pipeline.stages.engines.dask_local import Place, share_out
from robert_pipeline.stages.engines.portable import PortableHost
from robert_pipeline.stages.fitness import check_embedder, marked
from robert_pipeline.stages.pipeline import embed_pipeline, embedding_host, run
from robert_pipeline.storage.store import open_store
from tests.clusters import until
from tests.projects import LABEL, elsewhere


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"name": "ray"}, "engine.name is 'ray'. Give local, dask, dask://host:port"),
        ({"name": "dask://scheduler"}, "engine.name is 'dask://scheduler'"),
        ({"name": "flink", "options": ("parallelism=2",)}, "engine.options has 'parallelism=2'. Write it as Beam does"),
        ({"name": "local", "options": ("--password=x",)}, "engine.options holds a password"),
        ({"name": "local", "workers": 2}, "engine.workers is 2 for engine 'local'"),
        ({"name": "dask", "workers": 0}, "engine.workers is 0"),
        ({"name": "dask", "resources": "GPU=1"}, "engine.resources is 'GPU=1' for engine 'dask'"),
        ({"name": "dask://s:1", "resources": "GPU"}, "engine.resources is 'GPU'"),
        ({"patience_seconds": 0}, "engine.patience_seconds is 0"),
    ],
)
def test_a_wrong_engine_is_refused_by_field(wrong, text):
    """A misspelt engine would be found out after planning, or run something else."""
    with pytest.raises(ConfigError, match=re.escape(text)):
        Engine(**wrong)


def test_local_is_named_and_takes_options():
    """Beam's default runner tries to download another one, and hangs where it cannot."""
    with open_host(Engine(options=("--direct_num_workers=3",))) as host:
        assert isinstance(host, LocalHost)
        assert type(host.runner).__name__ == "FnApiRunner"
        assert host.options.get_all_options()["direct_num_workers"] == 3


@pytest.mark.parametrize(
    ("name", "runner", "option", "value"),
    [
        ("flink", "FlinkRunner", "flink_master", "[auto]"),
        ("flink://{}", "FlinkRunner", "flink_master", "http://{}"),
        ("spark://{}", "SparkRunner", "spark_master_url", "spark://{}"),
        ("portable://{}", "PortableRunner", "job_endpoint", "{}"),
    ],
)
def test_a_portable_engine_gets_its_address_and_its_options(name, runner, option, value, unused_tcp):
    """A job would go to another cluster, or lose the options that it was given."""
    host = PortableHost(Engine(name=name.format(unused_tcp), options=("--parallelism=7", "--job_name=mine")))
    known = host.options.get_all_options()
    assert type(host.runner).__name__ == runner
    assert known[option] == value.format(unused_tcp)
    assert known["job_name"] == "mine"
    assert "7" in str(known["parallelism"])
    assert known["pickle_library"] == "cloudpickle"


@pytest.fixture
def unused_tcp():
    """host:port of something that listens."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_nothing_listens():
    """A typing error would be a stack of Java or of gRPC."""
    with pytest.raises(EngineError, match=r"nothing answers at flink://127\.0\.0\.1:1: Connection refused\. Start the"):
        PortableHost(Engine(name="flink://127.0.0.1:1"))


def test_a_job_service_that_exists_runs_the_pipeline(project, tmp_path):
    """No portable engine would run at all: this is the way to every one of them, with Beam's own job service."""
    place = tmp_path / "port"
    service = subprocess.Popen(
        [sys.executable, "-m", "apache_beam.runners.portability.local_job_service_main", f"--port_file={place}"],
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: place.exists() and place.read_text(), seconds=200)
        engine = Engine(name=f"portable://127.0.0.1:{place.read_text()}", options=("--environment_type=LOOPBACK",))
        planned = plan(elsewhere(project, tmp_path), partitions=[LABEL], run_id="r")
        with embedding_host(engine, planned.job) as host:
            run(embed_pipeline(planned.missing, planned.job, host), host)
        assert not plan(elsewhere(project, tmp_path), partitions=[LABEL], run_id="r").missing
    finally:
        service.kill()
        service.wait()


machines = st.tuples(st.integers(1, 64), st.integers(0, 8), st.none() | st.integers(1, 80))


@given(machines)
def test_every_worker_has_a_part_of_the_machine(machine):
    """Two workers would fight over a core or a GPU while another lies idle."""
    core_count, device_count, workers = machine
    places = share_out(list(range(core_count)), [str(i) for i in range(device_count)], workers)
    assert len(places) == (workers or device_count or core_count)
    assert all(place.cores for place in places)
    if len(places) <= core_count:
        assert sorted(core for place in places for core in place.cores) == list(range(core_count))
    if 0 < len(places) <= device_count:
        assert len({place.device for place in places}) == len(places)


def test_a_worker_of_this_machine_is_told_its_part():
    """Every worker would take all GPUs, or start as many threads as the machine has cores."""
    told = Place(cores=(2, 3), device="1").environment
    assert told["CUDA_VISIBLE_DEVICES"] == "1"
    assert told["OMP_NUM_THREADS"] == told["RAYON_NUM_THREADS"] == "2"
    assert "CUDA_VISIBLE_DEVICES" not in Place(cores=(0,)).environment


def test_a_store_of_its_own_is_not_the_run_s(project, tmp_path):
    """A worker would write to a disk that nobody reads, and hours of work would be lost."""
    settings = elsewhere(project, tmp_path)
    job = plan(settings, partitions=[LABEL], run_id="r").job
    with marked(job.store, "r") as mark:
        check_embedder(job, mark)
        assert not open_store(job.store).files.list()
    with pytest.raises(Exception, match=r"store \S+ there is not the one of this run\. Give a store that all"):
        check_embedder(job, mark)
