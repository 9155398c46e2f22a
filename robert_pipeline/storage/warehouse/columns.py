"""Is a table that was found the one that a contract describes? Columns of both enter; what is missing leaves, or a
refusal that names the column.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from robert_pipeline.errors import WarehouseError
from schemas import Contract


@dataclass(frozen=True, kw_only=True, slots=True)
class TableColumn:
    """A column in the words of its database. `shape` is its type; equal types have equal shapes."""

    shape: str
    required: bool
    """No null may stand in it, and nothing does where a row leaves it out."""

    def __str__(self) -> str:
        return f"{self.shape}{' required' if self.required else ''}"


def missing_columns(
    contract: Contract, wanted: Mapping[str, TableColumn], found: Mapping[str, TableColumn], *, where: str, fix: str
) -> list[str]:
    """Names of the columns that a table of an earlier contract version still has to be given.

    Raises WarehouseError, naming the column, where one that the first version has is missing, where a type or a
    requirement differs, or where the table requires a column that the contract does not know. Optional columns that
    somebody else added are none of our business.
    """
    missing: list[str] = []
    for name, column in wanted.items():
        actual = found.get(name)
        if actual is None:
            if name not in contract.added:
                raise WarehouseError(f"{where} has no column '{name}'", fix=fix)
            missing.append(name)
        elif actual != column:
            raise WarehouseError(f"column '{name}' of {where} is {actual}, robert needs {column}", fix=fix)
    for name, actual in found.items():
        if name not in wanted and actual.required:
            raise WarehouseError(f"{where} has a required column '{name}' that robert does not know", fix=fix)
    return missing


def someone_elses(setting: str) -> str:
    """What to do about a table that is not ours."""
    return f"Someone else made this table: choose another {setting}, or drop the table"
