"""Check every byte of a store; set aside what is damaged, and make it anew from the corpus."""

import contextlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum

from robert_pipeline.config import Settings
from robert_pipeline.errors import RobertError, StoreError
from robert_pipeline.runs.embed import embed_plan
from robert_pipeline.runs.plan import PartitionPlan, Plan, list_partitions, plan
from robert_pipeline.runs.score import load_head_for, score
from robert_pipeline.storage.audit import audit
from robert_pipeline.storage.hash_runs import RunError, RunGoneError, open_run
from robert_pipeline.storage.heads import has_head
from robert_pipeline.storage.registry import current_head
from robert_pipeline.storage.store import ShardKind, ShardPlace, Store, open_store, partition_folder
from robert_pipeline.telemetry.watch import observed


class Outcome(StrEnum):
    """What became of a damaged file."""

    FOUND = "found"
    REBUILT = "set aside and rebuilt"
    SET_ASIDE = "set aside"
    DELETED = "deleted: it is derived"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A damaged file. `why_not` says why one that was set aside was not rebuilt, or why it could not be set aside."""

    path: str
    problem: str
    outcome: Outcome
    why_not: str = ""

    @property
    def is_mended(self) -> bool:
        """Whether nothing is left to do."""
        return self.outcome in (Outcome.REBUILT, Outcome.DELETED)


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """What was checked, and all that was wrong."""

    file_count: int
    size_bytes: int
    findings: tuple[Finding, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Damage:
    place: ShardPlace
    problem: str


@observed("verify")
def verify_store(settings: Settings, *, check_only: bool = False, run_id: str) -> VerifyReport:
    """Check seals, page checksums, contracts, counts, fingerprints and that vectors are finite, in every shard.

    Unless `check_only`, what is damaged is moved to the store's `quarantine` folder; then the units of
    `settings.corpus` that lost a shard are embedded again, from vectors that the store still holds where it can, and
    scored again by the head that labels. Raises StoreError, before anything is moved, where a file cannot be read.
    """
    started = time.monotonic()
    store = open_store(settings.store)
    places = store.shards()
    damages = _audit_all(store, places)
    runs, run_findings = _check_index(store, check_only)
    findings = [_left(damage) for damage in damages] if check_only else _mend(settings, store, damages, run_id)
    return VerifyReport(
        file_count=len(places) + runs,
        size_bytes=sum(place.entry.size_bytes for place in places),
        findings=(*findings, *run_findings),
        seconds=time.monotonic() - started,
    )


def _problem(store: Store, place: ShardPlace) -> str | None:
    """What is wrong with a shard. Raises StoreError where it cannot be read at all: that is no damage."""
    try:
        audit(store, place)
    except StoreError as error:
        if error.transient:
            raise
        # One that has gone since it was listed was replaced or removed by another run.
        return error.problem if store.files.exists(place.entry.path) else None
    return None


def _audit_all(store: Store, places: Sequence[ShardPlace]) -> list[_Damage]:
    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="audit") as auditors:
        problems = auditors.map(lambda place: _problem(store, place), places)
        return [_Damage(place=place, problem=found) for place, found in zip(places, problems, strict=True) if found]


def _left(damage: _Damage, why_not: str = "") -> Finding:
    return Finding(path=damage.place.entry.path, problem=damage.problem, outcome=Outcome.FOUND, why_not=why_not)


def _check_index(store: Store, check_only: bool) -> tuple[int, list[Finding]]:
    entries = [*store.files.list("index"), *store.files.list("surveys")]
    findings: list[Finding] = []
    for entry in entries:
        try:
            open_run(store.files, entry.path).check()
        except (FileNotFoundError, RunGoneError):
            continue
        except (RunError, ValueError) as error:
            if not check_only:
                store.files.delete(entry.path)
            outcome = Outcome.FOUND if check_only else Outcome.DELETED
            problem = f"index {store.files.describe(entry.path)} is damaged: {error}"
            findings.append(Finding(path=entry.path, problem=problem, outcome=outcome))
    return len(entries), findings


def _mend(settings: Settings, store: Store, damages: Sequence[_Damage], run_id: str) -> list[Finding]:
    # Looked at once more: a read that failed for a moment is no damage, and another `verify` may have been faster.
    damages = [damage for damage in damages if _problem(store, damage.place) is not None]
    findings: list[Finding] = []
    moved: list[_Damage] = []
    for damage in damages:
        try:
            _set_aside(store, damage.place)
            moved.append(damage)
        except StoreError as error:  # what was moved before must be made anew, and said
            findings.append(_left(damage, str(error)))
    why_not = _rebuild(settings, moved, run_id) if moved else ""
    return findings + [_mended(store, damage, why_not) for damage in moved]


def _set_aside(store: Store, place: ShardPlace) -> None:
    if place.kind == "unscored":
        # Rejects of scoring are written with their predictions only. These first: without them a unit counts as
        # not scored, whatever becomes of this run.
        store.files.delete(place.beside("predictions"))
    with contextlib.suppress(FileNotFoundError):
        store.set_aside(place.entry.path)


def _mended(store: Store, damage: _Damage, why_not: str) -> Finding:
    try:
        is_rebuilt = _is_rebuilt(store, damage.place)
    except StoreError as error:
        is_rebuilt, why_not = False, str(error)
    return Finding(
        path=damage.place.entry.path,
        problem=damage.problem,
        outcome=Outcome.REBUILT if is_rebuilt else Outcome.SET_ASIDE,
        why_not="" if is_rebuilt else why_not or _nobodys(damage.place),
    )


def _rebuild(settings: Settings, damages: Sequence[_Damage], run_id: str) -> str:
    """Make anew what the corpus and the head of `settings` can; gives why it could not, if so."""
    folders = {damage.place.partition_folder for damage in damages}
    try:
        names = [name for name in list_partitions(settings) if partition_folder(name) in folders]
        if not names:
            return ""
        planned = plan(settings, partitions=names, run_id=run_id)
        lost = _only(planned, {damage.place.unit for damage in damages if damage.place.head is None})
        if lost.missing:
            embed_plan(lost)
        if not any(damage.place.head for damage in damages):
            return ""
        if has_head(model := current_head(settings).model):
            head = load_head_for(planned, model=model).fingerprint
            units = {damage.place.unit for damage in damages if damage.place.head == head}
            of_chunks = any(damage.place.kind == "contributions" for damage in damages)
            score(_only(planned, units).embedded(), model=model, contributions=of_chunks)
    except RobertError as error:
        return str(error)
    return ""


def _only(planned: Plan, units: set[tuple[str, str, str]]) -> Plan:
    """The plan of these units and no others, all of them to be embedded, those that have their shard too."""
    partitions: list[PartitionPlan] = []
    for part in planned.partitions:
        place = planned.job.key.folder, partition_folder(part.partition)
        chosen = tuple(unit for unit in part.units if (*place, unit.unit_id) in units)
        partitions.append(replace(part, units=chosen, missing=chosen))
    return replace(planned, partitions=tuple(partitions), job=replace(planned.job, replaces=True))


def _is_rebuilt(store: Store, place: ShardPlace) -> bool:
    """Whether the file is there again and sound. One of rejects need not be there: there may be none any more.

    Raises StoreError where nobody can say.
    """
    owners: dict[ShardKind, ShardKind] = {"rejects": "embeddings", "unscored": "predictions"}
    owner = owners.get(place.kind)
    if owner is not None and not store.files.exists(place.beside(owner)):
        return False
    try:
        audit(store, place)
    except StoreError as error:
        if error.transient:
            raise
        return False
    return True


def _nobodys(place: ShardPlace) -> str:
    if place.head is not None:
        return "it is of another head than the one in --model, or of another corpus; `robert score` writes it anew"
    return "no unit of this corpus, encoder and settings is stored there; `robert embed` writes it anew where one is"
