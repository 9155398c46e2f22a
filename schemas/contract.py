"""A contract: a name, a version, and an Arrow schema in which every field carries a description."""

from dataclasses import dataclass

import pyarrow as pa

NAME_KEY = b"robert.contract"
VERSION_KEY = b"robert.contract_version"
DESCRIPTION_KEY = b"description"


class ContractError(ValueError):
    """Data does not have the shape its contract promises; the message names the field and the difference."""


def field(name: str, dtype: pa.DataType, description: str, *, nullable: bool = False) -> pa.Field:
    """A described field. Not nullable unless said so."""
    return pa.field(name, dtype, nullable=nullable, metadata={DESCRIPTION_KEY: description.encode()})


@dataclass(frozen=True, kw_only=True, slots=True)
class Contract:
    """One version of one kind of row."""

    name: str
    version: int
    description: str
    fields: tuple[pa.Field, ...]

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema, with the contract's name and version in its metadata."""
        return pa.schema(
            list(self.fields),
            metadata={NAME_KEY: self.name.encode(), VERSION_KEY: str(self.version).encode()},
        )

    def check(self, actual: pa.Schema, *, where: str) -> None:
        """Raise ContractError unless `actual` has this contract's fields, in order, with their types.

        Field metadata and the nullability of a field that the contract calls nullable are not compared: Parquet
        readers may drop both.
        """
        check_fields(self.schema, actual, where=where, contract=f"{self.name} v{self.version}")


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
