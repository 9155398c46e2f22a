"""Workers that share nothing but an object store: each has a disk of its own, and nothing else is in any setting."""

import contextlib
import dataclasses
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse

import pyarrow as pa
import pytest

from robert_pipeline.config import Embedding
from robert_pipeline.engine import Engine
from robert_pipeline.errors import StoreError
from robert_pipeline.runs.embed import embed
from robert_pipeline.runs.label import label
from robert_pipeline.runs.outcome import partition_outcome
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.score import score
from robert_pipeline.storage.files import Files, copy_folder
from robert_pipeline.storage.store import open_store
from tests.clusters import LOGGED, cluster, until
from tests.projects import LABEL, REJECTED, elsewhere

pytestmark = pytest.mark.timeout(900)

STAMPED = ["run_id", "scored_at"]
ENCODER = "encoder"
"""A folder of every machine, found from where its worker was started."""


OPEN_ACTIONS = 4
"""Requests before the server asks for signatures: what it takes to make an account and a bucket."""
ALL_OF_S3 = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]})


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A real S3 endpoint that checks signatures, its key in the environment; gives host and port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        host, port = free.getsockname()
    with pytest.MonkeyPatch.context() as patch, (tmp_path_factory.mktemp("s3") / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)],
            env=os.environ | {"INITIAL_NO_AUTH_ACTION_COUNT": str(OPEN_ACTIONS)},
            stdout=log,
            stderr=log,
        )
        try:
            until(lambda: _listens(host, port))
            key_id, secret = _make_account(host, port)
            patch.setenv("AWS_ACCESS_KEY_ID", key_id)
            patch.setenv("AWS_SECRET_ACCESS_KEY", secret)
            patch.setenv("AWS_REGION", "us-east-1")
            patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
            yield f"{host}:{port}"
        finally:
            server.kill()
            server.wait()


def _listens(host, port):
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def _make_account(host, port):
    """An account that may use the whole store, and an empty bucket; gives id and secret of the account's key."""
    # The server knows the account service by the scope of a signature.
    scope = {"Authorization": "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/iam/aws4_request"}
    of_user = {"Version": "2010-05-08", "UserName": "robert"}
    for action in (
        {"Action": "CreateUser"},
        {"Action": "PutUserPolicy", "PolicyName": "all", "PolicyDocument": ALL_OF_S3},
        {"Action": "CreateAccessKey"},
    ):
        answer = _ask(host, port, "POST", "/", urllib.parse.urlencode(of_user | action), scope)
    _ask(host, port, "PUT", "/bucket", "", {})
    return [re.search(f"<{name}>(.+?)</{name}>", answer)[1] for name in ("AccessKeyId", "SecretAccessKey")]


def _ask(host, port, method, path, body, headers):
    with contextlib.closing(http.client.HTTPConnection(host, port, timeout=60)) as connection:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request(method, path, body, form | headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.reason
        return answer.read().decode()


@pytest.fixture(scope="module")
def machines(tmp_path_factory, tiny_folder):
    """A folder for each machine, with its own copy of the encoder."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("here", "one", "two", "stranger")}
    for folder in folders.values():
        shutil.copytree(tiny_folder, folder / ENCODER)
    return folders


@pytest.fixture(scope="module")
def running(tmp_path_factory, machines, guarded):
    """A scheduler, two workers with disks of their own, and one with another key."""
    folder = tmp_path_factory.mktemp("cluster")
    with cluster(folder) as started:
        preload = LOGGED.format(log=str(folder / "log"), seconds=0.05)
        for name in ("one", "two"):
            started.add_worker("--resources", "sound=1", preload=preload, home=machines[name])
        started.add_worker("--resources", "strange=1", home=machines["stranger"], AWS_SECRET_ACCESS_KEY="another")
        yield started


@pytest.fixture
def shared(project, tmp_path, machines, guarded, monkeypatch):
    """The project with corpus, store and head in a bucket, seen from a machine of its own."""
    monkeypatch.chdir(machines["here"])

    def address(name):
        return f"s3://bucket/{tmp_path.name}/{name}?endpoint_override={guarded}&scheme=http"

    for name in ("corpus", "model"):
        copy_folder(Files(getattr(project, name)), Files(address(name)), "")
    return dataclasses.replace(
        elsewhere(project, tmp_path),
        corpus=address("corpus"),
        store=address("store"),
        model=address("model"),
        encoder=dataclasses.replace(project.encoder, name=ENCODER),
        embedding=Embedding(unit_bytes=200),
    )


def on(settings, running, kind="sound"):
    return dataclasses.replace(
        settings, engine=Engine(name=running.engine_name, resources=f"{kind}=1", patience_seconds=400)
    )


def rows(settings):
    """The outcome of the partition to label: predictions and rejects, without who made them and when."""
    planned = plan(settings, partitions=[LABEL], run_id="look")
    outcome = partition_outcome(planned, planned.partitions[0], score(planned, model=settings.model).head_fingerprint)
    table = pa.Table.from_batches(list(outcome.predictions()))
    return table.drop_columns(STAMPED).to_pylist(), outcome.rejects.drop_columns(["run_id", "rejected_at"]).to_pylist()


def test_the_table_is_the_local_one(project, shared, running, machines, tmp_path):
    """A cluster without a shared disk would lose what a worker wrote to its own, or find nothing to read."""
    local = dataclasses.replace(elsewhere(project, tmp_path / "local"), embedding=shared.embedding)
    there = on(shared, running)
    label(local, plan(local, partitions=[LABEL], run_id="r"))
    label(there, plan(there, partitions=[LABEL], run_id="r"))
    predictions, rejects = rows(there)
    expected, expected_rejects = rows(local)
    assert len(predictions) == 5
    assert predictions == expected
    assert {row["doc_id"]: row["reason"] for row in rejects} == REJECTED
    assert [row["doc_id"] for row in rejects] == [row["doc_id"] for row in expected_rejects]
    done = {line.split()[0] for line in (running.folder / "log").read_text().splitlines()}
    assert done == {str(worker.pid) for worker in running.workers[:2]}
    for folder in machines.values():
        assert not [path for path in folder.rglob("*") if path.suffix in (".parquet", ".tmp")]


SECONDS = 60
"""The time within which the documentation says that there is an answer."""


@pytest.fixture
def silent():
    """An address that takes connections and says nothing, as a firewall may."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(("field", "kind"), [("corpus", "unknown"), ("store", "silent")])
def test_a_bucket_that_cannot_be_reached_is_named_in_time(shared, silent, field, kind):
    """A wrong address would be a run that hangs, or a page of the SDK's."""
    endpoint = silent if kind == "silent" else "nowhere.invalid"
    settings = dataclasses.replace(shared, **{field: f"s3://bucket/gone?endpoint_override={endpoint}&scheme=http"})
    started = time.monotonic()
    with pytest.raises(
        StoreError, match=r"^cannot reach s3://bucket/gone\S*: .* Check the address, the network"
    ) as told:
        embed(settings, run_id="r")
    assert time.monotonic() - started < SECONDS
    assert "\n" not in str(told.value)


def test_a_worker_that_the_bucket_turns_away_is_named_before_any_work(shared, running):
    """Half of a cluster would fail at its first unit, with a traceback of another machine."""
    with pytest.raises(
        StoreError, match=r"^Dask worker tcp://\S+: cannot reach s3://bucket/\S+: .*ACCESS_DENIED"
    ) as told:
        embed(on(shared, running, "strange"), run_id="r")
    assert "\n" not in str(told.value)
    assert "another" not in str(told.value)
    assert not open_store(shared.store).files.list()


def test_a_bucket_that_does_not_exist_is_named(shared, guarded):
    """A typing error in the bucket would be a traceback, or a store that nobody asked for."""
    settings = dataclasses.replace(shared, store=f"s3://nobody/store?endpoint_override={guarded}&scheme=http")
    with pytest.raises(StoreError, match=r"s3://nobody/store") as told:
        embed(settings, run_id="r")
    assert "\n" not in str(told.value)
