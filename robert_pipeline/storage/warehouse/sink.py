"""What every sink of the published tables promises.

Rows enter as Arrow record batches in a contract's shape; whole partitions leave, each under a commit key.
Never decides what is published or when, and never reads a row source twice.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal, Protocol, get_args

import pyarrow as pa
import pyarrow.dataset as ds

from robert_pipeline.errors import ConfigError, WarehouseError
from schemas import CONTRACTS, Contract

TableName = Literal["predictions", "rejects", "promotions"]
TABLES: tuple[TableName, ...] = get_args(TableName)

AsOf = datetime | str
"""A moment, or the id of a version."""


class Commit(StrEnum):
    """What became of a replacement."""

    COMMITTED = "committed"
    ALREADY_COMMITTED = "already_committed"


class PartitionExists(WarehouseError):  # noqa: N818 - says what is there
    """The partition that was to be new has been committed by somebody else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """One state of a table that can still be read. `partition` and `commit_key` say what made it, where known."""

    id: str
    at: datetime
    partition: str | None
    commit_key: str | None
    is_first: bool
    """Whether there was none before it, not even one that maintenance has thrown away."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Upkeep:
    """What maintenance may throw away: versions older than `keep_days`, strays older than `stray_hours`.

    A stray is a file that no version names: of a killed writer, or of one that is still writing. A partition in
    several files is written anew where `small_file_bytes` of them would fit into one.
    """

    keep_days: float = 7.0
    stray_hours: float = 72.0
    small_file_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        for name in ("keep_days", "stray_hours", "small_file_bytes"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}", fix="Give 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class UpkeepReport:
    """What maintenance did to a table, or would do."""

    table: str
    compacted_partitions: int = 0
    compacted_files: int = 0
    """Small files that were written anew, into fewer."""
    expired_versions: int = 0
    deleted_files: int = 0
    deleted_bytes: int = 0
    note: str = ""


class Sink(Protocol):
    """Published tables behind one address. Every method raises WarehouseError when it cannot do its work."""

    def check(self) -> None:
        """Refuse an address that cannot serve: one out of reach, a table with other columns than its contract."""

    def replace_partition(
        self,
        table: TableName,
        partition: str,
        rows: Iterable[pa.RecordBatch],
        commit_key: str,
        *,
        only_new: bool = False,
    ) -> Commit:
        """Make `rows` the whole content of `partition` and remember `commit_key`, in one atomic step.

        Creates the table if need be, and gives a table of an earlier contract version its new columns. `rows` (a
        RecordBatchReader, say) is read once and in order, with bounded memory, and not at all where the partition's
        last commit had the same key. What iterating it raises comes out unchanged and leaves the partition as it was.
        Readers see the old or the new rows, never a mixture. With `only_new`, a partition that has been committed
        under another key stays as it is and PartitionExists is raised.
        """

    def commit_keys(self, table: TableName) -> dict[str, str]:
        """The ledger: the key of the last commit of every partition ever committed."""

    def read(
        self,
        table: TableName,
        partition: str | None = None,
        *,
        doc_id: str | None = None,
        as_of: AsOf | None = None,
    ) -> pa.RecordBatchReader:
        """The rows of the table, of one partition, of one document, as of one moment, in the contract's schema.

        Streams. Columns that a table of an earlier contract version lacks are null. Raises WarehouseError for
        `as_of` where the sink keeps no history.
        """

    def dataset(
        self,
        table: TableName,
        partition: str | None = None,
        *,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
        as_of: AsOf | None = None,
    ) -> ds.Dataset:
        """The same rows, to be scanned any number of times for only some columns and rows.

        It has no other `columns` than these, and rows beyond `limit` may be left out: a sink that has to copy what it
        gives copies no more.
        """

    def history(self, table: TableName) -> list[Version]:
        """The versions that can be read, the oldest first. Raises WarehouseError where the sink keeps none."""

    def maintain(self, table: TableName, upkeep: Upkeep, *, dry_run: bool) -> UpkeepReport:
        """Write small files anew into larger ones, forget old versions, remove files that nothing needs.

        Safe beside readers and writers: what the current version names stays, and so does what a version younger
        than `upkeep.keep_days` names. With `dry_run` nothing changes.
        """

    def location(self, table: TableName) -> str:
        """Where the table is, for a person who looks for it."""


def contract_of(table: TableName) -> Contract:
    """The contract of a published table; WarehouseError for a name that is none."""
    if table not in TABLES:
        raise WarehouseError(f"there is no table '{table}'", fix=f"Give one of: {', '.join(TABLES)}")
    return CONTRACTS[table]


def schema_of(contract: Contract, columns: Sequence[str] | None) -> pa.Schema:
    """The schema of a contract, or of some of its columns."""
    return contract.schema if columns is None else pa.schema([contract.schema.field(name) for name in columns])


def parse_as_of(text: str) -> AsOf:
    """A date, a time (UTC where it names no zone), or else the id of a version."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    # '20260102' is a date to Python, but an id to whoever copied it from the history.
    if text.isdigit():
        return text
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def version_as_of(versions: list[Version], as_of: AsOf, *, where: str) -> Version:
    """The version with that id, or the last one that is not younger than that moment. Raises WarehouseError."""
    if isinstance(as_of, str):
        found = [version for version in versions if version.id == as_of]
    else:
        found = [version for version in versions if version.at <= as_of]
    if not found:
        what = f"version {as_of}" if isinstance(as_of, str) else f"version as old as {as_of:%Y-%m-%d %H:%M:%S %Z}"
        kept = f"The oldest of {len(versions)} is {versions[0].id} of {versions[0].at:%Y-%m-%d %H:%M:%S %Z}"
        raise WarehouseError(f"{where} keeps no {what}", fix=kept if versions else "Publish a partition first")
    return found[-1]


def no_history(where: str) -> WarehouseError:
    """The refusal of sinks that only know their present."""
    return WarehouseError(
        f"{where} keeps no earlier versions",
        fix="Leave --as-of out; tables of sink iceberg, delta or parquet can be read as they were",
    )
