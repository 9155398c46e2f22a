"""Delta tables of one folder: found, made, given the columns of a later contract version; what their log says.

A contract enters, its table leaves; what the library raises leaves as one WarehouseError. Never touches rows.
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Field, Schema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from robert_pipeline.config import Warehouse
from robert_pipeline.errors import RobertError, WarehouseError
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.warehouse.addresses import local_path
from robert_pipeline.storage.warehouse.columns import TableColumn, missing_columns, someone_elses
from robert_pipeline.storage.warehouse.data_files import DataFile
from robert_pipeline.storage.warehouse.patience import persist
from robert_pipeline.storage.warehouse.rows import RowsFailed, one_line
from schemas import Contract
from schemas.contract import DESCRIPTION_KEY

T = TypeVar("T")

PARTITION_INFO = "robert.partition"
KEY_INFO = "robert.commit-key"
HARMLESS_FEATURES = {"timestampNtz", "vacuumProtocolCheck"}
LONGEST_PATH_PART = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldFile:
    """An active data file, as the log has it. `commit_key` is None where another engine wrote it."""

    file: DataFile
    partition: str
    commit_key: str | None


class DeltaTables:
    """The tables of one namespace. Keeps nothing open; usable from many threads."""

    def __init__(self, config: Warehouse, *, patience_seconds: float) -> None:
        folder = local_path(config.uri)
        root = str(folder) if folder is not None else config.uri.rstrip("/")
        self._root = f"{root}/{config.namespace}"
        self._uri = config.uri
        self._patience_seconds = patience_seconds

    def where(self, table: str) -> str:
        """A table, for messages."""
        return f"table '{table}' in {self._uri}"

    def location(self, table: str) -> str:
        """The table's folder."""
        return f"{self._root}/{table}"

    def files(self, table: str) -> Files:
        """The same, to read and write files in."""
        return Files(self.location(table))

    def find(self, contract: Contract) -> DeltaTable | None:
        """The table where it exists and has the contract's columns; None where it does not exist."""
        place = self.location(contract.name)
        if not self.files(contract.name).list("_delta_log"):
            self._refuse_other_files(contract.name)
            return None
        try:
            found = DeltaTable(place)
        except TableNotFoundError:
            return None
        self._missing(contract, found)
        return found

    def _refuse_other_files(self, table: str) -> None:
        """A folder of somebody else must not become a Delta table, under whose log their files would be strays."""
        # A log that is there by now was made by another process since it was looked for.
        own = ("data/", "_delta_log/")
        strange = [entry.path for entry in self.files(table).list() if not entry.path.startswith(own)]
        if strange:
            raise WarehouseError(
                f"{self.location(table)} holds '{strange[0]}' and no Delta table",
                fix="Choose another warehouse.uri or warehouse.namespace",
            )

    def _missing(self, contract: Contract, table: DeltaTable) -> list[str]:
        where, fix = self.where(contract.name), someone_elses("warehouse.uri or warehouse.namespace")
        protocol = table.protocol()
        features = set(protocol.reader_features or ()) - HARMLESS_FEATURES
        if protocol.min_reader_version == 2 or features:
            needs = ", ".join(sorted(features)) or "column mapping"
            raise WarehouseError(f"{where} needs Delta features that cannot be read here ({needs})", fix=fix)
        missing = missing_columns(contract, _columns(contract.schema), _table_columns(table), where=where, fix=fix)
        if table.metadata().partition_columns != ["partition"]:
            raise WarehouseError(f"{where} is not partitioned by column 'partition'", fix=fix)
        return missing

    def find_or_create(self, contract: Contract) -> DeltaTable:
        """The table, with every column of the contract."""
        found = self.find(contract)
        if found is None:
            place = self.location(contract.name)
            if local_path(place) is not None:
                os.makedirs(place, exist_ok=True)  # noqa: PTH103 - the text that delta-rs is given
            with suppress(DeltaError):  # another process made it between the look and the making
                DeltaTable.create(
                    place,
                    Schema.from_arrow(_commented(contract.schema)),
                    mode="error",
                    partition_by=["partition"],
                    name=contract.name,
                    description=contract.description,
                )
        return self.persist(lambda: self._evolved(contract))

    def _evolved(self, contract: Contract) -> DeltaTable:
        table = DeltaTable(self.location(contract.name))
        missing = self._missing(contract, table)
        if missing:
            wanted = _commented(contract.schema)
            table.alter.add_columns([Field.from_arrow(wanted.field(name)) for name in missing])
        return table

    def existing(self, contract: Contract) -> DeltaTable:
        """The table. Raises WarehouseError where there is none."""
        found = self.find(contract)
        if found is None:
            raise WarehouseError(f"there is no table '{contract.name}' in {self._uri}", fix="Publish a partition first")
        return found

    def persist(self, attempt: Callable[[], T]) -> T:
        """Try again while other writers are faster."""
        return persist(
            attempt,
            transient=lambda error: isinstance(error, CommitFailedError),
            patience_seconds=self._patience_seconds,
        )

    @contextmanager
    def clear_errors(self, table: str) -> Iterator[None]:
        """Turn what the library raises into one WarehouseError; errors raised on purpose pass."""
        try:
            yield
        except (RobertError, RowsFailed):
            raise
        except CommitFailedError as error:
            raise WarehouseError(
                f"{self.where(table)}: other writers kept changing it for {self._patience_seconds:.0f} s "
                f"({one_line(error, 120)})",
                fix="Run it again; what was committed stays",
                transient=True,
            ) from error
        except (DeltaError, OSError, pa.ArrowException, ValueError) as error:
            raise WarehouseError(
                f"{self.where(table)}: {one_line(error)}",
                fix="See that the folder can be read and written",
                transient=isinstance(error, OSError),
            ) from error


def held_files(table: DeltaTable) -> list[HeldFile]:
    """The active files of a table as it was loaded."""
    return [
        HeldFile(
            file=DataFile(path=row["path"], rows=row["num_records"] or 0, size_bytes=row["size_bytes"]),
            partition=row["partition"]["partition"],
            commit_key=key_of_path(row["path"]),
        )
        for row in pa.table(table.get_add_actions()).to_pylist()
    ]


def commit_files(
    table: DeltaTable,
    *,
    partition: str,
    added: Sequence[DataFile],
    removed: Sequence[HeldFile],
    info: Mapping[str, str],
    data_change: bool,
) -> None:
    """One commit on top of the very version that was loaded. Raises CommitFailedError where there is a newer one."""
    now = int(time.time() * 1000)
    values: dict[str, str | None] = {"partition": partition}
    actions: list[AddAction | RemoveAction] = [
        RemoveAction(
            path=held.file.path,
            data_change=data_change,
            deletion_timestamp=now,
            size=held.file.size_bytes,
            partition_values=values,
        )
        for held in removed
    ]
    actions += [
        AddAction(
            path=file.path,
            size=file.size_bytes,
            partition_values=values,
            modification_time=now,
            data_change=data_change,
            stats=f'{{"numRecords": {file.rows}}}',
        )
        for file in added
    ]
    table.create_write_transaction(
        actions,
        mode="append",
        schema=table.schema(),
        partition_by=["partition"],
        # No retry by the library: what it would add without looking is what another writer has just replaced.
        commit_properties=CommitProperties(custom_metadata=dict(info), max_commit_retries=0),
    )


def key_folder(commit_key: str) -> str:
    """The folder of a commit's files: their commit key, so that the log itself is the ledger.

    Only letters, digits, '-' and '_' as they are: some readers take a '=' in a path for a partition, others decode '%'.
    """
    text = re.sub(r"[^A-Za-z0-9_-]", lambda m: "".join(f"~{byte:02x}" for byte in m[0].encode()), commit_key)
    parts = [text[i : i + LONGEST_PATH_PART] for i in range(0, len(text), LONGEST_PATH_PART)]
    return "/".join(["data", *parts])


def key_of_path(path: str) -> str | None:
    """The commit key of a file that a commit of ours wrote; None for a file of another engine."""
    first, *parts = path.split("/")[:-1] or [""]
    if first != "data" or not parts:
        return None
    raw = re.sub(rb"~([0-9a-f]{2})", lambda m: bytes.fromhex(m[1].decode()), "".join(parts).encode())
    return raw.decode()


def _commented(schema: pa.Schema) -> pa.Schema:
    """Descriptions as Delta has them: the field's `comment`."""
    fields = [field.with_metadata({b"comment": field.metadata[DESCRIPTION_KEY]}) for field in schema]
    return pa.schema(fields)


def _columns(schema: pa.Schema) -> dict[str, TableColumn]:
    return {field.name: TableColumn(shape=str(field.type), required=not field.nullable) for field in schema}


def _table_columns(table: DeltaTable) -> dict[str, TableColumn]:
    return _columns(pa.schema(table.schema().to_arrow()))
