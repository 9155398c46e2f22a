"""Contracts for people and for databases: a contract enters; JSON, Markdown or SQL leaves. Opens nothing."""

import json
from dataclasses import dataclass
from typing import Literal, get_args

import pyarrow as pa

from schemas.contract import DESCRIPTION_KEY, Contract

Dialect = Literal["postgres", "duckdb", "bigquery", "spark"]
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One field as a database sees it."""

    name: str
    sql_type: str
    nullable: bool
    description: str


_PRIMITIVES: tuple[tuple[pa.DataType, dict[Dialect, str]], ...] = (
    (pa.string(), {"postgres": "text", "duckdb": "VARCHAR", "bigquery": "STRING", "spark": "STRING"}),
    (pa.bool_(), {"postgres": "boolean", "duckdb": "BOOLEAN", "bigquery": "BOOL", "spark": "BOOLEAN"}),
    (pa.int32(), {"postgres": "integer", "duckdb": "INTEGER", "bigquery": "INT64", "spark": "INT"}),
    (pa.int64(), {"postgres": "bigint", "duckdb": "BIGINT", "bigquery": "INT64", "spark": "BIGINT"}),
    (pa.float16(), {"postgres": "real", "duckdb": "FLOAT", "bigquery": "FLOAT64", "spark": "FLOAT"}),
    (pa.float64(), {"postgres": "double precision", "duckdb": "DOUBLE", "bigquery": "FLOAT64", "spark": "DOUBLE"}),
    (
        pa.timestamp("us", tz="UTC"),
        {
            "postgres": "timestamp with time zone",
            "duckdb": "TIMESTAMP WITH TIME ZONE",
            "bigquery": "TIMESTAMP",
            "spark": "TIMESTAMP",
        },
    ),
)


def sql_type(dtype: pa.DataType, dialect: Dialect) -> str:
    """An Arrow type as a column type. PostgreSQL has no maps: there a map is a `json` object, its order kept."""
    for arrow, names in _PRIMITIVES:
        if arrow.equals(dtype):
            return names[dialect]
    if pa.types.is_map(dtype):
        key, value = sql_type(dtype.key_type, dialect), sql_type(dtype.item_type, dialect)
        return {
            "postgres": "json",
            "duckdb": f"MAP({key}, {value})",
            "bigquery": f"ARRAY<STRUCT<key {key}, value {value}>>",
            "spark": f"MAP<{key}, {value}>",
        }[dialect]
    if pa.types.is_list(dtype) or pa.types.is_fixed_size_list(dtype):
        element = sql_type(dtype.value_type, dialect)
        return {
            "postgres": f"{element}[]",
            "duckdb": f"{element}[]",
            "bigquery": f"ARRAY<{element}>",
            "spark": f"ARRAY<{element}>",
        }[dialect]
    raise TypeError(f"no SQL type for {dtype}")


def sql_columns(contract: Contract, dialect: Dialect) -> tuple[Column, ...]:
    """The contract's columns, in order."""
    return tuple(
        Column(
            name=field.name,
            sql_type=sql_type(field.type, dialect),
            # BigQuery's arrays are never null.
            nullable=field.nullable or (dialect == "bigquery" and sql_type(field.type, dialect).startswith("ARRAY")),
            description=field.metadata[DESCRIPTION_KEY].decode(),
        )
        for field in contract.fields
    )


def identifier(name: str, dialect: Dialect) -> str:
    """A name as an identifier, quoted."""
    if dialect in ("bigquery", "spark"):
        return "`" + name.replace("`", "``") + "`"
    return '"' + name.replace('"', '""') + '"'


def text_literal(text: str, dialect: Dialect) -> str:
    """A text as a SQL literal."""
    if dialect in ("bigquery", "spark"):
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
    return "'" + text.replace("'", "''") + "'"


def to_sql(contract: Contract, dialect: Dialect = "postgres") -> str:
    """The statements that make the table, descriptions as comments."""
    return "\n".join(f"{statement};" for statement in sql_statements(contract, dialect))


def sql_statements(contract: Contract, dialect: Dialect, table: str | None = None) -> list[str]:
    """The statements of `to_sql`, one by one. `table` is a quoted name [the contract's]."""
    name = table or identifier(contract.name, dialect)
    columns = sql_columns(contract, dialect)
    inline = dialect in ("bigquery", "spark")
    lines = []
    for column in columns:
        line = f"{identifier(column.name, dialect)} {column.sql_type}{'' if column.nullable else ' NOT NULL'}"
        if dialect == "bigquery":
            line += f" OPTIONS (description = {text_literal(column.description, dialect)})"
        elif dialect == "spark":
            line += f" COMMENT {text_literal(column.description, dialect)}"
        lines.append(f"    {line}")
    ending = {
        "bigquery": f" OPTIONS (description = {text_literal(contract.description, dialect)})",
        "spark": f" COMMENT {text_literal(contract.description, dialect)}",
    }.get(dialect, "")
    statements = [f"CREATE TABLE {name} (\n" + ",\n".join(lines) + f"\n){ending}"]
    if not inline:
        statements.append(f"COMMENT ON TABLE {name} IS {text_literal(contract.description, dialect)}")
        statements += [
            f"COMMENT ON COLUMN {name}.{identifier(c.name, dialect)} IS {text_literal(c.description, dialect)}"
            for c in columns
        ]
    return statements


def to_json(contract: Contract) -> str:
    """Name, version, description and fields."""
    content = {
        "name": contract.name,
        "version": contract.version,
        "description": contract.description,
        "fields": [
            {
                "name": field.name,
                "type": str(field.type),
                "nullable": field.nullable,
                "description": field.metadata[DESCRIPTION_KEY].decode(),
            }
            for field in contract.fields
        ],
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def to_markdown(contract: Contract) -> str:
    """A heading, the description, and a table of the fields."""
    rows = [
        f"| `{field.name}` | `{field.type}` | {'yes' if field.nullable else ''} | "
        f"{field.metadata[DESCRIPTION_KEY].decode().replace('|', chr(92) + '|')} |"
        for field in contract.fields
    ]
    heading = f"## {contract.name}, version {contract.version}\n\n{contract.description}\n"
    return "\n".join([heading, "| field | type | null | description |", "| --- | --- | --- | --- |", *rows])
