"""Vectors joined with labels: every labelled document once, with its own vectors and its own label."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robert_pipeline.errors import TrainingError
from robert_pipeline.storage.shards import open_shard
from robert_pipeline.storage.store import open_store
from robert_pipeline.storage.training_set import build_training_set
from tests.heads import DIMENSION, KEY, write_shard


def shard(folder, unit_id, texts, **options):
    return open_shard(open_store(str(folder)).files, write_shard(folder, unit_id, texts, **options))


def texts_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(length, DIMENSION)).astype(np.float32) for length in lengths]


def numbered(unit_ids, labels):
    """Labels of documents as `write_shard` names them."""
    return [(f"{unit}-{number}", label) for unit in unit_ids for number, label in enumerate(labels)]


@given(
    lengths=st.lists(st.integers(1, 5), min_size=2, max_size=9),
    labels=st.lists(st.sampled_from(["b", "a", " b ", "", None]), min_size=9, max_size=9),
    data=st.data(),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_documents_keep_their_vectors_and_labels(tmp_path_factory, lengths, labels, data):
    """A head would learn from the vectors of one document and the label of another."""
    folder = tmp_path_factory.mktemp("set")
    labels[0] = "a"
    texts = texts_of(lengths)
    found = build_training_set(
        [shard(folder, "u", texts)], lambda _: numbered(["u"], labels[: len(texts)]), folder / "v.arrow"
    )
    kept = [number for number, label in enumerate(labels[: len(texts)]) if (label or "").strip()]
    assert found.unlabelled == len(texts) - len(kept)
    assert [found.label_names[k] for k in found.label_B] == [labels[number].strip() for number in kept]
    order = np.array(data.draw(st.permutations(range(len(kept)))), np.int64)
    expected = np.concatenate([texts[kept[number]] for number in order])
    np.testing.assert_array_equal(found.gather(order), expected)


def test_documents_with_nan_are_left_out_and_counted(tmp_path):
    """One broken vector would turn every weight of the head into NaN, or vanish without a word."""
    texts = texts_of([2, 3, 1])
    texts[1][2, 0] = np.nan
    found = build_training_set(
        [shard(tmp_path, "u", texts)], lambda _: numbered(["u"], ["a", "b", "a"]), tmp_path / "v.arrow"
    )
    assert (len(found), found.not_finite, found.label_names) == (2, 1, ("a",))


def test_partitions_are_told_apart(tmp_path):
    """A head would be judged on the partition that it has learned from."""
    shards = [shard(tmp_path, f"u{n}", texts_of([1, 2]), partition=f"day={n // 2}") for n in range(4)]
    asked = []

    def labels(partition):
        asked.append(partition)
        return numbered([f"u{n}" for n in range(4)], ["a", "b"])

    found = build_training_set(shards, labels, tmp_path / "v.arrow")
    assert asked == ["day=0", "day=1"]
    assert found.in_partitions(["day=1"]).tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"key": replace(KEY, encoder_fingerprint="f" * 16)}, "encoder_fingerprint"),
        ({"key": replace(KEY, chunking_fingerprint="f" * 15)}, "chunking_fingerprint"),
        ({"dimension": 4}, "dimension"),
    ],
)
def test_shards_that_do_not_go_together_are_named(tmp_path, other, named):
    """A head would learn from vectors of two encoders, and no label of it would mean anything."""
    width = other.get("dimension", DIMENSION)
    shards = [
        shard(tmp_path, "u0", texts_of([1, 2])),
        shard(tmp_path, "u1", [text[:, :width] for text in texts_of([1, 2])], **other),
    ]
    with pytest.raises(TrainingError, match=rf"(?s)u0.*{named}.*u1.*do not go together"):
        build_training_set(shards, lambda _: numbered(["u0", "u1"], ["a", "b"]), tmp_path / "v.arrow")


def test_nothing_to_learn_from_is_said(tmp_path):
    """Training without labels would end in an empty array's error."""
    with pytest.raises(TrainingError, match="2 documents have no label"):
        build_training_set([shard(tmp_path, "u", texts_of([1, 2]))], lambda _: [], tmp_path / "v.arrow")
