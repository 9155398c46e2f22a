"""A contract: a name, a version, and an Arrow schema in which every field carries a description.

A released version never changes. The next one keeps every field and adds nullable ones at the end, so that a reader of
an earlier version finds its columns in any later table, and a table of an earlier version lacks nothing but nulls.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

NAME_KEY = b"robert.contract"
VERSION_KEY = b"robert.contract_version"
DESCRIPTION_KEY = b"description"

Upgrade = Callable[[pa.Table], pa.Table]
"""Rows of a version in, the same rows in the shape of the next version out. Pure."""


class ContractError(ValueError):
    """Data does not have the shape its contract promises; the message names the field and the difference."""


def field(name: str, dtype: pa.DataType, description: str, *, nullable: bool = False) -> pa.Field:
    """A described field. Not nullable unless said so."""
    return pa.field(name, dtype, nullable=nullable, metadata={DESCRIPTION_KEY: description.encode()})


@dataclass(frozen=True, kw_only=True, slots=True)
class Contract:
    """One version of one kind of row. `previous` is the version before, `upgrade` makes its rows rows of this one."""

    name: str
    version: int
    description: str
    fields: tuple[pa.Field, ...]
    previous: "Contract | None" = None
    upgrade: Upgrade | None = None

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema, with the contract's name and version in its metadata."""
        return pa.schema(
            list(self.fields),
            metadata={NAME_KEY: self.name.encode(), VERSION_KEY: str(self.version).encode()},
        )

    @property
    def versions(self) -> tuple["Contract", ...]:
        """Every version up to this one, the first one first."""
        return (*(self.previous.versions if self.previous else ()), self)

    @property
    def added(self) -> frozenset[str]:
        """Fields that the first version did not have: a table may lack them, and then holds nulls."""
        return frozenset(self.schema.names) - frozenset(self.versions[0].schema.names)

    def check(self, actual: pa.Schema, *, where: str) -> None:
        """Raise ContractError unless `actual` has this contract's fields, in order, with their types.

        Field metadata and the nullability of a field that the contract calls nullable are not compared: Parquet
        readers may drop both.
        """
        check_fields(self.schema, actual, where=where, contract=f"{self.name} v{self.version}")

    def version_of(self, actual: pa.Schema, *, where: str) -> "Contract":
        """The version, this or an earlier one, whose shape `actual` has. Raises ContractError where it has none's.

        A schema that names its version is held to that version, any other to the latest that fits.
        """
        stated = (actual.metadata or {}).get(VERSION_KEY, b"").decode()
        candidates = [version for version in self.versions if stated in ("", str(version.version))]
        if not candidates:
            raise ContractError(
                f"{where}: contract {self.name} v{stated} is unknown here, the latest known is v{self.version}"
            )
        problems: list[ContractError] = []
        for version in reversed(candidates):
            try:
                version.check(actual, where=where)
            except ContractError as error:
                problems.append(error)
            else:
                return version
        raise problems[0]

    def upgraded(self, rows: pa.Table, *, where: str) -> pa.Table:
        """Rows of this or any earlier version as rows of this one, in its exact schema. Raises ContractError."""
        found = self.version_of(rows.schema, where=where)
        for version in self.versions[found.version :]:
            if version.upgrade is not None:
                rows = version.upgrade(rows)
        return rows.cast(self.schema)

    def view(self, rows: pa.Table) -> pa.Table:
        """Rows of a later version as a reader of this one sees them: its own columns, in its own order."""
        return rows.select(self.schema.names).cast(self.schema)


def check_fields(expected: pa.Schema, actual: pa.Schema, *, where: str, contract: str) -> None:
    """Compare names, order and types; raise ContractError that names the first field that differs."""
    for wanted in expected:
        position = actual.get_field_index(wanted.name)
        if position < 0:
            raise ContractError(f"{where}: field '{wanted.name}' of contract {contract} is missing")
        if not actual.field(position).type.equals(wanted.type):
            found = actual.field(position).type
            raise ContractError(f"{where}: field '{wanted.name}' is {found}, contract {contract} says {wanted.type}")
    if actual.names != expected.names:
        extra = [name for name in actual.names if name not in expected.names]
        problem = f"unknown field '{extra[0]}'" if extra else "fields out of order"
        raise ContractError(f"{where}: {problem} for contract {contract}")
