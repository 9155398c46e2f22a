"""Settings from options and `robert.toml`: who wins, what a path is relative to, and what is refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from robert_pipeline.config import Chunking, Columns, EncoderSource, Settings, Warehouse
from robert_pipeline.core.origin import VectorOrigin
from robert_pipeline.errors import ConfigError, ModelError
from robert_pipeline.storage import heads
from robert_pipeline.storage.settings import load_settings


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Each test has a current folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def complaint(toml=None, **given):
    """What is said about a robert.toml and some options; dots in option names are written as __."""
    if toml is not None:
        Path("robert.toml").write_text(toml)
    with pytest.raises(ConfigError) as raised:
        load_settings({name.replace("__", "."): value for name, value in given.items()})
    assert raised.value.fix
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_without_options_and_file_the_defaults_hold():
    """A first call would ask for settings that have a good default."""
    assert load_settings({}) == Settings()


def test_options_win_over_the_file_and_the_file_over_the_defaults():
    """What was typed for this one run would be ignored."""
    Path("robert.toml").write_text('store = "s"\n[chunking]\nchunk_tokens = 100\noverlap_tokens = 7\n')
    settings = load_settings({"corpus": "c", "chunking.chunk_tokens": 64, "encoder.pooling": None, "store": None})
    assert settings == Settings(corpus="c", store="s", chunking=Chunking(chunk_tokens=64, overlap_tokens=7))


def test_every_setting_can_be_given_in_the_file():
    """A setting would exist in Python only."""
    Path("robert.toml").write_text("""
        corpus = "s3://bucket/corpus"
        store = "gs://bucket/store"
        model = "/models/m"
        [warehouse]
        uri = "/warehouse"
        namespace = "n"
        [encoder]
        name = "bert-base-uncased"
        revision = "main"
        pooling = "cls"
        precision = "float32"
        [columns]
        doc_id = "id"
        text = "body"
        label = "class"
        [chunking]
        max_chunks = 3
        [embedding]
        unit_bytes = 1000
        vector_dtype = "float32"
    """)
    settings = load_settings({})
    assert settings.corpus == "s3://bucket/corpus"
    assert settings.store == "gs://bucket/store"
    assert settings.model == "/models/m"
    assert settings.warehouse == Warehouse(uri="/warehouse", namespace="n")
    assert settings.encoder == EncoderSource(
        name="bert-base-uncased", revision="main", pooling="cls", precision="float32"
    )
    assert settings.columns == Columns(doc_id="id", text="body", label="class")
    assert settings.chunking == Chunking(max_chunks=3)
    assert (settings.embedding.unit_bytes, settings.embedding.vector_dtype) == (1000, "float32")


def test_paths_in_a_file_are_relative_to_it_and_options_to_the_current_folder(folder):
    """A robert.toml that is used from another folder would make a second store there."""
    place = folder / "project" / "robert.toml"
    (place.parent / "encoder").mkdir(parents=True)
    place.write_text('corpus = "c"\nstore = "../s"\nmodel = "~/m"\nwarehouse.uri = "w"\nencoder.name = "encoder"\n')
    settings = load_settings({"corpus": "here"}, file=place)
    assert settings.corpus == "here"
    assert settings.store == str(folder / "project/../s")
    assert settings.model == str(Path("~/m").expanduser())
    assert settings.warehouse.uri == str(folder / "project" / "w")
    assert settings.encoder.name == str(place.parent / "encoder")


def test_an_encoder_s_folder_is_absolute_and_a_hub_name_is_left_alone(folder):
    """A head would remember an encoder that is found from one folder only, or a hub name would become a path."""
    (folder / "bert").mkdir()
    assert load_settings({"encoder.name": "bert"}).encoder.name == str(folder / "bert")
    assert load_settings({"encoder.name": "google/bert"}).encoder.name == "google/bert"


def test_a_file_that_was_named_must_exist(folder):
    """A mistyped file would be replaced by the defaults."""
    with pytest.raises(ConfigError, match=r"settings file .*nope\.toml does not exist"):
        load_settings({}, file=folder / "nope.toml")


@pytest.mark.parametrize(
    ("toml", "problem"),
    [
        ('corpus = "x', "robert.toml is not TOML: "),
        ("corpus = 'x'\ncorpus = 'y'", "robert.toml is not TOML: "),
        ("corpu = 'x'", "robert.toml: there is no setting 'corpu'. Known here: corpus, store, "),
        ("[chunking]\ntokens = 1", "robert.toml: there is no setting 'chunking.tokens'. Known here: chunk_tokens, "),
        ("corpus = 1", "robert.toml: setting 'corpus' is 1. "),
        ("corpus = ''", "robert.toml: setting 'corpus' is empty"),
        ("warehouse.uri = ' '", "robert.toml: setting 'warehouse.uri' is empty"),
        ("encoder = 'x'", "robert.toml: setting 'encoder' is 'x'. Write it as a table, [encoder]"),
        ("chunking.chunk_tokens = 'many'", "robert.toml: setting 'chunking.chunk_tokens' is 'many'. "),
        ("encoder.pooling = 'max'", "robert.toml: setting 'encoder.pooling' is 'max'. Input should be 'auto', 'cls', "),
        ("chunking.chunk_tokens = 10", "chunking.overlap_tokens is 50"),
    ],
)
def test_a_wrong_file_is_named_with_the_field(toml, problem):
    """A typing error in robert.toml would be ignored, or shown as a traceback."""
    assert complaint(toml).startswith(problem)


def test_a_file_that_is_no_text_is_named(folder):
    """A damaged robert.toml would be a traceback; a folder of that name would be passed over."""
    (folder / "robert.toml").write_bytes(b"\xff\xfe")
    assert complaint().startswith("robert.toml is not TOML: ")
    (folder / "robert.toml").unlink()
    (folder / "robert.toml").mkdir()
    assert complaint().startswith("robert.toml cannot be read: ")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"corpus": ""}, "setting 'corpus' is empty"),
        ({"store": ""}, "setting 'store' is empty"),
        ({"encoder__name": ""}, "setting 'encoder.name' is empty"),
        ({"encoder__precision": "int8"}, "setting 'encoder.precision' is 'int8'. Input should be 'auto', "),
        ({"columns__text": ""}, "columns.text is empty"),
        ({"columns__text": "doc_id"}, "columns.doc_id and columns.text are both 'doc_id'"),
    ],
)
def test_a_wrong_option_is_named(given, problem):
    """An empty shell variable would make a store in the current folder; a wrong word would be taken for the default."""
    assert complaint(**given).startswith(problem)
    assert complaint("[head]\nhidden = 7\n", **given).startswith(problem)  # not the file's mistake


def test_an_option_in_a_table_that_the_file_writes_as_a_value_is_refused():
    """The traceback would hide which line of the file is wrong."""
    assert complaint("encoder = 'x'", encoder__name="y") == (
        "robert.toml: setting 'encoder' is 'x'. Write it as a table, [encoder]"
    )


def test_a_head_brings_its_encoder_and_chunking_unless_others_are_named(monkeypatch):
    """Whoever labels would have to know with which options the head was trained."""
    origin = VectorOrigin(
        encoder=EncoderSource(name="his/encoder"), encoder_fingerprint="f", chunking=Chunking(chunk_tokens=64)
    )
    monkeypatch.setattr(heads, "load_head", {"m": SimpleNamespace(origin=origin)}.__getitem__)
    like = load_settings({"model": "m"}, like_head=True)
    assert (like.encoder, like.chunking) == (origin.encoder, origin.chunking)
    assert load_settings({"model": "m"}).encoder == EncoderSource()
    named = load_settings({"model": "m", "encoder.name": "mine"}, like_head=True)
    assert (named.encoder.name, named.chunking) == ("mine", origin.chunking)
    Path("robert.toml").write_text("chunking.chunk_tokens = 99\n")
    named = load_settings({"model": "m"}, like_head=True)
    assert (named.encoder, named.chunking.chunk_tokens) == (origin.encoder, 99)


def test_a_head_that_is_not_there_is_named():
    """Labelling without a head would go on with the default encoder."""
    with pytest.raises(ModelError, match=r"there is no trained head at m/head\.json"):
        load_settings({"model": "m"}, like_head=True)


def test_engine_options_come_from_the_file_or_from_repeated_options(tmp_path):
    """What an engine is to be given would be refused as no text, or lost."""
    file = tmp_path / "robert.toml"
    file.write_text('[engine]\nname = "flink://host:8081"\noptions = ["--parallelism=8"]\n')
    assert load_settings({}, file=file).engine.options == ("--parallelism=8",)
    given = load_settings({"engine.name": "dataflow", "engine.options": ["--region=x", "--job_name=y"]}, file=file)
    assert (given.engine.name, given.engine.options) == ("dataflow", ("--region=x", "--job_name=y"))
