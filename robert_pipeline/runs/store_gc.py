"""Find what a store holds for nothing: leftovers of killed runs, shards that no plan wants. Deletes on request.

Live is, under every encoder and every head, each unit that the corpus and the settings given cut today, and everything
that other corpora or other settings have put into the store. Never touches a file younger than the age given: it may be
the work of a run that is still going.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum

from robert_pipeline.config import Settings
from robert_pipeline.errors import first_line
from robert_pipeline.runs.plan import plan_units_of, source_fingerprint
from robert_pipeline.runs.store_inventory import READERS, read_headers
from robert_pipeline.storage.content_index import UNREADABLE, index_shards, read_hashes
from robert_pipeline.storage.files import FileEntry, Files
from robert_pipeline.storage.store import ShardPlace, Store, open_store, partition_folder
from robert_pipeline.telemetry.watch import observed

log = logging.getLogger(__name__)
Clock = Callable[[], float]

HOUR_NS = 3_600 * 10**9
DAY_NS = 24 * HOUR_NS


class Reason(StrEnum):
    """Why a file can go."""

    TEMPORARY = "half-written file of a killed run"
    SURVEY = "scratch of a killed embed"
    ORPHAN = "without its embedding shard"
    UNPLANNED = "of a unit that is not planned any more"
    REDUNDANT = "not planned any more, every text is held by a planned unit"
    SUPERSEDED = "not planned any more, texts that come back are embedded again"
    INDEX = "index of an encoder that has no shards"


@dataclass(frozen=True, kw_only=True, slots=True)
class Garbage:
    """A file that can go."""

    path: str
    size_bytes: int
    reason: Reason


@dataclass(frozen=True, kw_only=True, slots=True)
class GcReport:
    """What can go, and what of it has gone."""

    garbage: tuple[Garbage, ...]
    is_deleted: bool
    kept_superseded_shards: int
    """Shards not planned any more that are kept, because they hold texts that no planned unit has."""
    kept_superseded_bytes: int
    other_shards: int
    """Shards of other corpora or settings: never touched."""

    @property
    def size_bytes(self) -> int:
        """Of all that can go."""
        return sum(item.size_bytes for item in self.garbage)


@observed("gc")
def collect_garbage(
    settings: Settings,
    *,
    delete: bool = False,
    older_than_hours: float = 24,
    superseded_days: float | None = None,
    clock: Clock = time.time,
) -> GcReport:
    """List, and with `delete` remove, what `settings.store` holds for nothing.

    Vectors of units that are not planned any more still serve texts that come back. They go only where every text of
    theirs is in a planned unit too, or, with `superseded_days`, when they are older than that. Raises CorpusError
    where the corpus cannot be planned: without a plan nothing is garbage.
    """
    store = open_store(settings.store)
    now_ns = int(clock() * 1e9)
    old = _Age(before_ns=now_ns - int(older_than_hours * HOUR_NS))
    places = store.shards()
    superseded, other = _superseded(settings, store, places)
    forgotten = None if superseded_days is None else now_ns - int(superseded_days * DAY_NS)
    going = _expendable(store, places, [place for place in superseded if old.has(place.entry)], forgotten)
    gone = {item.path for item in going}
    left = [place for place in places if place.kind == "embeddings" and place.entry.path not in gone]
    garbage = [
        *_leftovers(store, old),
        *going,
        *_without_shard(places, {place.unit for place in left}, {place.unit for place in superseded}, old),
        *_dead_indexes(store, {place.key.folder for place in left}, old),
    ]
    if delete:
        # Embedding shards before what belongs to them: killed in between, the rest is garbage the next time.
        with ThreadPoolExecutor(READERS, thread_name_prefix="gc") as workers:
            for items in (going, [item for item in garbage if item not in going]):
                list(workers.map(store.files.delete, [item.path for item in items]))
    kept = [place for place in superseded if place.entry.path not in gone]
    return GcReport(
        garbage=tuple(garbage),
        is_deleted=delete,
        kept_superseded_shards=len(kept),
        kept_superseded_bytes=sum(place.entry.size_bytes for place in kept),
        other_shards=other,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Age:
    before_ns: int

    def has(self, entry: FileEntry) -> bool:
        return entry.modified_ns < self.before_ns


def _leftovers(store: Store, old: _Age) -> list[Garbage]:
    found = [(entry, Reason.TEMPORARY) for entry in store.files.list_temporary()]
    found += [(entry, Reason.SURVEY) for entry in store.files.list("surveys")]
    return [_garbage(entry, reason) for entry, reason in found if old.has(entry)]


def _superseded(settings: Settings, store: Store, places: Sequence[ShardPlace]) -> tuple[list[ShardPlace], int]:
    """Embedding shards of this corpus and these settings that are in no plan, and how many are of others."""
    planned = {(partition_folder(unit.partition), unit.unit_id) for units in plan_units_of(settings) for unit in units}
    unplanned = [
        place
        for place in places
        if place.kind == "embeddings" and (place.partition_folder, place.unit_id) not in planned
    ]
    source = source_fingerprint(settings)
    superseded: list[ShardPlace] = []
    for place, header in read_headers(store, unplanned):
        # One that cannot be read is for `verify` to judge.
        if header is not None and header.source_fingerprint == source:
            superseded.append(place)
    return superseded, len(unplanned) - len(superseded)


def _expendable(
    store: Store, places: Sequence[ShardPlace], superseded: Sequence[ShardPlace], forgotten_before_ns: int | None
) -> list[Garbage]:
    """Those superseded shards that can go."""
    found: list[Garbage] = []
    unplanned = {place.entry.path for place in superseded}
    for folder in sorted({place.key.folder for place in superseded}):
        mine = [place for place in superseded if place.key.folder == folder]
        live = [
            place.entry
            for place in places
            if place.kind == "embeddings" and place.key.folder == folder and place.entry.path not in unplanned
        ]
        with tempfile.TemporaryDirectory(prefix="robert-gc-") as scratch:
            index = index_shards(store.files, live, f"embeddings/{folder}", Files(scratch))
            for place in mine:
                try:
                    known = all(index.knows(hashes).all() for _, hashes in read_hashes(store.files, place.entry.path))
                except UNREADABLE as error:
                    # Gone meanwhile, or for `verify` to judge.
                    log.warning("%s is left: %s", store.files.describe(place.entry.path), first_line(error))
                    continue
                if known:
                    found.append(_garbage(place.entry, Reason.REDUNDANT))
                elif forgotten_before_ns is not None and place.entry.modified_ns < forgotten_before_ns:
                    found.append(_garbage(place.entry, Reason.SUPERSEDED))
    return found


def _without_shard(
    places: Sequence[ShardPlace],
    present: set[tuple[str, str, str]],
    superseded: set[tuple[str, str, str]],
    old: _Age,
) -> list[Garbage]:
    """Rejects and predictions of units that have no embedding shard, and predictions that nobody will publish."""
    found: list[Garbage] = []
    for place in places:
        if place.kind == "embeddings" or not old.has(place.entry):
            continue
        if place.unit not in present:
            found.append(_garbage(place.entry, Reason.ORPHAN))
        elif place.head is not None and place.unit in superseded:
            found.append(_garbage(place.entry, Reason.UNPLANNED))
    return found


def _dead_indexes(store: Store, alive: set[str], old: _Age) -> list[Garbage]:
    return [
        _garbage(entry, Reason.INDEX)
        for entry in store.files.list("index")
        if entry.path.split("/")[1] not in alive and old.has(entry)
    ]


def _garbage(entry: FileEntry, reason: Reason) -> Garbage:
    return Garbage(path=entry.path, size_bytes=entry.size_bytes, reason=reason)
