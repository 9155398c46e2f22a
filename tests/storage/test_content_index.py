"""Where the vectors of a text are; on a disk and on an object store."""

import numpy as np
import pytest
from stores import hash_of, write_shard

from robert_pipeline.storage import content_index
from robert_pipeline.storage.content_index import index_shards, open_index, refresh_index
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.hash_runs import RECORD, open_run
from robert_pipeline.storage.store import EmbeddingKey, open_store

KEY = EmbeddingKey(encoder_fingerprint="e" * 16, chunking_fingerprint="c" * 16, vector_dtype="float16")


def hashes(seed, documents=6):
    return [hash_of(f"{seed}-{number}") for number in range(documents)]


def places(index, seed, documents=6):
    return [[(place.path, place.row_group) for place in found] for found in index.find(hashes(seed, documents))]


def run_files(store):
    return [entry.path for entry in store.files.list(store.index_folder(KEY))]


def test_texts_are_found_where_they_are(address):
    """A text that was embedded before would be embedded again."""
    store = open_store(address)
    one = write_shard(address, unit_id="1" * 16, seed=1)
    two = write_shard(address, unit_id="2" * 16, partition="q", seed=2)
    index = refresh_index(store, KEY)
    assert places(index, 1) == [[(one, 0)]] * 3 + [[(one, 1)]] * 3
    assert places(index, 2) == [[(two, 0)]] * 3 + [[(two, 1)]] * 3
    assert places(index, 3) == [[]] * 6
    assert index.knows([*hashes(1), *hashes(3)]).tolist() == [True] * 6 + [False] * 6
    assert index.find([]) == []


def test_only_new_shards_are_read(address, monkeypatch):
    """Every run would read the whole store."""
    store = open_store(address)
    for number in range(3):
        write_shard(address, unit_id=f"{number:016}", seed=number)
    refresh_index(store, KEY)
    read = []
    original = content_index.read_hashes
    monkeypatch.setattr(content_index, "read_hashes", lambda f, path: (read.append(path), original(f, path))[1])
    refresh_index(store, KEY)
    assert read == []
    new = write_shard(address, unit_id="9" * 16, seed=9)
    assert places(refresh_index(store, KEY), 9)[0] == [(new, 0)]
    assert read == [new]


def test_another_key_knows_nothing(tmp_path):
    """Vectors of one encoder would be handed out as those of another."""
    write_shard(tmp_path, seed=1)
    other = EmbeddingKey(encoder_fingerprint="f" * 16, chunking_fingerprint="c" * 16, vector_dtype="float16")
    assert places(refresh_index(open_store(str(tmp_path)), other), 1) == [[]] * 6


def test_the_newest_shard_comes_first(tmp_path):
    """Texts of a corpus that changes nightly would be gathered from shards of long ago, one by one."""
    store = open_store(str(tmp_path))
    paths = [write_shard(tmp_path, unit_id=f"{n:016}", seed=1) for n in (5, 3, 8)]
    assert [place for place, _ in places(refresh_index(store, KEY), 1)[0]] == paths[::-1]
    newest = write_shard(tmp_path, unit_id="1" * 16, seed=1)
    for n in range(3):  # so that runs are merged
        write_shard(tmp_path, unit_id=f"{n:016}", partition="q", seed=7)
    assert [place for place, _ in places(refresh_index(store, KEY), 1)[0]] == [newest, *paths[::-1]]


def test_deleting_the_index_loses_nothing(tmp_path):
    """Derived data would be a second truth."""
    store = open_store(str(tmp_path))
    for number in range(4):
        write_shard(tmp_path, unit_id=f"{number:016}", seed=number)
    before = [places(refresh_index(store, KEY), number) for number in range(4)]
    for path in run_files(store):
        store.files.delete(path)
    assert places(open_index(store, KEY), 1) == [[]] * 6
    assert [places(refresh_index(store, KEY), number) for number in range(4)] == before


def test_shards_that_are_gone_are_forgotten(tmp_path):
    """After a clean-up, texts would be called known that nobody has."""
    store = open_store(str(tmp_path))
    for number in range(4):
        write_shard(tmp_path, unit_id=f"{number:016}", seed=number)
    refresh_index(store, KEY)
    for number in (0, 3):
        store.files.delete(f"embeddings/{KEY.folder}/p/{number:016}.parquet")
    index = refresh_index(store, KEY)
    assert [index.knows(hashes(number)).all() for number in range(4)] == [False, True, True, False]
    assert index.text_count == 12
    for number in (1, 2):
        store.files.delete(f"embeddings/{KEY.folder}/p/{number:016}.parquet")
    assert refresh_index(store, KEY).text_count == 0
    assert run_files(store) == []


def test_a_shard_that_was_replaced_is_indexed_anew(tmp_path):
    """Texts of a rebuilt shard would be looked for in row groups that they are not in."""
    store = open_store(str(tmp_path))
    write_shard(tmp_path, seed=1, groups=1)
    assert {group for found in places(refresh_index(store, KEY), 1) for _, group in found} == {0}
    path = write_shard(tmp_path, seed=1, groups=3)
    assert places(refresh_index(store, KEY), 1) == [[(path, group)] for group in (0, 0, 1, 1, 2, 2)]


def test_runs_stay_few(tmp_path):
    """Every look-up would search as many files as there were runs of the pipeline."""
    store = open_store(str(tmp_path))
    for number in range(20):
        write_shard(tmp_path, unit_id=f"{number:016}", seed=number, documents=2, groups=1)
        index = refresh_index(store, KEY)
        assert len(index.runs) <= 3
        assert len(index.runs) == len(run_files(store))
    assert index.text_count == 40
    assert all(index.knows(hashes(number, 2)).all() for number in range(20))


def test_building_in_pieces_gives_the_same_index(tmp_path, monkeypatch):
    """An index that does not fit into the memory set aside for it would lose texts."""
    store = open_store(str(tmp_path))
    for number in range(9):
        write_shard(tmp_path, unit_id=f"{number:016}", seed=number)
    whole = [places(refresh_index(store, KEY), number) for number in range(9)]
    for path in run_files(store):
        store.files.delete(path)
    monkeypatch.setattr(content_index, "BUILD_RECORDS", 10)
    index = refresh_index(store, KEY)
    assert [places(index, number) for number in range(9)] == whole
    assert index.text_count == 54


def test_what_a_killed_merge_leaves_is_tidied(tmp_path):
    """Texts would be found twice as often with every crash, and the index would only grow."""
    store = open_store(str(tmp_path))
    for number in range(3):
        write_shard(tmp_path, unit_id=f"{number:016}", seed=number)
        refresh_index(store, KEY)
    parts = {path: store.files.read_bytes(path) for path in run_files(store)}
    write_shard(tmp_path, unit_id="9" * 16, seed=9, documents=10)
    refresh_index(store, KEY)
    for path, content in parts.items():
        store.files.write_bytes(path, content)
    index = refresh_index(store, KEY)
    assert index.text_count == 3 * 6 + 10
    assert len(run_files(store)) == len(index.runs) == 1


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped"])
def test_a_damaged_run_is_left_out_and_written_anew(tmp_path, damage, caplog):
    """A bit flipped in derived data would stop every run, or hide texts for ever."""
    store = open_store(str(tmp_path))
    write_shard(tmp_path, seed=1)
    refresh_index(store, KEY)
    (path,) = run_files(store)
    whole = store.files.read_bytes(path)
    content = {"empty": b"", "truncated": whole[:-9], "flipped": whole[:-40] + b"\xff" + whole[-39:]}[damage]
    store.files.write_bytes(path, content)
    content_index._opened.cache_clear()
    assert places(open_index(store, KEY), 1) == [[]] * 6
    assert "is left out" in caplog.text
    assert all(places(refresh_index(store, KEY), 1))


def test_a_flipped_bit_in_a_record_stops_nobody_and_is_not_merged(tmp_path, caplog):
    """Every embed of a year's corpus would end over one bit of what can be derived."""
    store = open_store(str(tmp_path))
    write_shard(tmp_path, unit_id="1" * 16, seed=1)
    refresh_index(store, KEY)
    (path,) = run_files(store)
    content = bytearray(store.files.read_bytes(path))
    content[RECORD.fields["source"][1]] ^= 8
    store.files.write_bytes(path, bytes(content))
    content_index._opened.cache_clear()
    index = open_index(store, KEY)
    assert sum(bool(found) for found in places(index, 1)) == 5
    assert "is damaged" in caplog.text
    write_shard(tmp_path, unit_id="2" * 16, seed=2)
    index = refresh_index(store, KEY)
    assert all(places(index, 1))
    assert all(places(index, 2))
    open_run(store.files, *run_files(store)).check()


def test_a_run_that_another_process_has_merged_is_passed_over(address):
    """Two backfills on one bucket would end each other's units."""
    store = open_store(address)
    write_shard(address, unit_id="1" * 16, seed=1)
    index = refresh_index(store, KEY)
    for path in run_files(store):
        store.files.delete(path)
    found = places(index, 1)  # on a disk, whoever has a file open keeps it
    assert all(found) == store.files.is_local
    assert index.knows(hashes(1)).all() == store.files.is_local
    content_index._opened.cache_clear()
    assert all(places(refresh_index(store, KEY), 1))


def test_a_damaged_shard_is_left_out_with_a_warning(tmp_path, caplog):
    """One bad shard would stop every run that looks for known texts."""
    store = open_store(str(tmp_path))
    bad = write_shard(tmp_path, unit_id="1" * 16, seed=1)
    write_shard(tmp_path, unit_id="2" * 16, seed=2)
    store.files.write_bytes(bad, store.files.read_bytes(bad)[:500])
    index = refresh_index(store, KEY)
    assert all(places(index, 2))
    assert places(index, 1) == [[]] * 6
    assert "run `robert store verify`" in caplog.text


def test_a_key_of_foreign_files_has_an_empty_index(tmp_path):
    """A stray file in the store would be taken for a shard."""
    store = open_store(str(tmp_path))
    store.files.write_bytes(f"{store.embedding_folder(KEY)}/p/notes.txt", b"hello")
    store.files.write_bytes(f"{store.index_folder(KEY)}/notes.txt", b"hello")
    assert refresh_index(store, KEY).runs == ()


def test_an_index_of_some_shards_says_nothing_of_others(tmp_path):
    """gc would think texts are held elsewhere that only the shard to delete holds."""
    store = open_store(str(tmp_path / "store"))
    write_shard(tmp_path / "store", unit_id="1" * 16, seed=1)
    write_shard(tmp_path / "store", unit_id="2" * 16, seed=2)
    refresh_index(store, KEY)
    folder = store.embedding_folder(KEY)
    first, _ = store.files.list(folder)
    index = index_shards(store.files, [first], folder, Files(str(tmp_path / "scratch")))
    assert np.concatenate([index.knows(hashes(1)), index.knows(hashes(2))]).tolist() == [True] * 6 + [False] * 6


@pytest.fixture
def on_s3(s3_server, tmp_path):
    """A store on an object store, where an open file is gone once it is deleted."""
    return f"s3://bucket/{tmp_path.parent.name}-{tmp_path.name}?endpoint_override={s3_server}&scheme=http"


def test_an_index_in_use_outlives_a_merge_by_another_run(on_s3):
    """A unit of one partition would fail, or lose all it knows, when a run of another partition begins."""
    store = open_store(on_s3)
    write_shard(on_s3, unit_id="1" * 16, seed=1)
    index = refresh_index(store, KEY)
    expected = places(index, 1)
    write_shard(on_s3, unit_id="2" * 16, seed=2)
    (old,) = run_files(store)
    refresh_index(store, KEY)
    assert old not in run_files(store)
    assert all(expected)
    assert places(index, 1) == expected
    assert index.knows([*hashes(1), *hashes(3)]).tolist() == [True] * 6 + [False] * 6


def test_a_run_that_another_process_merges_first_is_no_error(on_s3, monkeypatch):
    """Of two runs that begin together, one would end with an error of writing."""
    store = open_store(on_s3)
    write_shard(on_s3, unit_id="1" * 16, seed=1)
    refresh_index(store, KEY)
    write_shard(on_s3, unit_id="2" * 16, seed=2)
    original = content_index._merged

    def after_another_process(*merging):
        monkeypatch.setattr(content_index, "_merged", original)
        refresh_index(store, KEY)
        return original(*merging)

    monkeypatch.setattr(content_index, "_merged", after_another_process)
    index = refresh_index(store, KEY)
    assert all(places(index, 1) + places(index, 2))
    assert len(run_files(store)) == 1


def test_a_damaged_run_that_is_written_anew_is_opened_anew(tmp_path):
    """A process that had it open would go on with the damage until it ends."""
    store = open_store(str(tmp_path))
    write_shard(tmp_path, unit_id="1" * 16, seed=1)
    refresh_index(store, KEY)
    (path,) = run_files(store)
    content = bytearray(store.files.read_bytes(path))
    content[RECORD.fields["source"][1]] ^= 8
    store.files.write_bytes(path, bytes(content))
    assert not all(places(open_index(store, KEY), 1))
    store.files.delete(path)
    assert all(places(refresh_index(store, KEY), 1))
    assert run_files(store) == [path]
