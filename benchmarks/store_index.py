"""Looking texts up in the store's index of ten million: memory, rate and size, beside SQLite with the same entries.

The index is the store's own: sorted runs, as many and as large as merging leaves them, of random hashes and of the
shards of that many texts. Looking up is what embedding a block of documents asks: half of the texts are known. Each
contender runs in a process of its own; its memory is what the peak of resident memory grows by, from before the index
is opened to after the last look-up (Linux only). "all hashes in memory" is a sorted array, searched without reading:
the ceiling of the rate, and what the memory would be.
"""

import json
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Figure, options, show, timed
from robert_pipeline.storage.content_index import open_index
from robert_pipeline.storage.hash_runs import RECORD, RunWriter, prefixes
from robert_pipeline.storage.store import EmbeddingKey, open_store

SHARD_TEXTS = 3_800
BLOCK_TEXTS = 1_900
KEY = EmbeddingKey(encoder_fingerprint="e" * 16, chunking_fingerprint="c" * 16, vector_dtype="float16")
CONTENDERS = ("store index", "sqlite", "all hashes in memory")


def main() -> None:
    """Measure, print, write."""
    parser = options(__doc__ or "")
    parser.add_argument("--entries", type=int, default=10_000_000, help="texts in the index")
    parser.add_argument("--look-up", nargs=3, metavar=("CONTENDER", "FOLDER", "BLOCKS"), help="in its own process")
    chosen = parser.parse_args()
    if chosen.look_up:
        contender, folder, blocks = chosen.look_up
        print(json.dumps(_look_up(contender, Path(folder), int(blocks))))
        return
    entries, blocks, repeats = (200_000, 5, 1) if chosen.quick else (chosen.entries, 50, 3)
    with tempfile.TemporaryDirectory(prefix="robert-index-") as name:
        folder = Path(name)
        build_seconds = timed(lambda: _build(folder, entries))
        rounds = [{name: _in_a_process(name, folder, blocks) for name in CONTENDERS} for _ in range(repeats)]
        index_bytes = sum(path.stat().st_size for path in (folder / "store").rglob("*.run"))
        sqlite_bytes = (folder / "index.db").stat().st_size
    figures = [
        Figure(name=f"{name}: {what}", unit=unit, values=tuple(taken[name][what] for taken in rounds))
        for what, unit in (("memory", "MB"), ("rate", "look-ups/s"))
        for name in CONTENDERS
    ]
    figures += [
        Figure(name="store index: size", unit="bytes/text", values=(index_bytes / entries,)),
        Figure(name="sqlite: size", unit="bytes/text", values=(sqlite_bytes / entries,)),
        Figure(name="writing them all", unit="s", values=(build_seconds,)),
    ]
    median = {figure.name: figure.median for figure in figures}
    show(
        f"an index of {entries:,} texts",
        figures,
        {
            "memory_megabytes": median["store index: memory"],
            "memory_bytes_per_text": median["store index: memory"] * 1e6 / entries,
            "rate_over_sqlite": median["store index: rate"] / median["sqlite: rate"],
            "memory_over_all_in_memory": median["store index: memory"] / median["all hashes in memory: memory"],
        },
        json_file=chosen.json,
    )


def _records(entries: int) -> NDArray[np.void]:
    """Random hashes in ascending order, each with the shard that holds its text."""
    rng = np.random.default_rng(0)
    records = np.zeros(entries, RECORD)
    records["prefix"] = np.sort(rng.integers(0, 1 << 64, entries, np.uint64))
    records["source"] = rng.integers(0, -(-entries // SHARD_TEXTS), entries)
    records["place"] = rng.integers(0, 2, entries)
    return records


def _runs(entries: int) -> Iterator[tuple[int, int]]:
    """(run, one of how many thirds): each run is twice as large as all smaller ones together."""
    run, left = 0, entries
    while left > 2 * BLOCK_TEXTS:
        yield run, 3
        run, left = run + 1, left // 3
    yield run, 1


def _build(folder: Path, entries: int) -> None:
    records = _records(entries)
    names = [(f"day/{shard:016x}.parquet", 4_000_000) for shard in range(-(-entries // SHARD_TEXTS))]
    database = sqlite3.connect(folder / "index.db")
    database.execute("CREATE TABLE texts (hash INTEGER PRIMARY KEY, source INTEGER, place INTEGER) WITHOUT ROWID")
    signed = records["prefix"].view(np.int64)
    for first in range(0, entries, 1 << 20):
        part = slice(first, first + (1 << 20))
        columns = (signed[part].tolist(), records["source"][part].tolist(), records["place"][part].tolist())
        database.executemany("INSERT OR IGNORE INTO texts VALUES (?, ?, ?)", zip(*columns, strict=True))
    database.commit()
    database.close()
    np.save(folder / "hashes.npy", records["prefix"])
    store = open_store(str(folder / "store"))
    chance = np.random.default_rng(1)
    for run, thirds in _runs(entries):
        is_in_run = chance.random(len(records)) < (2 / 3 if thirds == 3 else 2)
        path, count = f"{store.index_folder(KEY)}/{run:04}.run", int(is_in_run.sum())
        with store.files.writing(path) as place, RunWriter(place, count=count) as writer:
            writer.write(records[is_in_run])
            writer.close(names)
        records = records[~is_in_run]


def _in_a_process(contender: str, folder: Path, blocks: int) -> dict[str, float]:
    program = [sys.executable, "-m", "benchmarks.store_index", "--look-up", contender, str(folder), str(blocks)]
    done = subprocess.run(program, check=True, capture_output=True, text=True)
    taken: dict[str, float] = json.loads(done.stdout)
    return taken


def _look_up(contender: str, folder: Path, blocks: int) -> dict[str, float]:
    """Open the index and look blocks of hashes up; gives the rate, and how much memory that took."""
    questions = _questions(folder, blocks)
    open_it = {"store index": _open_store_index, "sqlite": _open_sqlite, "all hashes in memory": _open_array}[contender]
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _memory_kilobytes("VmRSS")
    find = open_it(folder)
    seconds = timed(lambda: [_check(find(block)) for block in questions])
    grown = _memory_kilobytes("VmHWM") - before
    return {"memory": max(grown, 1) * 1024 / 1e6, "rate": blocks * BLOCK_TEXTS / seconds}


def _memory_kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _check(found: int) -> int:
    assert BLOCK_TEXTS // 2 <= found <= BLOCK_TEXTS // 2 + 5, found
    return found


def _questions(folder: Path, blocks: int) -> list[list[str]]:
    """Hashes in hexadecimal, every other one known. Reads few pages of the file of hashes: memory is measured next."""
    hashes = np.load(folder / "hashes.npy", mmap_mode="r")
    rng = np.random.default_rng(2)
    questions: list[list[str]] = []
    for _ in range(blocks):
        known = hashes[rng.integers(0, len(hashes), BLOCK_TEXTS // 2)]
        unknown = rng.integers(0, 1 << 64, BLOCK_TEXTS - len(known), np.uint64)
        block = np.concatenate([known, unknown])
        rng.shuffle(block)
        questions.append([f"{number:016x}{number:048x}" for number in block.tolist()])
    return questions


def _open_store_index(folder: Path) -> Callable[[list[str]], int]:
    index = open_index(open_store(str(folder / "store")), KEY)
    return lambda block: sum(1 for places in index.find(block) if places)


def _open_sqlite(folder: Path) -> Callable[[list[str]], int]:
    database = sqlite3.connect(folder / "index.db")

    def find(block: list[str]) -> int:
        wanted = np.sort(prefixes(block)).view(np.int64).tolist()
        ask = "SELECT source, place FROM texts WHERE hash = ?"
        return sum(1 for number in wanted if database.execute(ask, (number,)).fetchone())

    return find


def _open_array(folder: Path) -> Callable[[list[str]], int]:
    hashes = np.load(folder / "hashes.npy")

    def find(block: list[str]) -> int:
        wanted = np.sort(prefixes(block))
        places = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
        return int((hashes[places] == wanted).sum())

    return find


if __name__ == "__main__":
    main()
