"""What runs left behind: one small JSON file a run of a partition, with what it took and how it ended.

runs/<partition>/<run id>.json

Run ids sort by time, so the last run of a partition is found by name. Nothing is published by what stands here: the
ledger of the table is the truth.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Literal

from robert_pipeline.core.price import RateSample
from robert_pipeline.errors import StoreError
from robert_pipeline.storage.files import FileEntry, Files
from robert_pipeline.storage.store import partition_folder

FOLDER = "runs"
READ_SAMPLES = 200
"""Rates come from so many of the newest runs."""

Ending = Literal["published", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """One run of one partition that came to an end. `error` is what ended it, where it failed."""

    run_id: str
    partition: str
    ending: Ending
    error: str = ""
    rejected: int = 0
    finished_at: str = ""
    sample: RateSample

    def to_json(self) -> bytes:
        """As it stands in its file."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()

    @classmethod
    def from_json(cls, text: bytes) -> "RunRecord":
        """Raises ValueError, KeyError or TypeError where the text is not a record."""
        values = json.loads(text)
        values["sample"] = RateSample(**values["sample"])
        return cls(**{f.name: values[f.name] for f in fields(cls)})


def write_record(store: str, record: RunRecord) -> None:
    """Keep a record. Raises StoreError."""
    Files(store).write_bytes(_path(record.partition, record.run_id), record.to_json())


def write_crash(store: str, partition: str, run_id: str, error: str) -> None:
    """Keep a record of a run that could not write its own. Raises StoreError."""
    nothing = RateSample(
        encoder_fingerprint="",
        machine="",
        documents=0,
        embed_documents=0,
        embed_tokens=0,
        embed_text_bytes=0,
        embed_seconds=0.0,
        seconds=0.0,
    )
    write_record(store, RunRecord(run_id=run_id, partition=partition, ending="failed", error=error, sample=nothing))


def find_record(store: str, partition: str, run_id: str) -> RunRecord | None:
    """What a run left behind; None where it came to no end."""
    return _read(Files(store), _path(partition, run_id))


def tokens_since(store: str, partitions: Iterable[str], moment: float) -> int:
    """Tokens that runs of these partitions have embedded which came to an end after `moment`, in seconds since 1970."""
    files = Files(store)
    since = datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
    entries = [entry for name in partitions for entry in files.list(f"{FOLDER}/{partition_folder(name)}")]
    records = [_read(files, entry.path) for entry in entries]
    return sum(record.sample.embed_tokens for record in records if record is not None and record.finished_at >= since)


def failed_partitions(store: str, partitions: Iterable[str]) -> set[str]:
    """Those partitions whose last run that came to an end failed."""
    files = Files(store)
    last: dict[str, FileEntry] = {}
    for entry in files.list(FOLDER):  # sorted by path, so the last one stays
        last[entry.path.split("/")[1]] = entry
    ended = {partition: last.get(partition_folder(partition)) for partition in partitions}
    records = {partition: _read(files, entry.path) for partition, entry in ended.items() if entry is not None}
    return {partition for partition, record in records.items() if record is not None and record.ending == "failed"}


def recent_samples(store: str) -> list[RateSample]:
    """What the newest runs took, those that failed left out."""
    files = Files(store)
    newest = sorted(files.list(FOLDER), key=lambda entry: entry.path.rpartition("/")[2])[-READ_SAMPLES:]
    records = [_read(files, entry.path) for entry in newest]
    return [record.sample for record in records if record is not None and record.ending == "published"]


def _read(files: Files, path: str) -> RunRecord | None:
    try:
        return RunRecord.from_json(files.read_bytes(path))
    except (ValueError, KeyError, TypeError, FileNotFoundError, StoreError):
        return None  # a record that cannot be read is no reason to stop


def _path(partition: str, run_id: str) -> str:
    return f"{FOLDER}/{partition_folder(partition)}/{run_id}.json"
