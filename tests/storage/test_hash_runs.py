"""Sorted runs of text hashes, against a dictionary."""

import os
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robert_pipeline.storage import hash_runs
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.hash_runs import RECORD, RunError, open_run, prefixes, sorted_records, write_run

NAMES = [("old.parquet", 10), ("new.parquet", 20)]


def records_of(rows):
    return np.array(rows, RECORD) if len(rows) else np.empty(0, RECORD)


def run_of(folder, rows, names=NAMES):
    write_run(Files(str(folder)), "r.run", records_of(rows), names)
    return open_run(Files(str(folder)), "r.run")


def found(run, queries):
    """Query to the (source, place) it was found at, in the order given."""
    ordered = np.sort(np.array(queries, np.uint64))
    hits = run.find(ordered)
    places = {int(query): [] for query in queries}
    for query, source, place in zip(hits.query_H, hits.source_H, hits.place_H, strict=True):
        places[int(ordered[query])].append((int(source), int(place)))
    return places


# Few different hashes, so that some repeat; with the edges of every range, and of all.
hashes = st.one_of(st.integers(0, 9), st.sampled_from([2**63, 2**63 - 1, 2**64 - 1]), st.integers(0, 2**64 - 1))
rows = st.lists(st.tuples(hashes, st.integers(0, 1), st.integers(0, 5)), max_size=60)


@given(rows, st.lists(hashes, unique=True), st.sampled_from([1, 4, 256]), st.sampled_from([1, 8, 1 << 18]))
def test_a_run_answers_as_a_dictionary_would(tmp_path_factory, rows, queries, range_records, read_records):
    """A text that the store has would not be found, or another would be found in its place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hash_runs, "RANGE_RECORDS", range_records)
        patch.setattr(hash_runs, "MOST_READ_RECORDS", read_records)
        patch.setattr(hash_runs, "NEAR_RECORDS", read_records)
        run = run_of(tmp_path_factory.mktemp("run"), rows)
        expected = {q: sorted({(s, p) for prefix, s, p in rows if prefix == q}, reverse=True) for q in queries}
        assert found(run, queries) == expected
        run.check()


@given(rows, st.integers(1, 7))
def test_slices_cover_all_records_once(tmp_path_factory, rows, count):
    """Merging would lose texts, or the sharing of texts between units would not be seen."""
    run = run_of(tmp_path_factory.mktemp("run"), rows)
    slices = list(run.slices(count))
    assert len(slices) == count
    assert np.concatenate(slices).tolist() == sorted_records(records_of(rows)).tolist()


def test_hashes_keep_their_first_64_bits():
    """Look-ups would compare something else than the hash."""
    assert prefixes(["00000000000000ff" + "0" * 48, "f" * 64]).tolist() == [255, 2**64 - 1]
    assert prefixes([]).tolist() == []


def test_a_large_run_is_searched_without_being_read_whole(tmp_path, monkeypatch):
    """Memory and traffic of a look-up would grow with the store."""
    rng = np.random.default_rng(0)
    records = np.zeros(400_000, RECORD)
    records["prefix"] = rng.integers(0, 2**64, len(records), np.uint64)
    records["place"] = np.arange(len(records))
    run = run_of(tmp_path, records)
    read = []
    original = hash_runs.HashRun._read
    monkeypatch.setattr(
        hash_runs.HashRun,
        "_read",
        lambda self, start, stop: (read.append(stop - start), original(self, start, stop))[1],
    )
    wanted = records[rng.integers(0, len(records), 15)]
    assert found(run, wanted["prefix"].tolist()) == {int(r["prefix"]): [(0, int(r["place"]))] for r in wanted}
    assert sum(read) < len(records) / 20


def test_names_come_back(tmp_path):
    """A place that was found could not be turned into a shard."""
    assert run_of(tmp_path, [(1, 0, 0)]).names == (("old.parquet", 10), ("new.parquet", 20))


def test_a_run_may_be_searched_by_several_threads(tmp_path):
    """An engine with threads would get another's records."""
    run = run_of(tmp_path, [(i << 40, 0, i) for i in range(5_000)])
    wrong = []

    def search(seed):
        numbers = np.random.default_rng(seed).choice(5_000, 300, replace=False)
        if found(run, [int(n) << 40 for n in numbers]) != {int(n) << 40: [(0, int(n))] for n in numbers}:
            wrong.append(seed)

    threads = [threading.Thread(target=search, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("content", [b"", b"x" * 10, os.urandom(500)])
def test_a_file_that_is_no_run_is_refused(tmp_path, content):
    """A foreign file in the index folder would stop every run."""
    (tmp_path / "r.run").write_bytes(content)
    with pytest.raises(RunError):
        open_run(Files(str(tmp_path)), "r.run")


def test_a_flipped_bit_never_finds_what_was_not_written(tmp_path):
    """A damaged index would send a text to another text's vectors."""
    rows = [(i * 2**58, i % 2, i) for i in range(60)]
    run_of(tmp_path, rows)
    whole = (tmp_path / "r.run").read_bytes()
    unseen = 0
    for byte in range(len(whole)):
        flipped = bytearray(whole)
        flipped[byte] ^= 1 << byte % 8
        (tmp_path / "r.run").write_bytes(flipped)
        try:
            run = open_run(Files(str(tmp_path)), "r.run")
            run.check()
            unseen += 1
            assert found(run, [row[0] for row in rows]) == {p: [(s, n)] for p, s, n in rows}
        except RunError:
            continue
    assert unseen <= 8  # the number of bits of the directory, where it makes no difference
