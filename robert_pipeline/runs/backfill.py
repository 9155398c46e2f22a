"""Run a backfill on this machine: one process a partition, a few at a time, none twice.

A plan enters, a report leaves. The ledger of the table is the truth, so a backfill that was killed is started again and
goes on; a partition that another run works on is waited for, and run only if that run leaves it undone.
"""

import contextlib
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Literal, get_args

from robert_pipeline.core.price import SECONDS_PER_HOUR, Estimate
from robert_pipeline.errors import RobertError, StoreError
from robert_pipeline.runs.backfill_plan import BackfillPlan, is_published
from robert_pipeline.runs.identity import new_run_id
from robert_pipeline.runs.partition_process import CLAIMED, REFUSED, Request, start
from robert_pipeline.storage.claims import open_claims
from robert_pipeline.storage.run_records import find_record, write_crash
from robert_pipeline.storage.store import partition_folder
from robert_pipeline.telemetry.instruments import BACKFILL_PARTITIONS, Point
from robert_pipeline.telemetry.watch import observed

TRY_AGAIN_SECONDS = (10.0, 60.0)
"""Waits before a partition whose process crashed, or failed for a reason that may go away, is tried again."""

POLL_SECONDS = 0.1
CLAIM_POLL_SECONDS = 2.0
LEDGER_POLL_SECONDS = 10.0
LEDGER_PATIENCE_SECONDS = 600.0
"""For a ledger out of reach, once another run has ended; longer, and the partition counts as failed."""
STOP_SECONDS = 10.0

Ending = Literal["published", "published elsewhere", "failed", "not started"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BackfilledPartition:
    """What became of one partition of a backfill."""

    partition: str
    ending: Ending
    attempts: int
    run_id: str = ""
    documents: int = 0
    rejected: int = 0
    tokens: int = 0
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackfillReport:
    """What a backfill did, beside what was estimated."""

    partitions: tuple[BackfilledPartition, ...]
    estimate: Estimate
    hours: float
    over_budget: bool = False

    def count(self, ending: Ending) -> int:
        """Partitions that ended so."""
        return sum(partition.ending == ending for partition in self.partitions)

    @property
    def tokens(self) -> int:
        """Tokens embedded."""
        return sum(partition.tokens for partition in self.partitions)

    @property
    def money(self) -> float | None:
        """What it cost, where an hour has a price."""
        price = self.estimate.price_per_hour
        return None if price is None else self.hours * price

    def points(self) -> Iterator[Point]:
        """Partitions by how they ended: those too whose process was killed and could tell nobody."""
        for ending in get_args(Ending):
            yield BACKFILL_PARTITIONS.point(self.count(ending), ending=ending)


Listener = Callable[[BackfilledPartition, int], None]
"""Called with every partition that has ended, and how many have."""


@observed("backfill")
def run_backfill(
    planned: BackfillPlan,
    *,
    max_active: int | None = None,
    force: bool = False,
    budget: float | None = None,
    on_ended: Listener = lambda _partition, _ended: None,
) -> BackfillReport:
    """Run the plan's chosen partitions, at most `max_active` (by default the settings') at a time.

    A process that crashes, or fails for a reason that may go away, is tried again; one whose error names its fix is
    not, and does not stop the others. When the hours so far cost more than `budget`, no further partition is started.
    Ctrl-C, SIGTERM and SIGHUP stop the processes and raise KeyboardInterrupt; what is done is kept. Raises, before
    anything runs, what `Estimate.check_budget` raises.
    """
    planned.estimate.check_budget(budget)
    runner = _Runner(planned, max_active or planned.settings.operations.max_active, force, budget, on_ended)
    with _stop_signals():
        return runner.run()


@dataclass(kw_only=True, slots=True)
class _Attempt:
    partition: str
    run_id: str
    process: "subprocess.Popen[bytes]"
    log: Path


@dataclass(kw_only=True, slots=True)
class _Queues:
    ready: deque[str]
    later: dict[str, float] = field(default_factory=dict)
    """When a partition may be tried again, by the monotonic clock."""
    claimed: dict[str, float] = field(default_factory=dict)
    """Partitions that another run has, and when to look again."""
    unknown: dict[str, float] = field(default_factory=dict)
    """Of these, those of which the ledger could not be read, and until when that is put up with."""
    active: list[_Attempt] = field(default_factory=list)

    def is_empty(self) -> bool:
        return not (self.ready or self.later or self.claimed or self.active)


class _Runner:
    def __init__(
        self, planned: BackfillPlan, max_active: int, force: bool, budget: float | None, on_ended: Listener
    ) -> None:
        self._planned = planned
        self._settings = planned.settings
        self._max_active = max_active
        self._force = force
        self._budget = budget
        self._on_ended = on_ended
        self._claims = open_claims(self._settings)
        self._logs = Path(self._claims.files.root) / "logs"
        self._attempts: dict[str, int] = {}
        self._ended: list[BackfilledPartition] = []
        self._queues = _Queues(ready=deque(fact.partition for fact in planned.chosen))
        self._started = time.monotonic()

    def run(self) -> BackfillReport:
        queues, over = self._queues, False
        try:
            while not queues.is_empty():
                self._reap()
                self._wake()
                if not over and self._is_over_budget():
                    over = True
                    for partition in [*queues.ready, *queues.later, *queues.claimed]:
                        self._end(partition, "not started", error="the budget is spent")
                    queues.ready.clear()
                    queues.later.clear()
                    queues.claimed.clear()
                self._start()
                time.sleep(POLL_SECONDS)
        finally:
            self._stop(queues.active)
        return BackfillReport(
            partitions=tuple(self._ended), estimate=self._planned.estimate, hours=self._hours(), over_budget=over
        )

    def _hours(self) -> float:
        return (time.monotonic() - self._started) / SECONDS_PER_HOUR

    def _is_over_budget(self) -> bool:
        price = self._planned.estimate.price_per_hour
        return self._budget is not None and price is not None and self._hours() * price > self._budget

    def _start(self) -> None:
        queues = self._queues
        while queues.ready and len(queues.active) < self._max_active:
            partition = queues.ready.popleft()
            if self._claims.holder(partition) is not None:
                queues.claimed[partition] = time.monotonic() + CLAIM_POLL_SECONDS
                continue
            self._attempts[partition] = self._attempts.get(partition, 0) + 1
            request = Request(
                settings=self._settings,
                partition=partition,
                run_id=new_run_id(),
                force=self._force,
                active=min(self._max_active, len(self._planned.chosen)),
                started=time.time(),
            )
            with self._log(partition, request.run_id) as log:
                process = start(request, log)
            queues.active.append(
                _Attempt(partition=partition, run_id=request.run_id, process=process, log=Path(log.name))
            )

    def _log(self, partition: str, run_id: str) -> IO[bytes]:
        path = self._logs / f"{partition_folder(partition)}-{run_id}.log"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("ab")
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}", fix="Name another folder") from error

    def _reap(self) -> None:
        for attempt in list(self._queues.active):
            code = attempt.process.poll()
            if code is None:
                continue
            self._queues.active.remove(attempt)
            if code == CLAIMED:
                self._queues.claimed[attempt.partition] = time.monotonic() + CLAIM_POLL_SECONDS
                continue
            self._claims.release(attempt.partition, attempt.run_id)  # a killed process could not
            tries = self._attempts[attempt.partition]
            if code == 0:
                self._end(attempt.partition, "published", attempt=attempt)
            elif code == REFUSED or tries > len(TRY_AGAIN_SECONDS):
                self._end(attempt.partition, "failed", attempt=attempt, error=_last_words(attempt, code))
            else:
                self._queues.later[attempt.partition] = time.monotonic() + TRY_AGAIN_SECONDS[tries - 1]

    def _wake(self) -> None:
        queues, now = self._queues, time.monotonic()
        for partition in [name for name, due in queues.later.items() if due <= now]:
            del queues.later[partition]
            queues.ready.append(partition)
        for partition in [name for name, due in queues.claimed.items() if due <= now]:
            try:
                if self._claims.holder(partition) is not None:
                    queues.claimed[partition] = now + CLAIM_POLL_SECONDS
                    continue
                published = is_published(self._settings, partition, run_id="backfill")
            except RobertError as error:  # of this partition: it must not stop the others
                until = queues.unknown.setdefault(partition, now + LEDGER_PATIENCE_SECONDS)
                if error.transient and now < until:
                    queues.claimed[partition] = now + LEDGER_POLL_SECONDS
                else:
                    del queues.claimed[partition]
                    self._end(partition, "failed", error=str(error))
                continue
            del queues.claimed[partition]
            queues.unknown.pop(partition, None)
            if published:
                self._end(partition, "published elsewhere")
            else:
                queues.ready.appendleft(partition)

    def _end(self, partition: str, ending: Ending, *, attempt: _Attempt | None = None, error: str = "") -> None:
        run_id = "" if attempt is None else attempt.run_id
        record = find_record(self._settings.store, partition, run_id) if run_id else None
        if ending == "failed" and record is None:
            write_crash(self._settings.store, partition, run_id, error)
        self._ended.append(
            BackfilledPartition(
                partition=partition,
                ending=ending,
                attempts=self._attempts.get(partition, 0),
                run_id=run_id,
                documents=0 if record is None else record.sample.documents,
                rejected=0 if record is None else record.rejected,
                tokens=0 if record is None else record.sample.embed_tokens,
                seconds=0.0 if record is None else record.sample.seconds,
                error=(record.error if record is not None else "") or error,
            )
        )
        self._on_ended(self._ended[-1], len(self._ended))

    def _stop(self, active: Sequence[_Attempt]) -> None:
        for attempt in active:
            attempt.process.terminate()
        end = time.monotonic() + STOP_SECONDS
        for attempt in active:
            try:
                attempt.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                attempt.process.kill()
                attempt.process.wait()
            self._claims.release(attempt.partition, attempt.run_id)


def _last_words(attempt: _Attempt, code: int) -> str:
    """Why a process ended that left no record."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name} (its log: {attempt.log})"
    lines = attempt.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"{lines[-1] if lines else f'exit code {code}'} (its log: {attempt.log})"


@contextlib.contextmanager
def _stop_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP do what Ctrl-C does while the block runs; only the main thread may ask for it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup means it
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
