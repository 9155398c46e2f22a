"""Data contracts as text."""

from typing import Literal

from robert_pipeline.errors import ConfigError
from schemas import CONTRACTS, Contract
from schemas.render import Dialect, to_json, to_markdown, to_sql

Form = Literal["markdown", "json", "sql"]


def render_contracts(name: str | None, form: Form, *, dialect: Dialect = "postgres", version: int | None = None) -> str:
    """One contract, or all, as Markdown, JSON or SQL. Raises ConfigError for a name or a version that is none."""
    if name is not None and name not in CONTRACTS:
        raise ConfigError(f"there is no contract '{name}'", fix=f"Give one of: {', '.join(CONTRACTS)}")
    chosen = [_version(CONTRACTS[n], version) for n in ([name] if name else CONTRACTS)]
    if form == "json":
        texts = [to_json(contract) for contract in chosen]
        return texts[0] if name else f"[{', '.join(texts)}]"
    render = to_markdown if form == "markdown" else lambda contract: to_sql(contract, dialect)
    return "\n\n".join(render(contract) for contract in chosen)


def _version(contract: Contract, version: int | None) -> Contract:
    if version is None:
        return contract
    for found in contract.versions:
        if found.version == version:
            return found
    known = ", ".join(str(found.version) for found in contract.versions)
    raise ConfigError(f"contract '{contract.name}' has no version {version}", fix=f"It has: {known}")
