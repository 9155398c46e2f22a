"""Encoders on disk: what is part of their identity, what is refused, and that nothing but safetensors is loaded."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import AutoTokenizer, BertConfig, BertModel, RobertaConfig, RobertaModel, T5Config, T5Model

from robert_pipeline.config import Chunking, EncoderSource
from robert_pipeline.core.token_batch import TokenBatch
from robert_pipeline.errors import ConfigError, EncoderError
from robert_pipeline.storage.encoders import identify_encoder, load_encoder

SMALL = {
    "vocab_size": 30522,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 40,
}


@pytest.fixture
def folder(tmp_path, small):
    """A copy of a small encoder, to be changed."""
    return Path(shutil.copytree(small, tmp_path / "encoder"))


@pytest.fixture(scope="module")
def small(tmp_path_factory, minilm_folder):
    """A BERT of 40 positions with everything that a checkpoint may have beside its weights."""
    place = tmp_path_factory.mktemp("encoders") / "small"
    torch.manual_seed(0)
    BertModel(BertConfig(**SMALL)).save_pretrained(place)
    AutoTokenizer.from_pretrained(minilm_folder).save_pretrained(place)
    shutil.copy(minilm_folder / "vocab.txt", place)
    write_pooling(place, pooling_mode_mean_tokens=True)
    return place


def write_pooling(folder, **modes):
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 8, **modes}))


def change_json(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def source(folder, **options):
    return EncoderSource(name=str(folder), **{"precision": "float32", **options})


def fingerprint(folder, **options):
    return identify_encoder(source(folder, **options)).fingerprint


def refusal(call, **options):
    """What is said instead of giving an identity or an encoder."""
    with pytest.raises(EncoderError) as raised:
        call(source(**options))
    assert raised.value.fix
    assert "\n" not in str(raised.value)
    return str(raised.value)


# Identity.


def flip_a_weight(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


DECIDES = {
    "a weight": flip_a_weight,
    "another file of weights": lambda f: shutil.copy(f / "model.safetensors", f / "model-2.safetensors"),
    "config.json": lambda f: change_json(f / "config.json", hidden_act="relu"),
    "tokenizer.json": lambda f: change_json(f / "tokenizer.json", version="2.0"),
    "tokenizer_config.json": lambda f: change_json(f / "tokenizer_config.json", do_lower_case=False),
    "vocab.txt": lambda f: (f / "vocab.txt").write_text("a\n"),
    "no vocab.txt": lambda f: (f / "vocab.txt").unlink(),
    "the checkpoint's pooling": lambda f: write_pooling(f, pooling_mode_cls_token=True),
}


@pytest.mark.parametrize("change", DECIDES.values(), ids=DECIDES)
def test_what_decides_a_vector_changes_the_identity(folder, change):
    """Vectors of two encoders would lie in one place of the store, and a head would be fed with both."""
    before = fingerprint(folder)
    change(folder)
    assert fingerprint(folder) != before


@pytest.mark.parametrize("options", [{"pooling": "cls"}, {"pooling": "pooler"}, {"precision": "bfloat16"}])
def test_pooling_and_precision_are_part_of_the_identity(small, options):
    """Vectors that were pooled or rounded in another way would be taken for the same."""
    assert fingerprint(small, **options) != fingerprint(small)


def test_nothing_else_changes_the_identity(folder, small):
    """A store would be embedded again because its encoder was moved, renamed, or got a README."""
    (folder / "README.md").write_text("about")
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    (folder / "onnx").mkdir()
    moved = folder.rename(folder.with_name("it's élsewhere"))
    assert fingerprint(moved) == fingerprint(small)


def test_what_is_chosen_automatically_is_what_counts(small):
    """The same vectors would be made twice, once for 'auto' and once for what it stands for."""
    assert fingerprint(small, pooling="auto") == fingerprint(small, pooling="mean")
    identity = identify_encoder(source(small, precision="auto"))
    assert identity.precision in ("float32", "bfloat16")
    assert identity.fingerprint == fingerprint(small, precision=identity.precision)


@pytest.mark.parametrize(
    ("stated", "pooling"),
    [
        (None, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "mean", "include_prompt": True}, "mean"),
    ],
    ids=str,
)
def test_pooling_follows_the_checkpoint(folder, stated, pooling):
    """An encoder would be used in another way than the one it was trained for."""
    shutil.rmtree(folder / "1_Pooling")
    if stated:
        write_pooling(folder, **stated)
    assert identify_encoder(source(folder)).pooling == pooling


def test_identity_is_found_without_loading(small):
    """Planning would read and build the model."""
    identity = identify_encoder(source(small))
    assert (identity.dimension, identity.folder) == (8, small)


# What is refused before anything is loaded.


def drop_weights(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def drop_tokenizer(folder):
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink()


UNIDENTIFIED = {
    "no config": (lambda f: (f / "config.json").unlink(), "encoder {folder} has no config.json"),
    "damaged config": (lambda f: (f / "config.json").write_text("{"), "{folder}/config.json is not JSON"),
    "list for a config": (lambda f: (f / "config.json").write_text("[]"), "{folder}/config.json is not a JSON object"),
    "folder for a config": (
        lambda f: ((f / "config.json").unlink(), (f / "config.json").mkdir()),
        "{folder}/config.json cannot be read: Is a directory",
    ),
    "no width": (
        lambda f: (f / "config.json").write_text('{"hidden_size": "8"}'),
        "{folder}/config.json has no 'hidden_size'",
    ),
    "pickled weights": (drop_weights, "encoder {folder} has no *.safetensors weights"),
    "link to nothing": (
        lambda f: (drop_weights(f), (f / "model.safetensors").symlink_to("gone")),
        "{folder}/model.safetensors cannot be read: No such file",
    ),
    "no tokenizer": (drop_tokenizer, "encoder {folder} has no tokenizer"),
    "pooling by maximum": (
        lambda f: write_pooling(f, pooling_mode_max_tokens=True),
        "encoder {folder} was trained with pooling 'max_tokens', which is not offered",
    ),
    "two poolings": (
        lambda f: write_pooling(f, pooling_mode_cls_token=True, pooling_mode_mean_tokens=True),
        "encoder {folder} was trained with pooling 'cls_token + mean_tokens', which is not offered",
    ),
}


@pytest.mark.parametrize(("break_it", "problem"), UNIDENTIFIED.values(), ids=UNIDENTIFIED)
def test_an_incomplete_checkpoint_is_named_before_anything_is_loaded(folder, break_it, problem):
    """A run would fail in its workers, or go on with weights or words that somebody made up."""
    break_it(folder)
    assert refusal(identify_encoder, folder=folder).startswith(problem.format(folder=folder))


@pytest.mark.parametrize("name", ["/no/such/folder", "./encoder", "~/no such folder"])
def test_a_path_that_is_no_folder_is_not_looked_for_on_the_hub(name):
    """A mistyped path would be sent to a server, and the answer would be about hub names."""
    assert refusal(identify_encoder, folder=name).startswith(f"encoder {name} is not a folder")


def test_a_file_is_not_an_encoder(small):
    """The message for a path to the weights would not say that their folder is wanted."""
    found = refusal(identify_encoder, folder=small / "model.safetensors")
    assert found.startswith(f"encoder {small}/model.safetensors is not a folder. Give the folder that holds its config")


def test_a_hub_name_that_cannot_be_had_is_named():
    """Without network, or with a mistyped name, a run would end in a traceback of the hub's client."""
    found = refusal(identify_encoder, folder="no-such/encoder")
    assert found.startswith(
        "encoder 'no-such/encoder' is no folder, the Hugging Face hub cannot be reached, and no copy"
    )


def test_a_revision_of_a_folder_is_refused(small):
    """Somebody would think that an older version of the encoder was used."""
    found = refusal(identify_encoder, folder=small, revision="v1")
    assert found.startswith(f"encoder {small} is a folder, but encoder.revision is 'v1'")


# What is refused when loading.


def cut_weights(folder):
    place = folder / "model.safetensors"
    place.write_bytes(place.read_bytes()[:-100])


def drop_a_layer(folder):
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "intermediate" not in name}
    safetensors.torch.save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def put_another_model(folder):
    T5Model(T5Config(vocab_size=30522, d_model=8, d_ff=8, num_layers=1, num_heads=2, d_kv=4)).save_pretrained(folder)


def shorten_the_model(folder):
    BertModel(BertConfig(**{**SMALL, "vocab_size": 100})).save_pretrained(folder)


def add_a_token(folder):
    loaded = AutoTokenizer.from_pretrained(folder)
    loaded.add_tokens(["[CASE]"])
    loaded.save_pretrained(folder)


UNLOADABLE = {
    "cut weights": (cut_weights, "encoder {folder} cannot be loaded: "),
    "other shapes": (
        lambda f: change_json(f / "config.json", intermediate_size=16),
        "encoder {folder} has weight 'encoder.layer.0.intermediate.dense.bias' of shape (8,), its config.json says (16",
    ),
    "missing layer": (drop_a_layer, "encoder {folder} lacks weights, 'encoder.layer.0.intermediate"),
    "unknown model": (
        lambda f: change_json(f / "config.json", model_type="nope"),
        "encoder {folder} cannot be loaded: ",
    ),
    "encoder with a decoder": (put_another_model, "encoder {folder} is a 't5' model, an encoder with a decoder"),
    "words the model lacks": (
        shorten_the_model,
        "encoder {folder} has a tokenizer of 30522 tokens, its model knows 100",
    ),
    "an added word the model lacks": (
        add_a_token,
        "encoder {folder} has a tokenizer of 30523 tokens, its model knows 30522",
    ),
}


@pytest.mark.parametrize(("break_it", "problem"), UNLOADABLE.values(), ids=UNLOADABLE)
def test_a_damaged_checkpoint_is_named(folder, break_it, problem):
    """Random numbers would stand in for weights that are not there, and nobody would see it in the labels."""
    break_it(folder)
    assert refusal(load_encoder, folder=folder).startswith(problem.format(folder=folder))


def test_a_model_without_a_trained_pooler_has_no_pooler(folder):
    """The pooler's random weights would decide the vectors."""
    BertModel(BertConfig(**SMALL), add_pooling_layer=False).save_pretrained(folder)
    assert "lacks weights, 'pooler." in refusal(load_encoder, folder=folder, pooling="pooler")
    load_encoder(source(folder, pooling="mean"))


class Bomb:
    def __reduce__(self):
        return (Path("/nowhere").open, ())


def test_code_and_pickles_of_a_checkpoint_are_never_run(folder):
    """Whoever publishes a checkpoint could run what they like on our machines."""
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    (folder / "code.py").write_text("raise SystemExit('the code of the checkpoint was run')")
    change_json(folder / "config.json", auto_map={"AutoModel": "code.Model", "AutoConfig": "code.Config"})
    load_encoder(source(folder))
    change_json(folder / "config.json", model_type="its-own")
    assert refusal(load_encoder, folder=folder).startswith(f"encoder {folder} cannot be loaded: ")


# What is loaded.


def test_the_checkpoint_s_pooling_is_used(folder):
    """The stated pooling would be part of the identity and not of the vectors."""
    sequences = TokenBatch.of([np.array([101, 7592, 2088, 102])])
    mean = load_encoder(source(folder)).encoder(sequences)
    write_pooling(folder, pooling_mode_cls_token=True)
    cls = load_encoder(source(folder)).encoder(sequences)
    assert np.abs(mean - cls).max() > 1e-3


def test_two_loads_give_the_same_vectors(small):
    """Two workers would write different vectors under one name."""
    sequences = TokenBatch.of([np.array([101, 7592, 102])])
    one, other = (load_encoder(source(small)).encoder(sequences) for _ in range(2))
    assert np.array_equal(one, other)


def test_chunks_that_the_model_cannot_read_are_refused(small):
    """Positions beyond the model's last would crash a worker, or the chunk's end would be cut."""
    loaded = load_encoder(source(small))
    assert loaded.max_chunk_tokens == 38
    loaded.check_fits(Chunking(chunk_tokens=38, overlap_tokens=0))
    with pytest.raises(ConfigError, match=r"chunk_tokens is 39, .* reads at most 38 .*Give --chunk-tokens 38 or less"):
        loaded.check_fits(Chunking(chunk_tokens=39, overlap_tokens=0))


def test_the_tokenizer_s_limit_counts_where_it_is_lower(folder):
    """A model with relative positions would be given chunks that it was never trained for."""
    change_json(folder / "tokenizer_config.json", model_max_length=20)
    assert load_encoder(source(folder)).max_chunk_tokens == 18


def test_roberta_counts_its_positions_from_the_padding(folder):
    """The last two tokens of a full chunk would have no position, and crash the worker."""
    RobertaModel(RobertaConfig(**SMALL, pad_token_id=1)).save_pretrained(folder)
    loaded = load_encoder(source(folder))
    assert loaded.max_chunk_tokens == 36
    assert loaded.encoder(TokenBatch.of([np.full(38, 5)])).shape == (1, 8)
