"""Manifests of a plain Parquet table: JSON files, each a whole version of the table; the highest number is current.

    <table>/data/<partition>/<file>.parquet      the rows
    <table>/manifests/<number>.json              a version: its partitions, their files and their commit keys

A commit is a new manifest under the next number, which only one writer can give: the file is written beside its place,
synced, and linked to a name that must not exist yet. Needs a file system that has links: a disk, or a mounted share.
A version that maintenance expires leaves an empty file under its number for a day: a slow writer must not find free
what others have long passed.
"""

import contextlib
import json
import os
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from robert_pipeline.errors import WarehouseError
from robert_pipeline.storage.warehouse.columns import TableColumn
from robert_pipeline.storage.warehouse.data_files import DataFile
from schemas import Contract

FORMAT = "robert parquet table"
FORMAT_VERSION = 1
DATA_FOLDER = "data"
MANIFEST_FOLDER = "manifests"
TEMPORARY_SUFFIX = ".tmp"
EXPIRED_HOURS = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldPartition:
    """What a version holds of a partition."""

    commit_key: str
    files: tuple[DataFile, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """One version of a table."""

    number: int
    committed_at: datetime
    columns: dict[str, TableColumn]
    partitions: dict[str, HeldPartition] = field(default_factory=dict)
    changed: str | None = None
    """The partition that this version replaced; None for one that maintenance made."""

    def file_paths(self) -> set[str]:
        """Every file that reading this version needs."""
        return {file.path for held in self.partitions.values() for file in held.files}


class NumberTaken(Exception):  # noqa: N818 - says what is so
    """Another writer committed first."""


def columns_of(contract: Contract) -> dict[str, TableColumn]:
    """The contract's columns as a manifest describes them."""
    return {f.name: TableColumn(shape=str(f.type), required=not f.nullable) for f in contract.schema}


def manifest_numbers(table: Path) -> list[int]:
    """Numbers of the versions, ascending."""
    with contextlib.suppress(FileNotFoundError):
        names = (entry.name.removesuffix(".json") for entry in os.scandir(table / MANIFEST_FOLDER))
        return sorted(int(name) for name in names if name.isdecimal())
    return []


def manifest_path(table: Path, number: int) -> Path:
    """The file of a version."""
    return table / MANIFEST_FOLDER / f"{number:020d}.json"


def current_manifest(table: Path) -> Manifest | None:
    """The current version; None where there is no table. Raises WarehouseError for a folder of somebody else."""
    seen = -1
    while numbers := manifest_numbers(table):
        if numbers[-1] == seen:
            raise WarehouseError(f"manifest {manifest_path(table, seen)} is empty", fix="Restore the file")
        seen = numbers[-1]
        # One that expires between the two looks has a successor.
        with contextlib.suppress(FileNotFoundError):
            return read_manifest(table, numbers[-1])
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        strange = sorted({entry.name for entry in table.iterdir()} - {DATA_FOLDER, MANIFEST_FOLDER})
        if strange:
            raise WarehouseError(
                f"{table} holds '{strange[0]}' and no manifest: it is not a table of robert",
                fix="Choose another warehouse.uri or warehouse.namespace",
            )
    if table.is_file():
        raise WarehouseError(f"{table} is a file", fix="Choose another warehouse.uri or warehouse.namespace")
    return None


def expire_manifest(table: Path, number: int) -> None:
    """Forget a version; its number stays taken."""
    path = manifest_path(table, number)
    temporary = _temporary(path)
    temporary.touch()
    temporary.replace(path)


def remove_expired(table: Path) -> None:
    """Remove what versions that expired long ago have left."""
    old = (datetime.now(UTC) - timedelta(hours=EXPIRED_HOURS)).timestamp()
    for number in manifest_numbers(table)[:-1]:
        path = manifest_path(table, number)
        with contextlib.suppress(FileNotFoundError):
            entry = path.stat()
            if entry.st_size == 0 and entry.st_mtime < old:
                path.unlink()


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")


def read_manifest(table: Path, number: int) -> Manifest:
    """One version. Raises FileNotFoundError where it has expired, WarehouseError for a damaged or a foreign file."""
    path = manifest_path(table, number)
    text = path.read_text(encoding="utf-8", errors="replace")
    if not text:
        raise FileNotFoundError(path)
    try:
        content = json.loads(text)
        if content["format"] != FORMAT or content["version"] != FORMAT_VERSION:
            raise ValueError(f"format '{content['format']}' version {content['version']}")
        return Manifest(
            number=number,
            committed_at=datetime.fromisoformat(content["committed_at"]),
            columns={c["name"]: TableColumn(shape=c["type"], required=c["required"]) for c in content["columns"]},
            partitions={
                name: HeldPartition(
                    commit_key=held["commit_key"],
                    files=tuple(DataFile(path=f["path"], rows=f["rows"], size_bytes=f["bytes"]) for f in held["files"]),
                )
                for name, held in content["partitions"].items()
            },
            changed=content["changed"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = str(error).split("\n")[0]
        raise WarehouseError(
            f"manifest {path} is not one of robert's, or damaged: {problem}",
            fix="Restore the file, or choose another warehouse.uri",
        ) from error


def write_manifest(table: Path, manifest: Manifest) -> None:
    """Commit a version. Raises NumberTaken where another writer gave its number first."""
    content = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "committed_at": manifest.committed_at.isoformat(),
        "changed": manifest.changed,
        "columns": [{"name": n, "type": c.shape, "required": c.required} for n, c in manifest.columns.items()],
        "partitions": {
            name: {
                "commit_key": held.commit_key,
                "files": [{"path": f.path, "rows": f.rows, "bytes": f.size_bytes} for f in held.files],
            }
            for name, held in manifest.partitions.items()
        },
    }
    path = manifest_path(table, manifest.number)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with temporary.open("x", encoding="utf-8") as stream:
            json.dump(content, stream, ensure_ascii=False, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise NumberTaken from None
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def later_than(manifest: Manifest | None) -> datetime:
    """Now, but later than the version before, whatever the clock says: versions have the order of their numbers."""
    now = datetime.now(UTC)
    return now if manifest is None else max(now, manifest.committed_at + timedelta(microseconds=1))
