"""Vectors that the store has already: found whole and right, or not at all."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import hash_of, write_shard

from robert_pipeline.storage import shards
from robert_pipeline.storage.content_index import refresh_index
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.known_texts import KnownTexts, chunk_places
from robert_pipeline.storage.shards import open_shard
from robert_pipeline.storage.store import EmbeddingKey, open_store
from schemas import embeddings_schema

KEY = EmbeddingKey(encoder_fingerprint="e" * 16, chunking_fingerprint="c" * 16, vector_dtype="float16")
SCHEMA = embeddings_schema(8, "float16")


def known(address):
    store = open_store(str(address))
    return KnownTexts(store, refresh_index(store, KEY), SCHEMA)


def fetched(texts, hashes):
    """Query to the vectors that were found for it."""
    found = texts.fetch(hashes)
    starts = np.cumsum(found.lengths_F) - found.lengths_F
    rows = found.rows.to_pylist()
    for query, start, length in zip(found.query_F, starts, found.lengths_F, strict=True):
        assert {row["text_hash"] for row in rows[start : start + length]} == {hashes[query]}
        assert [row["chunk_index"] for row in rows[start : start + length]] == list(range(length))
    return {
        int(query): [row["vector"] for row in rows[start : start + length]]
        for query, start, length in zip(found.query_F, starts, found.lengths_F, strict=True)
    }


def vectors_of(address, path, text_hash):
    rows = pa.concat_tables([t.rows for t in open_shard(Files(str(address)), path).batches()]).to_pylist()
    return [row["vector"] for row in rows if row["text_hash"] == text_hash]


def test_vectors_are_those_of_the_text(address):
    """A document would get the vectors of another."""
    paths = {seed: write_shard(address, unit_id=f"{seed:016}", seed=seed) for seed in range(3)}
    asked = [(2, 5), (0, 1), (7, 7), (0, 4), (1, 0), (2, 0)]
    hashes = [hash_of(f"{seed}-{number}") for seed, number in asked]
    found = fetched(known(address), hashes)
    assert sorted(found) == [0, 1, 3, 4, 5]
    for query, vectors in found.items():
        assert vectors == vectors_of(address, paths[asked[query][0]], hashes[query])


def test_nothing_is_found_in_an_empty_store(tmp_path):
    """The first run of all would fail."""
    found = known(tmp_path).fetch([hash_of("a")])
    assert (found.rows.num_rows, found.rows.schema, len(found.query_F)) == (0, SCHEMA, 0)
    assert len(known(tmp_path).fetch([]).query_F) == 0


def test_a_row_group_is_read_once_for_all_its_texts(tmp_path, monkeypatch):
    """Copying a changed partition would read its old shard once for every document."""
    write_shard(tmp_path, documents=30, groups=3)
    texts = known(tmp_path)
    read = []
    original = shards.LoadedShard.table
    monkeypatch.setattr(shards.LoadedShard, "table", lambda self, n: (read.append(n), original(self, n))[1])
    assert len(fetched(texts, [hash_of(f"0-{number}") for number in range(29, -1, -1)])) == 30
    assert sorted(read) == [0, 1, 2]
    fetched(texts, [hash_of("0-29"), hash_of("0-28")])
    assert sorted(read) == [0, 1, 2]


def test_a_damaged_shard_is_not_believed(tmp_path, caplog):
    """A flipped bit would be copied into new shards and become labels there."""
    path = write_shard(tmp_path, unit_id="1" * 16, seed=1)
    texts = known(tmp_path)
    content = bytearray((tmp_path / path).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / path).write_bytes(content)
    hashes = [hash_of(f"1-{number}") for number in range(6)]
    assert fetched(texts, hashes) == {}
    assert fetched(texts, hashes) == {}
    assert caplog.text.count("is damaged") == 1
    assert "robert store verify" in caplog.text


def test_another_shard_stands_in_for_a_damaged_one(tmp_path):
    """A text that is whole in an older shard would be embedded again."""
    good = write_shard(tmp_path, unit_id="1" * 16, seed=1)
    bad = write_shard(tmp_path, unit_id="2" * 16, seed=1)
    texts = known(tmp_path)
    (tmp_path / bad).write_bytes((tmp_path / bad).read_bytes()[:-20])
    assert fetched(texts, [hash_of("1-3")]) == {0: vectors_of(tmp_path, good, hash_of("1-3"))}


def test_a_shard_that_was_removed_is_no_fault(tmp_path, caplog):
    """A clean-up during a run would fill the terminal with warnings."""
    path = write_shard(tmp_path)
    texts = known(tmp_path)
    (tmp_path / path).unlink()
    assert fetched(texts, [hash_of("0-1")]) == {}
    assert caplog.text == ""


def test_a_stale_entry_is_never_trusted(tmp_path):
    """After a shard was replaced, a text would get the vectors of what now lies in its place."""
    write_shard(tmp_path, seed=1, documents=12, groups=4)
    texts = known(tmp_path)
    write_shard(tmp_path, seed=2, documents=3, groups=1)
    assert fetched(texts, [hash_of(f"1-{number}") for number in range(12)]) == {}


@pytest.mark.parametrize("change", ["e", "c"])
def test_a_shard_of_another_key_under_the_right_name_is_not_believed(tmp_path, change):
    """Vectors of another encoder would be mixed with those of this one."""
    path = write_shard(tmp_path)
    other = path.replace(change * 16, "f" * 16)
    store = open_store(str(tmp_path))
    store.files.write_bytes(other, store.files.read_bytes(path))
    parts = other.split("/")[1].split("-")
    key = EmbeddingKey(encoder_fingerprint=parts[0], chunking_fingerprint=parts[1], vector_dtype=parts[2])
    texts = KnownTexts(store, refresh_index(store, key), SCHEMA)
    assert fetched(texts, [hash_of("0-1")]) == {}


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=10))
def test_chunk_places_name_every_chunk(documents):
    """Chunks of one document would be put into another."""
    starts, lengths = (np.array([d[i] for d in documents], np.int64) for i in range(2))
    expected = [start + i for start, length in documents for i in range(length)]
    assert chunk_places(starts, lengths).tolist() == expected
