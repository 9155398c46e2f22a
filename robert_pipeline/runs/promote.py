"""Make a candidate the current head, where the limits allow it; or go back to the one before. The ledger remembers."""

import getpass
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from robert_pipeline.config import Settings
from robert_pipeline.core.gate import describe
from robert_pipeline.errors import GateError
from robert_pipeline.runs.diff import Contestant, DiffReport, OnDocuments, compare_heads, read_contestant
from robert_pipeline.storage.heads import has_head
from robert_pipeline.storage.promotions import Promotion, add_entry, read_ledger, standing
from robert_pipeline.storage.registry import register_head, registered
from robert_pipeline.storage.warehouse import open_warehouse
from robert_pipeline.telemetry.watch import observed


@dataclass(frozen=True, kw_only=True, slots=True)
class PromoteReport:
    """The entry in the ledger, the folder of the head that labels from now on, and what it was compared with.

    `diff` is None for a first head, which has nothing to be compared with.
    """

    entry: Promotion
    folder: str
    diff: DiffReport | None


def _now() -> datetime:
    return datetime.now(UTC)


def this_user() -> str:
    """The user and the machine."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "unknown"  # a container may run as a user that has no name
    return f"{user}@{socket.gethostname()}"


@observed("promote")
def promote(
    settings: Settings,
    *,
    candidate: str | None = None,
    partitions: Sequence[str] = (),
    sample: int | None = None,
    out: str,
    decided_by: str,
    reason: str | None = None,
    run_id: str,
    clock: Callable[[], datetime] = _now,
    on_documents: OnDocuments = lambda _: None,
) -> PromoteReport:
    """Compare the head in folder `candidate` (else `settings.model`) with the current one; make it that if it may.

    The current head is the last one promoted, whatever `settings.labelled_by` says; where there is none, that of
    `settings.model`; where that is the candidate, there is nothing to compare. The candidate is copied into the
    registry. Raises GateError, naming every limit it breaks, where it is the current head already, and where another
    one was promoted since the comparison began.
    """
    sink = open_warehouse(settings.warehouse)
    sink.check()
    ledger = read_ledger(sink)
    after = read_contestant(candidate or settings.model)
    before = _current(settings, ledger)
    if before is not None and before.head.fingerprint == after.head.fingerprint:
        if standing(ledger):
            raise GateError(
                f"head {after.head.fingerprint} is the current one already", fix="Name another one with --candidate"
            )
        before = None
    compared = None
    if before is not None:
        compared = compare_heads(
            settings,
            before,
            after,
            partitions=partitions,
            sample=sample,
            out=out,
            run_id=run_id,
            on_documents=on_documents,
        )
        _require_limits(compared)
    # Before the entry that names it.
    folder = register_head(settings, after.folder, after.head, after.learned_keys)
    entry = _entry(ledger, after, before, compared, decided_by, reason, clock(), run_id)
    add_entry(sink, entry)
    return PromoteReport(entry=entry, folder=folder, diff=compared)


@observed("rollback")
def rollback(
    settings: Settings, *, decided_by: str, reason: str | None = None, run_id: str, clock: Callable[[], datetime] = _now
) -> PromoteReport:
    """Make the head before the current one the current one again.

    Raises GateError where there is none, or where somebody else was faster; ModelError where the registry has lost it.
    """
    sink = open_warehouse(settings.warehouse)
    ledger = read_ledger(sink)
    promoted = standing(ledger)
    if len(promoted) < 2:
        what = f"head {promoted[-1].head_fingerprint} is the first one" if promoted else "no head was promoted yet"
        raise GateError(f"there is no head to go back to: {what}", fix="Promote another one with `robert promote`")
    *_, earlier, current = promoted
    folder = registered(settings, earlier.head_fingerprint)
    entry = Promotion(
        number=len(ledger) + 1,
        action="rollback",
        head_fingerprint=earlier.head_fingerprint,
        previous_head_fingerprint=current.head_fingerprint,
        encoder_fingerprint=earlier.encoder_fingerprint,
        chunking_fingerprint=earlier.chunking_fingerprint,
        model=earlier.model,
        decided_by=decided_by,
        decided_at=clock(),
        reason=reason,
        run_id=run_id,
    )
    add_entry(sink, entry)
    return PromoteReport(entry=entry, folder=folder, diff=None)


def _current(settings: Settings, ledger: Sequence[Promotion]) -> Contestant | None:
    promoted = standing(ledger)
    if promoted:
        return read_contestant(registered(settings, promoted[-1].head_fingerprint))
    return read_contestant(settings.model) if has_head(settings.model) else None


def _require_limits(report: DiffReport) -> None:
    broken = [describe(each) for each in report.measures if not each.is_kept]
    if broken:
        raise GateError(
            f"head {report.candidate.head.fingerprint} is not promoted: {'; '.join(broken)}",
            fix=f"See {report.page_path}; where the change is wanted, raise the limit in [gate] of robert.toml",
        )


def _entry(
    ledger: Sequence[Promotion],
    after: Contestant,
    before: Contestant | None,
    compared: DiffReport | None,
    decided_by: str,
    reason: str | None,
    decided_at: datetime,
    run_id: str,
) -> Promotion:
    measures = () if compared is None else compared.measures
    return Promotion(
        number=len(ledger) + 1,
        action="promote",
        head_fingerprint=after.head.fingerprint,
        previous_head_fingerprint=None if before is None else before.head.fingerprint,
        encoder_fingerprint=after.head.origin.encoder_fingerprint,
        chunking_fingerprint=after.head.origin.chunking_fingerprint,
        model=after.folder,
        decided_by=decided_by,
        decided_at=decided_at,
        reason=reason,
        compared_partitions=() if compared is None else compared.partitions,
        documents=0 if compared is None else compared.diff.documents,
        flips=0 if compared is None else compared.diff.flips,
        measured=tuple((each.name, each.found) for each in measures if each.found is not None),
        limits=tuple((each.name, each.limit) for each in measures),
        run_id=run_id,
    )
