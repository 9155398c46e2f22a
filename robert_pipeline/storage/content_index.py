"""Where the vectors of a text are: from text hash to embedding shards, for one embedding key.

The index is derived from the shards and holds nothing else: sorted runs, each covering some shards, merged so that
their number grows with the logarithm of the texts. Deleting it loses nothing; the next `refresh` writes it anew. What
it says is a hint: whoever follows it compares the whole text hash in the shard. Memory: an eighth of a byte a text
while looking up, `BUILD_RECORDS` of 16 bytes and their copies while writing.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robert_pipeline.config import fingerprint
from robert_pipeline.storage.files import FileEntry, Files
from robert_pipeline.storage.hash_runs import (
    RECORD,
    HashRun,
    Hits,
    Name,
    Prefixes,
    Records,
    RunError,
    RunGoneError,
    RunWriter,
    open_run,
    prefixes,
    sorted_records,
    write_run,
)
from robert_pipeline.storage.store import SHARED_TEXTS, EmbeddingKey, Store, partition_folder

log = logging.getLogger(__name__)

BUILD_RECORDS = 1 << 21
"""Records in memory at once while runs are written and merged: 32 MB, and some copies of it."""

READERS = 8
"""Shards read at once: reading hashes is waiting, on object stores."""

REFRESHES = 4
"""Times that a refresh looks at the runs again, when another process has merged some or some are damaged."""

RUN_SUFFIX = ".run"
SHARED_PREFIX = f"{partition_folder(SHARED_TEXTS)}/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """A row group that should hold a text."""

    path: str
    row_group: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ContentIndex:
    """The runs of one key, the newest first."""

    folder: str
    runs: tuple[HashRun, ...]
    reopened: Callable[[], Sequence[HashRun]]
    """Gives the runs that are there now: another process may merge those above while this index is in use."""

    @property
    def text_count(self) -> int:
        """Texts indexed; one that is in several shards counts as often."""
        return sum(run.count for run in self.runs)

    def find(self, text_hashes: Sequence[str]) -> list[list[Location]]:
        """For each hash, the places to look, the newest first; none where the text is not known."""
        found: list[list[Location]] = [[] for _ in text_hashes]
        if not text_hashes:
            return found
        wanted = prefixes(text_hashes)
        order = np.argsort(wanted, kind="stable")
        for run, hits in self._look_up(wanted[order]):
            queries = order[hits.query_H]
            for query, source, place in zip(
                queries.tolist(), hits.source_H.tolist(), hits.place_H.tolist(), strict=True
            ):
                found[query].append(Location(path=f"{self.folder}/{run.names[source][0]}", row_group=place))
        return found

    def knows(self, text_hashes: Sequence[str]) -> np.ndarray:
        """Which hashes are in some run: (Q,) bool."""
        wanted = prefixes(text_hashes)
        order = np.argsort(wanted, kind="stable")
        known = np.zeros(len(wanted), bool)
        for _, hits in self._look_up(wanted[order]):
            known[order[hits.query_H]] = True
        return known

    def _look_up(self, sorted_prefixes_Q: Prefixes) -> list[tuple[HashRun, Hits]]:
        try:
            return [(run, _hits(run, sorted_prefixes_Q)) for run in self.runs]
        except RunError:
            found: list[tuple[HashRun, Hits]] = []
            for run in self.reopened():
                try:
                    found.append((run, _hits(run, sorted_prefixes_Q)))
                except RunError as error:
                    log.warning("index run %s is passed over, texts of it are embedded again: %s", run.path, error)
            return found


def _hits(run: HashRun, sorted_prefixes_Q: Prefixes) -> Hits:
    """What a run finds in shards that it names: by a flipped bit, a record is of another one."""
    hits = run.find(sorted_prefixes_Q)
    if (named_H := hits.source_H < len(run.names)).all():
        return hits
    log.warning("index run %s is damaged, run `robert store verify`: it names no such shard", run.path)
    return Hits(query_H=hits.query_H[named_H], source_H=hits.source_H[named_H], place_H=hits.place_H[named_H])


def open_index(store: Store, key: EmbeddingKey) -> ContentIndex:
    """The index as the last refresh left it. A run that is damaged is left out, with a warning. Raises StoreError."""
    reopened = partial(_open_runs, store, key)
    return ContentIndex(folder=store.embedding_folder(key), runs=reopened(), reopened=reopened)


def refresh_index(store: Store, key: EmbeddingKey) -> ContentIndex:
    """Index the shards that no run covers, drop runs of shards that are gone, merge; gives the new index.

    Several processes may do so at once: what one of them leaves to do, the next refresh does. Raises StoreError.
    """
    for _ in range(REFRESHES):
        if _refresh(store, key):
            break
    return open_index(store, key)


def _refresh(store: Store, key: EmbeddingKey) -> bool:
    """False where it has to be begun again, from what is there now."""
    folder = store.embedding_folder(key)
    shards = sorted(store.files.list(folder), key=lambda entry: (entry.modified_ns, entry.path))
    present = {_name(entry, folder): entry for entry in shards}
    runs = _without_covered(store, _open_runs(store, key), set(present))
    covered = {name for run in runs for name in run.names}
    missing = [entry for name, entry in present.items() if name not in covered]
    for records, names in _batches(store.files, missing, folder):
        try:
            runs.append(_written(store, key, records, names))
        except FileNotFoundError:
            return False  # another process has merged it already
    return not runs or _merge(store, key, runs, list(present))


def index_shards(files: Files, shards: Sequence[FileEntry], folder: str, scratch: Files) -> ContentIndex:
    """An index of exactly these shards of `folder`, whatever the store's own says, in files of `scratch`."""
    runs: list[HashRun] = []
    for records, names in _batches(files, shards, folder):
        path = f"{len(runs)}{RUN_SUFFIX}"
        write_run(scratch, path, records, names)
        runs.append(open_run(scratch, path))
    return ContentIndex(folder=folder, runs=tuple(runs), reopened=lambda: runs)


UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError)
"""What `read_hashes` raises for a damaged shard."""


def read_hashes(files: Files, path: str) -> Iterator[tuple[int, list[str]]]:
    """(row group, text hashes of its documents) of a shard. Raises what pyarrow raises for a damaged file."""
    with pq.ParquetFile(files.open(path), page_checksum_verification=True) as file:
        for group in range(file.metadata.num_row_groups):
            rows = file.read_row_group(group, columns=["text_hash", "chunk_index"], use_threads=False)
            firsts = np.flatnonzero(rows.column("chunk_index").to_numpy() == 0)
            yield group, rows.column("text_hash").take(pa.array(firsts)).to_pylist()


def _name(entry: FileEntry, folder: str) -> Name:
    # With the size: a shard that was written anew under the same name may hold its texts elsewhere.
    return entry.path[len(folder) + 1 :], entry.size_bytes


def _run_entries(store: Store, key: EmbeddingKey) -> list[FileEntry]:
    entries = [entry for entry in store.files.list(store.index_folder(key)) if entry.path.endswith(RUN_SUFFIX)]
    return sorted(entries, key=lambda entry: (entry.modified_ns, entry.path))


def _open_runs(store: Store, key: EmbeddingKey) -> tuple[HashRun, ...]:
    """The newest first."""
    runs = [run for entry in _run_entries(store, key) if (run := _open(store.files, entry)) is not None]
    return tuple(reversed(runs))


@lru_cache(maxsize=64)
def _opened(files: Files, path: str, _revision: str) -> HashRun:
    return open_run(files, path)  # changes under its name only where it was damaged, and is written anew


def _open(files: Files, entry: FileEntry) -> HashRun | None:
    try:
        return _opened(files, entry.path, entry.revision)
    except FileNotFoundError:
        return None  # merged with others in the meantime
    except (RunError, ValueError) as error:
        log.warning("index %s is left out: %s. It is derived and may be deleted", files.describe(entry.path), error)
        return None


def _batches(files: Files, shards: Sequence[FileEntry], folder: str) -> Iterator[tuple[Records, list[Name]]]:
    """Records of the shards, at most about `BUILD_RECORDS` at once."""
    held: list[Records] = []
    names: list[Name] = []
    with ThreadPoolExecutor(READERS, thread_name_prefix="index") as readers:
        for start in range(0, len(shards), READERS * 4):
            some = shards[start : start + READERS * 4]
            for entry, records in zip(some, readers.map(lambda e: _shard_records(files, e), some), strict=True):
                if records is None:
                    continue
                records["source"] = len(names)
                names.append(_name(entry, folder))
                held.append(records)
                if sum(map(len, held)) >= BUILD_RECORDS:
                    yield np.concatenate(held), names
                    held, names = [], []
    if held:
        yield np.concatenate(held), names


def _shard_records(files: Files, entry: FileEntry) -> Records | None:
    parts: list[Records] = [np.empty(0, RECORD)]
    try:
        for group, hashes in read_hashes(files, entry.path):
            records = np.empty(len(hashes), RECORD)
            records["prefix"], records["place"] = prefixes(hashes), group
            parts.append(records)
    except FileNotFoundError:
        return None  # deleted in the meantime
    except UNREADABLE as error:
        problem = str(error).strip().split("\n")[0]
        log.warning("shard %s cannot be read, run `robert store verify`: %s", files.describe(entry.path), problem)
        return None
    return np.concatenate(parts)


def _written(store: Store, key: EmbeddingKey, records: Records, names: Sequence[Name]) -> HashRun:
    path = _run_path(store, key, names)
    write_run(store.files, path, records, names)
    return open_run(store.files, path)


def _run_path(store: Store, key: EmbeddingKey, names: Sequence[Name]) -> str:
    covers = fingerprint("run/1", {"shards": sorted(f"{name}|{size}" for name, size in names)})
    return f"{store.index_folder(key)}/{covers}{RUN_SUFFIX}"


def _without_covered(store: Store, runs: Sequence[HashRun], present: set[Name]) -> list[HashRun]:
    """Runs that say something the others do not; the rest are deleted. A killed merge leaves what it has merged."""
    kept: list[HashRun] = []
    covered: set[Name] = set()
    for run in sorted(runs, key=lambda run: len(run.names), reverse=True):
        if set(run.names) & present <= covered:
            store.files.delete(run.path)
        else:
            kept.append(run)
            covered |= set(run.names)
    return kept


def _merge(store: Store, key: EmbeddingKey, runs: Sequence[HashRun], present: Sequence[Name]) -> bool:
    """Merge the smallest runs while the next is at most twice as large as they are together, and any that is stale.

    `present` names the shards that exist, oldest first. False where a run has gone meanwhile, or had to be deleted.
    """
    alive = set(present)
    chosen = [run for run in runs if _is_stale(run, alive)]
    is_stale = bool(chosen)
    for run in sorted(runs, key=lambda run: run.count):
        if run.path not in {other.path for other in chosen} and (
            not chosen or run.count <= 2 * sum(other.count for other in chosen)
        ):
            chosen.append(run)
    if len(chosen) > 1 or is_stale:
        try:
            sound = [run for run in chosen if _is_sound(store.files, run)]
            if len(sound) < len(chosen):
                return False
            path = _merged(store, key, chosen, present)
        except RunGoneError:
            return False  # another process has merged them meanwhile
        for run in chosen:
            if run.path != path:
                store.files.delete(run.path)
    return True


def _is_sound(files: Files, run: HashRun) -> bool:
    """Delete a run that is damaged: merged, its records would be sealed anew with the damage in them.

    Raises RunGoneError.
    """
    try:
        run.check()
    except RunGoneError:
        raise
    except RunError as error:
        log.warning("index run %s is written anew: %s", files.describe(run.path), error)
        files.delete(run.path)
        return False
    return True


def _is_stale(run: HashRun, alive: set[Name]) -> bool:
    """Whether the run knows texts of shards that are gone; shards of shared texts always go: units have copies."""
    gone = [name for name in run.names if name not in alive]
    return 2 * len(gone) > len(run.names) or any(not name.startswith(SHARED_PREFIX) for name, _ in gone)


def _merged(store: Store, key: EmbeddingKey, runs: Sequence[HashRun], present: Sequence[Name]) -> str | None:
    """Write the records of several runs as one, those of shards that are gone left out; gives its path."""
    covered = {name for run in runs for name in run.names}
    names = [name for name in present if name in covered]
    if not names:
        return None
    number_of = {name: number for number, name in enumerate(names)}
    total = sum(run.count for run in runs)
    path = _run_path(store, key, names)
    with store.files.writing(path) as temporary, RunWriter(temporary, count=total) as writer:
        for parts in zip(*(run.slices(-(-total // BUILD_RECORDS) or 1) for run in runs), strict=True):
            kept = [_renumbered(part, run.names, number_of) for part, run in zip(parts, runs, strict=True)]
            writer.write(sorted_records(np.concatenate(kept)))
        writer.close(names)
    return path


def _renumbered(records: Records, names: Sequence[Name], number_of: Mapping[Name, int]) -> Records:
    gone = len(number_of)
    numbers = np.array([number_of.get(name, gone) for name in names], np.uint32)
    renumbered = records.copy()
    renumbered["source"] = numbers[records["source"]]
    kept: Records = renumbered[renumbered["source"] != gone]
    return kept
