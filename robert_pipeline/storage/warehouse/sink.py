"""What every sink of the published tables promises, and the checks that all of them share.

Rows enter as Arrow record batches in a contract's shape; whole partitions leave, each under a commit key.
Never decides what is published or when, and never reads a row source twice.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Literal, Protocol, get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from robert_pipeline.errors import WarehouseError
from schemas import CONTRACTS, Contract, ContractError

TableName = Literal["predictions", "rejects"]
TABLES: tuple[TableName, ...] = get_args(TableName)


class Commit(StrEnum):
    """What became of a replacement."""

    COMMITTED = "committed"
    ALREADY_COMMITTED = "already_committed"


class Sink(Protocol):
    """Published tables behind one address. Every method raises WarehouseError when it cannot do its work."""

    def check(self) -> None:
        """Refuse an address that cannot serve: a table with other columns than its contract."""

    def replace_partition(
        self, table: TableName, partition: str, rows: Iterable[pa.RecordBatch], commit_key: str
    ) -> Commit:
        """Make `rows` the whole content of `partition` and remember `commit_key`, in one atomic step.

        Creates the table if need be. `rows` (a RecordBatchReader, say) is read once and in order, with
        bounded memory, and not at all where the partition's last commit had the same key. What iterating it
        raises comes out unchanged and leaves the partition as it was. Readers see the old or the new rows,
        never a mixture.
        """

    def commit_keys(self, table: TableName) -> dict[str, str]:
        """The ledger: the key of the last commit of every partition ever committed."""

    def read(self, table: TableName, partition: str | None = None) -> pa.RecordBatchReader:
        """The rows of the table, or of one partition, as of one moment, in the contract's schema. Streams."""

    def dataset(self, table: TableName, partition: str | None = None) -> ds.Dataset:
        """The same rows, to be scanned any number of times for only some columns and rows."""

    def location(self, table: TableName) -> str:
        """Where the table is, for a person who looks for it."""


def contract_of(table: TableName) -> Contract:
    """The contract of a published table; WarehouseError for a name that is none."""
    if table not in TABLES:
        raise WarehouseError(f"there is no table '{table}'", fix=f"Give one of: {', '.join(TABLES)}")
    return CONTRACTS[table]


def check_names(partition: str, commit_key: str) -> None:
    """Refuse a partition or a key that no sink could store."""
    for what, value in (("partition", partition), ("commit key", commit_key)):
        if not value:
            raise WarehouseError(f"the {what} is empty", fix="Give a value")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise WarehouseError(
                f"the {what} {value!r} is not valid Unicode", fix="Rename the partition's folder"
            ) from None


class RowsFailed(Exception):  # noqa: N818 - carries an error
    """Carries what iterating the rows raised past the sink's own error handling."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


def checked(rows: Iterable[pa.RecordBatch], contract: Contract, partition: str) -> Iterator[pa.RecordBatch]:
    """The batches, each checked against the contract, in its exact schema; empty ones are left out.

    Raises WarehouseError naming the column that has another type or a null where none may be, or a row of
    another partition; RowsFailed around whatever the source itself raises.
    """
    where = f"rows for {contract.name} '{partition}'"
    source = iter(rows)
    while True:
        try:
            batch = next(source)
        except StopIteration:
            return
        except Exception as error:
            raise RowsFailed(error) from error
        try:
            contract.check(batch.schema, where=where)
            batch.validate(full=True)
        except (ContractError, pa.ArrowInvalid) as error:
            raise WarehouseError(one_line(error), fix="Score the partition again") from error
        if batch.num_rows == 0:
            continue
        for field in contract.schema:
            if not field.nullable and batch.column(field.name).null_count:
                raise WarehouseError(
                    f"{where}: field '{field.name}' holds a null, which its contract forbids",
                    fix="Score the partition again",
                )
        if not pc.all(pc.equal(batch.column("partition"), partition)).as_py():
            raise WarehouseError(f"{where}: a row belongs to another partition", fix="Score the partition again")
        yield pa.RecordBatch.from_arrays(batch.columns, schema=contract.schema)


def row_groups(
    batches: Iterable[pa.RecordBatch], *, group_rows: int = 131_072, group_bytes: int = 16 << 20
) -> Iterator[pa.Table]:
    """The batches gathered into tables, each big enough to be a Parquet row group (but for the last)."""
    held: list[pa.RecordBatch] = []
    rows = held_bytes = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        held_bytes += batch.nbytes
        if rows >= group_rows or held_bytes >= group_bytes:
            yield pa.Table.from_batches(held)
            held, rows, held_bytes = [], 0, 0
    if held:
        yield pa.Table.from_batches(held)


def one_line(error: BaseException, limit: int = 300) -> str:
    """The message of an error without line breaks, shortened."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


@contextmanager
def source_errors_unchanged() -> Iterator[None]:
    """Let what iterating the rows raised out as it was."""
    try:
        yield
    except RowsFailed as error:
        raise error.cause from None
