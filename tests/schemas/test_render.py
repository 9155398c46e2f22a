"""Contracts as JSON, Markdown and SQL: what is shown is what databases accept."""

import json

import duckdb
import pyarrow as pa
import pytest

from schemas import CONTRACTS
from schemas.contract import DESCRIPTION_KEY
from schemas.render import DIALECTS, identifier, sql_columns, sql_type, text_literal, to_json, to_markdown, to_sql

TABLES = {name: contract for name, contract in CONTRACTS.items() if name != "embeddings"}


@pytest.mark.parametrize("contract", TABLES.values(), ids=TABLES)
def test_duckdb_makes_the_table_that_is_shown(contract):
    """A printed statement would be refused, or make columns without their types, rules and descriptions."""
    connection = duckdb.connect()
    connection.execute(to_sql(contract, "duckdb"))
    made = connection.execute(
        "select column_name, is_nullable, comment from duckdb_columns() where table_name = $1 order by column_index",
        [contract.name],
    ).fetchall()
    wanted = [(f.name, f.nullable, f.metadata[DESCRIPTION_KEY].decode()) for f in contract.schema]
    assert made == wanted
    empty = connection.table(contract.name).to_arrow_table()
    assert empty.cast(contract.schema).schema.names == contract.schema.names


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS)
def test_every_dialect_has_every_field(contract, dialect):
    """A field would have no type in some database."""
    shown = to_sql(contract, dialect)
    for column in sql_columns(contract, dialect):
        assert f"{identifier(column.name, dialect)} {column.sql_type}" in shown
        assert text_literal(column.description, dialect) in shown


def test_json_and_markdown_say_the_same():
    """Documentation made from the one would differ from documentation made from the other."""
    for contract in CONTRACTS.values():
        shown = json.loads(to_json(contract))
        assert (shown["name"], shown["version"]) == (contract.name, contract.version)
        rows = [line.split(" | ") for line in to_markdown(contract).splitlines() if line.startswith("| `")]
        assert [row[0].strip("| `") for row in rows] == [field["name"] for field in shown["fields"]]
        assert [row[2].strip() == "yes" for row in rows] == [field["nullable"] for field in shown["fields"]]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_hard_names_stay_one_name(dialect):
    """A name with a quote would end early, and what follows would be run."""
    quote = identifier("x", dialect)[0]
    assert identifier(f"a{quote}b", dialect) == f"{quote}a{quote}{quote}b{quote}"
    assert text_literal("it's", dialect) in ("'it''s'", "'it\\'s'")


def test_a_type_without_a_name_is_not_guessed():
    """A new field would get a wrong column."""
    with pytest.raises(TypeError, match="no SQL type"):
        sql_type(pa.date32(), "postgres")
