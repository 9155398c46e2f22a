"""Names of files in a store."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robert_pipeline.storage.store import SHARED_TEXTS, EmbeddingKey, open_store, partition_folder

KEY = EmbeddingKey(encoder_fingerprint="e" * 16, chunking_fingerprint="c" * 16, vector_dtype="float16")
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@given(names, names)
def test_every_partition_has_a_safe_folder_of_its_own(one, other):
    """Two partitions would overwrite each other, or a name would leave the store's folder."""
    folder = partition_folder(one)
    assert (folder == partition_folder(other)) == (one == other)
    assert 0 < len(folder.encode()) <= 255
    assert "/" not in folder
    assert folder not in (".", "..")


def test_no_partition_shares_the_folder_of_shared_texts():
    """A corpus partition would be deleted as scratch."""
    assert partition_folder(SHARED_TEXTS) == ".shared"
    assert partition_folder(".shared") != ".shared"


def test_paths_are_found_again_by_what_they_say(tmp_path):
    """`ls`, `verify` and `gc` would pass over shards."""
    store = open_store(str(tmp_path))
    paths = {
        "embeddings": store.embedding_path(KEY, "day=1", "u1"),
        "rejects": store.reject_path(KEY, "day=1", "u1"),
        "predictions": store.prediction_path("h1", KEY, "day=1", "u1"),
        "unscored": store.unscored_path("h1", KEY, "day=1", "u1"),
    }
    for path in paths.values():
        store.files.write_bytes(path, b"x")
    places = store.shards()
    assert {place.kind: place.entry.path for place in places} == paths
    assert {place.unit for place in places} == {(KEY.folder, "day=1", "u1")}
    assert {place.key for place in places} == {KEY}
    assert [place.head for place in places] == [None, None, "h1", "h1"]
    assert [place.kind for place in store.shards("rejects")] == ["rejects"]


@pytest.mark.parametrize(
    "path",
    [
        "embeddings/notes.txt",
        "embeddings/a-b-float16/day=1/u1.txt",
        "embeddings/a-b/day=1/u1.parquet",
        "embeddings/a-b-float16/u1.parquet",
        "predictions/a-b-float16/day=1/u1.parquet",
        "predictions/u1.parquet",
        "index/a-b-float16/x.run",
        "quarantine/embeddings/a-b-float16/day=1/u1.parquet",
    ],
)
def test_other_files_are_no_shards(tmp_path, path):
    """A stray file would be opened, checked and deleted as a shard."""
    store = open_store(str(tmp_path))
    store.files.write_bytes(path, b"x")
    assert store.shards() == []


def test_what_is_set_aside_is_out_of_the_way_and_kept(tmp_path):
    """A damaged shard would be read again, or could not be looked into."""
    store = open_store(str(tmp_path))
    path = store.embedding_path(KEY, "day=1", "u1")
    store.files.write_bytes(path, b"x")
    target = store.set_aside(path)
    assert store.shards() == []
    assert store.files.read_bytes(target) == b"x"


def test_present_is_one_listing(tmp_path):
    """Planning would ask for every unit, one by one."""
    store = open_store(str(tmp_path))
    paths = [store.embedding_path(KEY, "day=1", f"u{n}") for n in range(4)]
    store.files.write_bytes(paths[2], b"x")
    assert store.present(paths) == {paths[2]}
    assert store.present([]) == set()
