"""Who works on which partition: a small file a partition, on a disk that all machines share.

A claim is kept by a heartbeat; one without is lost after `LOST_SECONDS`, and another run may take the partition over.
Never decides what is right: two runs of one partition would publish the same rows under the same key. Machines that
share claims need clocks that agree to some seconds.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock

from robert_pipeline.config import Settings
from robert_pipeline.errors import ClaimError, ConfigError, StoreError
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.store import partition_folder

HEARTBEAT_SECONDS = 15.0
LOST_SECONDS = 75.0
"""A dead run loses its claim after so long; four heartbeats may fail."""

LOCK_PATIENCE_SECONDS = 30.0

Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """That a run works on a partition; times are in seconds since 1970 UTC."""

    partition: str
    run_id: str
    host: str
    pid: int
    since: float
    beat: float

    def is_lost(self, now: float) -> bool:
        """Whether its run gave no sign of life for too long."""
        return now - self.beat > LOST_SECONDS


@dataclass(frozen=True, kw_only=True)
class Claims:
    """The claims in one folder."""

    files: Files
    clock: Clock = time.time

    def holder(self, partition: str) -> Claim | None:
        """The claim that somebody holds now, lost ones left out."""
        found = self._read(partition)
        return None if found is None or found.is_lost(self.clock()) else found

    def take(self, partition: str, run_id: str) -> Claim:
        """Claim a partition, in place of a lost claim if there is one. Raises ClaimError where somebody holds it."""
        with self._locked():
            if (held := self.holder(partition)) is not None:
                raise ClaimError(
                    f"run {held.run_id} works on partition '{partition}' (process {held.pid} on {held.host})",
                    fix=f"Wait for it, or stop it: its claim ends {LOST_SECONDS:.0f} s after its last sign of life",
                )
            now = self.clock()
            claim = Claim(
                partition=partition, run_id=run_id, host=socket.gethostname(), pid=os.getpid(), since=now, beat=now
            )
            self._write(claim)
            return claim

    def renew(self, claim: Claim) -> None:
        """Give a sign of life. Raises ClaimError where another run has taken the partition over."""
        with self._locked():
            self._check_mine(claim)
            self._write(replace(claim, beat=self.clock()))

    def check(self, claim: Claim) -> None:
        """Raise ClaimError where another run has taken the partition over."""
        with self._locked():
            self._check_mine(claim)

    def release(self, partition: str, run_id: str) -> None:
        """Give a partition back, for a run that has ended or was seen to die; nothing where it is another's."""
        with self._locked():
            found = self._read(partition)
            if found is not None and found.run_id == run_id:
                self.files.delete(_name(partition))

    def _check_mine(self, claim: Claim) -> None:
        found = self._read(claim.partition)
        if found is None or found.run_id != claim.run_id:
            taker = "nobody" if found is None else f"run {found.run_id}"
            raise ClaimError(
                f"run {claim.run_id} has lost partition '{claim.partition}' to {taker}: it gave no sign of life for "
                f"{LOST_SECONDS:.0f} s",
                fix="Nothing is lost; the run that has it now goes on from what is done",
            )

    def _read(self, partition: str) -> Claim | None:
        try:
            return Claim(**json.loads(self.files.read_bytes(_name(partition))))
        except (FileNotFoundError, ValueError, TypeError):
            return None  # a damaged claim holds nothing

    def _write(self, claim: Claim) -> None:
        self.files.write_bytes(_name(claim.partition), json.dumps(asdict(claim)).encode())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        folder = Path(self.files.root)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock", timeout=LOCK_PATIENCE_SECONDS):
                yield
        except (OSError, TimeoutError) as error:
            raise StoreError(
                f"the claims in {self.files.describe()} cannot be read or written: {error}",
                fix="Fix the folder's permissions, or name another with operations.claims",
            ) from error


def open_claims(settings: Settings, *, clock: Clock = time.time) -> Claims:
    """The claims of a project. Raises ConfigError where no disk is named for them."""
    named = settings.operations.claims or settings.store
    if not Files(named).is_local:
        raise ConfigError(
            f"claims cannot be kept in {named}: an object store has no locks",
            fix="Name a folder that all machines share with operations.claims",
        )
    files = Files(settings.operations.claims or f"{settings.store.rstrip('/')}/claims")
    return Claims(files=files, clock=clock)


@contextlib.contextmanager
def claimed(
    claims: Claims, partition: str, run_id: str, *, patience_seconds: float = 0.0
) -> Iterator[Callable[[], None]]:
    """Hold a partition while the block runs; yields a check that raises ClaimError where it was lost meanwhile.

    Raises ClaimError where somebody else holds it, still after `patience_seconds`.
    """
    claim = _take(claims, partition, run_id, time.monotonic() + patience_seconds)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            # What went wrong is found by the check; a disk that is away for a moment must not end a run.
            with contextlib.suppress(ClaimError, StoreError, OSError):
                claims.renew(claim)

    threading.Thread(target=beat, name=f"claim of {partition}", daemon=True).start()
    try:
        yield lambda: claims.check(claim)
    finally:
        ended.set()
        claims.release(partition, run_id)


def _take(claims: Claims, partition: str, run_id: str, deadline: float) -> Claim:
    while True:
        try:
            return claims.take(partition, run_id)
        except ClaimError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(1.0)


def _name(partition: str) -> str:
    return f"{partition_folder(partition)}.json"
