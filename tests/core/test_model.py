"""A trained head as a value."""

import dataclasses

import pytest
import torch
from heads import ORIGIN, trained

from robert_pipeline.config import Chunking, EncoderSource
from robert_pipeline.core.model import Calibration, Thresholds, weights_sha256
from robert_pipeline.errors import ConfigError, ModelError

HEAD = trained(calibration=Calibration(method="temperature", scale=(1.0,) * 3, offset=(0.0,) * 3, documents=9))


def other_weights():
    changed = trained()
    with torch.no_grad():
        changed.module.out.bias[0] += 1e-3
    return {"module": changed.module, "weights_sha256": weights_sha256(changed.module)}


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ("a", "b", "d")},
        {"calibration": dataclasses.replace(HEAD.calibration, scale=(1.0, 1.0, 1.1))},
        {"calibration": dataclasses.replace(HEAD.calibration, offset=(0.0, 0.0, 0.1))},
        {"thresholds": Thresholds(decision=(0.5, 0.5, 0.4), review=(0.0,) * 3)},
        {"thresholds": Thresholds(decision=(0.5,) * 3, review=(0.0, 0.0, 0.1))},
        {"origin": dataclasses.replace(ORIGIN, encoder_fingerprint="f" * 16)},
        {"origin": dataclasses.replace(ORIGIN, chunking=Chunking(chunk_tokens=100))},
        {"config": dataclasses.replace(HEAD.config, dropout=0.1)},
        other_weights(),
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_decides_a_label_changes_the_fingerprint(change):
    """Documents scored by an older head would be taken for scored, and keep their labels."""
    assert dataclasses.replace(HEAD, **change).fingerprint != HEAD.fingerprint


def test_what_decides_nothing_does_not():
    """Years of documents would be scored again because a folder was moved."""
    moved = dataclasses.replace(ORIGIN, encoder=EncoderSource(name="elsewhere"))
    for change in ({"origin": moved}, {"notes": (("seed", 3),)}):
        assert dataclasses.replace(HEAD, **change).fingerprint == HEAD.fingerprint


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["decision", "review"])
def test_a_threshold_outside_0_to_1_is_refused(name, value):
    """A label would be given always or never."""
    with pytest.raises(ConfigError, match=f"threshold '{name}' is"):
        Thresholds(**{"decision": (0.5,), "review": (0.5,), name: (value,)})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"labels": ("a", "b", "a")}, "labels must be different"),
        ({"labels": ("a", "b", "")}, "labels must be different and not empty"),
        ({"thresholds": Thresholds(decision=(0.5,) * 2, review=(0.0,) * 3)}, "thresholds.decision"),
        ({"thresholds": Thresholds(decision=(0.5,) * 3, review=(0.0,))}, "thresholds.review"),
        ({"thresholds": Thresholds(decision=(0.5, 0.0, 0.5), review=(0.0,) * 3)}, "decision value is 0"),
        (
            {"calibration": Calibration(method="none", scale=(1.0,), offset=(0.0,) * 3, documents=0)},
            "calibration.scale",
        ),
    ],
)
def test_a_head_that_contradicts_itself_is_refused(change, named):
    """Labels would be paired with the wrong probabilities."""
    with pytest.raises(ConfigError, match=named):
        dataclasses.replace(HEAD, **change)


@pytest.mark.parametrize(
    ("shard", "named"),
    [
        ({"encoder_fingerprint": "f" * 16}, "made by encoder ffffffffffffffff, the head was made for encoder eeee"),
        ({"chunking_fingerprint": "f" * 16}, "made by chunking ffffffffffffffff, the head was made for chunking"),
        ({"dimension": 7}, "holds vectors of 7 values, the head reads 6"),
    ],
)
def test_vectors_that_it_was_not_made_for_are_refused(shard, named):
    """Any vector of the right size gets a label; of another encoder's it would be a random one."""
    mine = {"encoder_fingerprint": "e" * 16, "chunking_fingerprint": Chunking().fingerprint, "dimension": 6}
    HEAD.check_shard(where="shard x", **mine)
    with pytest.raises(ModelError, match="shard x") as raised:
        HEAD.check_shard(where="shard x", **mine | shard)
    assert named in str(raised.value)
    assert raised.value.fix


def test_thresholds_change_for_the_labels_named():
    """A new threshold for one label would reset the others."""
    head = HEAD.with_thresholds(review={"b": 0.7}).with_thresholds(review={"c": 0.8}, decision={"a": 0.4})
    assert head.thresholds == Thresholds(decision=(0.4, 0.5, 0.5), review=(0.0, 0.7, 0.8))
    with pytest.raises(ConfigError, match="no label 'x'"):
        HEAD.with_thresholds(review={"x": 0.5})


@pytest.mark.parametrize("decision", [{"yes": 0.3}, {"no": 0.7}])
def test_of_two_labels_one_threshold_is_both(decision):
    """The two sides of a binary decision would overlap or leave a gap."""
    assert trained(("no", "yes")).with_thresholds(decision=decision).thresholds.decision == pytest.approx((0.7, 0.3))


def test_of_two_labels_two_thresholds_that_contradict_each_other_are_refused():
    """One of two decisions that were asked for would be passed over in silence."""
    head = trained(("no", "yes"))
    assert head.with_thresholds(decision={"no": 0.7, "yes": 0.3}).thresholds.decision == pytest.approx((0.7, 0.3))
    with pytest.raises(ConfigError, match=r"0\.6 for 'no' and 0\.6 for 'yes' do not add up to 1"):
        head.with_thresholds(decision={"no": 0.6, "yes": 0.6})
