"""Which partitions a backfill works on: what is known of each enters, a state and a choice leave. Reads nothing.

The ledger of the published table is the truth: a partition is up to date where its last commit has the key that a run
of today would give it.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Literal, get_args

from robert_pipeline.errors import ConfigError

Reprocess = Literal["none", "failed", "stale", "completed"]

_NUMBER = r"(?<!\d)"
_DAY = re.compile(rf"{_NUMBER}(\d{{4}})-?(\d{{2}})-?(\d{{2}})(?!\d)")
_NESTED = re.compile(r"year=(\d{4})/month=(\d{1,2})(?:/day=(\d{1,2}))?(?!\d)")


class State(StrEnum):
    """Where a partition stands."""

    MISSING = "missing"
    """Never published, or only one of its two tables, and no run of it ended in an error."""
    FAILED = "failed"
    """The last run of it ended in an error; what is published, if anything, is older."""
    STALE = "stale"
    """Published, but a run of today would publish something else."""
    COMPLETED = "completed"
    """Published as a run of today would."""


_CHOSEN: dict[Reprocess, frozenset[State]] = {
    "none": frozenset({State.MISSING}),
    "failed": frozenset({State.MISSING, State.FAILED}),
    "stale": frozenset({State.MISSING, State.FAILED, State.STALE}),
    "completed": frozenset(State),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What made a partition's rows: encoder, chunking and head by fingerprint."""

    encoder: str
    chunking: str
    head: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PartitionFacts:
    """What is known of a partition before a backfill.

    `published_key` is what the commit key in the ledger says was planned, `current_key` what a run of today would plan;
    `published_by` is what made the published rows, where there are any.
    """

    partition: str
    published_key: str | None
    current_key: str
    last_run_failed: bool
    documents: int
    text_bytes: int
    missing_text_bytes: int
    missing_documents: int
    published_by: Made | None = None

    @property
    def state(self) -> State:
        """Its state; the ledger has the last word."""
        if self.published_key == self.current_key:
            return State.COMPLETED
        if self.last_run_failed:
            return State.FAILED
        return State.MISSING if self.published_key is None else State.STALE

    def why(self, current: Made) -> str:
        """What of a stale partition differs from what a run of today would make; nothing for any other."""
        if self.state is not State.STALE:
            return ""
        if self.published_by is None:
            return "another version"
        pairs = [(name, getattr(self.published_by, name), getattr(current, name)) for name in Made.__slots__]
        changed = [f"{name} {there}" for name, there, now in pairs if there != now]
        return "made by " + ", ".join(changed) if changed else "documents or contract have changed"


def partition_day(partition: str) -> date | None:
    """The day that a partition's name holds ('day=2026-01-31', 'year=2026/month=01/day=31'; a month is its first day).

    None where it holds none.
    """
    for pattern in (_NESTED, _DAY):
        if found := pattern.search(partition):
            year, month, day = found.groups()
            try:
                return date(int(year), int(month), int(day or 1))
            except ValueError:
                return None
    return None


def parse_day(option: str, text: str) -> date:
    """A day such as 2026-01-31. Raises ConfigError naming the option."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option} is '{text}'", fix="Give a day, such as 2026-01-31") from None


def in_range(partitions: Iterable[str], *, since: date | None, until: date | None) -> list[str]:
    """The partitions from `since` to `until`, both included, the oldest first.

    Raises ConfigError where a range is given and a partition's name holds no day.
    """
    names = sorted(partitions, key=lambda name: (partition_day(name) or date.min, name))
    if since is not None and until is not None and since > until:
        raise ConfigError(f"--since {since} is later than --until {until}", fix="Swap them")
    if since is None and until is None:
        return names
    for name in names:
        if partition_day(name) is None:
            raise ConfigError(
                f"partition '{name}' holds no day, so it is neither in --since … --until nor outside",
                fix="Name partitions like day=2026-01-31, or leave the range out and name them with --partition",
            )
    return [name for name in names if (since or date.min) <= (partition_day(name) or date.min) <= (until or date.max)]


def check_reprocess(reprocess: str) -> Reprocess:
    """One of the ways to choose. Raises ConfigError."""
    for known in get_args(Reprocess):
        if reprocess == known:
            return reprocess  # type: ignore[return-value]
    raise ConfigError(f"--reprocess is '{reprocess}'", fix=f"Give one of {', '.join(get_args(Reprocess))}")


def choose(facts: Sequence[PartitionFacts], reprocess: Reprocess, *, newest_first: bool) -> list[PartitionFacts]:
    """The partitions to run, in the order to run them: each way of choosing takes all that the one before it takes."""
    chosen = [fact for fact in facts if fact.state in _CHOSEN[reprocess]]
    return chosen[::-1] if newest_first else chosen
