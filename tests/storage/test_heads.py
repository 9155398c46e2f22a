"""Heads at rest: what was saved comes back exactly, or an error that names the file; never another head."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robert_pipeline.core.model import Calibration, Thresholds
from robert_pipeline.errors import ModelError
from robert_pipeline.storage import heads
from robert_pipeline.storage.heads import load_head, load_learned_keys, read_weights_file, save_head
from tests.heads import SHAPES, documents, flat, trained

KEYS = np.array([5, 3, 3, 2**59], np.int64)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A head with everything that a head can have, and its folder."""
    folder = tmp_path_factory.mktemp("heads") / "model"
    head = trained(
        ("a", "b", "c"),
        dense_units=4,
        calibration=Calibration(method="temperature", scale=(1.3,) * 3, offset=(0.0,) * 3, documents=40),
        thresholds=Thresholds(decision=(0.5, 0.4, 0.3), review=(0.9, 0.0, 1.0)),
    )
    save_head(str(folder), head, learned_keys=KEYS)
    return head, folder


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("output", ["binary", "multiclass", "multilabel"])
def test_a_head_comes_back_as_it_was(shape, output, tmp_path):
    """A saved head would label other than the one that was judged."""
    head = trained(("a", "b"), output=output, **shape)
    save_head(str(tmp_path), head)
    found = load_head(str(tmp_path))
    assert (found.fingerprint, found.labels, found.config) == (head.fingerprint, head.labels, head.config)
    with torch.inference_mode():
        assert torch.equal(found.module(*flat(documents([3, 1, 7]))), head.module(*flat(documents([3, 1, 7]))))


def test_all_that_decides_a_label_comes_back(saved):
    """Calibration, thresholds, or what was learned from would be lost between training and scoring."""
    head, folder = saved
    found = load_head(str(folder))
    assert (found.calibration, found.thresholds, found.origin) == (head.calibration, head.thresholds, head.origin)
    assert load_learned_keys(str(folder)).tolist() == [3, 5, 2**59]


def test_another_head_in_its_place_removes_nothing_of_anybody_else(tmp_path):
    """`--model models` would wipe the heads in that folder, and `--model .` what is called like one."""
    head, folder = trained(("a", "b")), tmp_path
    save_head(str(folder), head, learned_keys=KEYS)
    others = ["head-2025/head.json", "words-of-2024.parquet", "learned-lessons.md", "head-0123456789abcdef.safetensors"]
    for name in others:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    save_head(str(folder), trained(("x", "y"), seed=9))
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(others) <= found
    assert not any(head.fingerprint in name for name in found)
    assert len(found - set(others)) == 2  # head.json and its weights


def test_what_was_learned_from_may_be_unknown(tmp_path):
    """A head that was trained elsewhere could not be saved, or would seem to have learned from nothing."""
    save_head(str(tmp_path), trained())
    assert load_learned_keys(str(tmp_path)) is None


def everything(folder):
    """Both readers, one after the other."""
    head = load_head(str(folder))
    return head.fingerprint, load_learned_keys(str(folder)).tolist()


@given(st.data())
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_or_a_cut_file_never_gives_another_head(saved, tmp_path_factory, data):
    """safetensors reads flipped weights without a word: documents would get wrong labels."""
    head, folder = saved
    copy = tmp_path_factory.mktemp("damaged") / "model"
    shutil.copytree(folder, copy)
    victim = data.draw(st.sampled_from(sorted(path.name for path in copy.iterdir())))
    content = bytearray((copy / victim).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[place:]
    (copy / victim).write_bytes(content)
    try:
        found = everything(copy)
    except ModelError as error:
        assert (str(copy) in error.problem, bool(error.fix)) == (True, True)  # noqa: PT017 - either is right
    else:  # a flipped bit in what decides nothing, such as a note
        assert found == (head.fingerprint, [3, 5, 2**59])
    finally:
        shutil.rmtree(copy)


@pytest.mark.parametrize("kind", ["head", "learned"])
def test_a_missing_file_is_named(saved, tmp_path, kind):
    """Whoever copied half a folder would be told that the other half is damaged."""
    _, folder = saved
    shutil.copytree(folder, tmp_path / "m")
    (missing,) = (tmp_path / "m").glob(f"{kind}-*")
    missing.unlink()
    with pytest.raises(ModelError, match=rf"{missing.name}, which head\.json names, is missing"):
        everything(tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format": "something"}, "is not a head of robert_pipeline"),
        ({"version": 99}, "format version 99"),
        ({"labels": ["a", "b", "z"]}, "fingerprint"),
        ({"labels": ["a", "b"]}, "do not fit a head of their sizes"),
        ({"dimension": 5}, "do not fit a head of their sizes"),
        ({"weights": {"file": "../other.safetensors", "sha256": "0"}}, "not beside it"),
        ({"calibration": {"method": "none"}}, "Calibration does not have the fields"),
        (
            {"calibration": {"method": "none", "scale": [1.0], "offset": [0.0] * 3, "documents": 0}},
            r"head\.json is damaged: calibration\.scale has 1 values, not 3",
        ),
    ],
)
def test_a_head_that_was_edited_is_refused(saved, tmp_path, change, named):
    """An edited artefact would label under the fingerprint of another one."""
    _, folder = saved
    shutil.copytree(folder, tmp_path / "m")
    place = tmp_path / "m" / "head.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    with pytest.raises(ModelError, match=named):
        load_head(str(tmp_path / "m"))


def test_a_new_head_replaces_the_old_one_whole(tmp_path):
    """Files of old heads would pile up, or the new head be read with weights of the old one."""
    save_head(str(tmp_path), trained(seed=1), learned_keys=KEYS)
    second = trained(seed=2)
    save_head(str(tmp_path), second)
    assert {path.name for path in tmp_path.iterdir()} == {"head.json", f"head-{second.fingerprint}.safetensors"}
    assert load_head(str(tmp_path)).fingerprint == second.fingerprint


def test_a_head_put_in_place_while_it_is_read_is_read_whole(tmp_path, monkeypatch):
    """A worker that starts while a head is trained anew would fail, or mix two heads."""
    save_head(str(tmp_path), trained(seed=1))
    second, real = trained(seed=2), heads._read_named
    waiting = [True]

    def read(files, name, sha256):
        if waiting:
            waiting.clear()
            save_head(str(tmp_path), second)
        return real(files, name, sha256)

    monkeypatch.setattr(heads, "_read_named", read)
    assert load_head(str(tmp_path)).fingerprint == second.fingerprint


def test_weights_that_are_no_safetensors_are_never_unpickled(tmp_path):
    """A file of weights could run code on this machine."""
    place = tmp_path / "w.safetensors"
    torch.save({"out.weight": torch.ones(2, 2)}, place)
    with pytest.raises(ModelError, match="not a safetensors file"):
        read_weights_file(str(place))
    with pytest.raises(ModelError, match="do not exist"):
        read_weights_file(str(tmp_path / "no.safetensors"))
