"""Rows on their way into a table: whatever the source gives enters; batches that keep the contract leave, or an error.

What all sinks share, so that all of them refuse the same rows with the same words.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc

from robert_pipeline.errors import WarehouseError
from schemas import Contract, ContractError

SCORE_AGAIN = "Score the partition again"


def check_names(partition: str, commit_key: str, *, forbid_nul: bool = False) -> None:
    """Refuse a partition or a key that no sink could store, or, with `forbid_nul`, that this one cannot."""
    for what, value in (("partition", partition), ("commit key", commit_key)):
        if not value:
            raise WarehouseError(f"the {what} is empty", fix="Give a value")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise WarehouseError(
                f"the {what} {value!r} is not valid Unicode", fix="Rename the partition's folder"
            ) from None
        if forbid_nul and "\0" in value:
            raise WarehouseError(f"the {what} {value!r} holds a NUL character", fix="Rename the partition's folder")


class RowsFailed(Exception):  # noqa: N818 - carries an error
    """Carries what iterating the rows raised past the sink's own error handling."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


@contextmanager
def source_errors_unchanged() -> Iterator[None]:
    """Let what iterating the rows raised out as it was."""
    try:
        yield
    except RowsFailed as error:
        raise error.cause from None


def checked(
    rows: Iterable[pa.RecordBatch], contract: Contract, partition: str, *, forbid_nul: bool = False
) -> Iterator[pa.RecordBatch]:
    """The batches, each checked against the contract, in its exact schema; empty ones are left out.

    Raises WarehouseError naming the column that has another type, a null where none may be, or (with `forbid_nul`) a
    NUL character, or a row of another partition; RowsFailed around whatever the source itself raises.
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
            raise WarehouseError(one_line(error), fix=SCORE_AGAIN) from error
        if batch.num_rows == 0:
            continue
        for field in contract.schema:
            if not field.nullable and batch.column(field.name).null_count:
                raise WarehouseError(
                    f"{where}: field '{field.name}' holds a null, which its contract forbids", fix=SCORE_AGAIN
                )
            if forbid_nul and holds_nul(batch.column(field.name)):
                raise WarehouseError(
                    f"{where}: field '{field.name}' holds a NUL character, which this database cannot store",
                    fix="Take it out of the corpus (its id or its label), or publish to another sink",
                )
        if not pc.all(pc.equal(batch.column("partition"), partition)).as_py():
            raise WarehouseError(f"{where}: a row belongs to another partition", fix=SCORE_AGAIN)
        yield pa.RecordBatch.from_arrays(batch.columns, schema=contract.schema)


def holds_nul(column: pa.Array) -> bool:
    """Whether a text anywhere in the column, in its lists and maps too, holds U+0000."""
    if pa.types.is_map(column.type):
        return holds_nul(column.keys) or holds_nul(column.items)
    if pa.types.is_list(column.type):
        return holds_nul(column.flatten())
    if not pa.types.is_string(column.type):
        return False
    return bool(pc.any(pc.match_substring(column, "\0")).as_py())


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
