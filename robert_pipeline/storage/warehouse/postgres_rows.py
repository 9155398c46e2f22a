"""Rows of a contract as PostgreSQL stores them, and back: SQL texts and Arrow batches. Talks to no server.

PostgreSQL has no maps. On the way in a map travels as two arrays, its keys and its values, and becomes a `json` object
in the server; on the way out the other way round. `json`, not `jsonb`, because it keeps the order and every digit.
"""

from collections.abc import Iterator

import pyarrow as pa

from schemas import Contract
from schemas.render import identifier, sql_statements

KEYS, VALUES = "__keys", "__values"


def quoted(*names: str) -> str:
    """A name, qualified, as an identifier."""
    return ".".join(identifier(name, "postgres") for name in names)


def create_statements(contract: Contract, schema: str) -> list[str]:
    """What makes the table of a contract, with an index that finds the rows of a partition."""
    table = quoted(schema, contract.name)
    # A hash index: a partition may have a longer name than a B-tree takes.
    return [*sql_statements(contract, "postgres", table), f"CREATE INDEX ON {table} USING hash (partition)"]


def ledger_statements(ledger: str) -> list[str]:
    """What makes the table of commits: one row a commit, the last of a partition counts."""
    return [
        f"CREATE TABLE IF NOT EXISTS {ledger} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
        "table_name text NOT NULL, partition text NOT NULL, commit_key text NOT NULL, row_count bigint NOT NULL, "
        "committed_at timestamp with time zone NOT NULL DEFAULT now())",
        f"CREATE INDEX IF NOT EXISTS robert_commits_partition ON {ledger} USING hash (partition)",
        f"COMMENT ON TABLE {ledger} IS 'Every commit of robert: the last one of a partition made its rows'",
    ]


def staged_batch(batch: pa.Table) -> pa.Table:
    """Rows in a shape that COPY can carry."""
    columns: dict[str, pa.Array] = {}
    for field in batch.schema:
        column = batch.column(field.name).combine_chunks()
        if not pa.types.is_map(field.type):
            columns[field.name] = column
            continue
        # A slice has no null mask of its own until it is copied.
        column = pa.concat_arrays([column])
        mask = column.is_null() if column.null_count else None
        columns[field.name + KEYS] = pa.ListArray.from_arrays(column.offsets, column.keys, mask=mask)
        columns[field.name + VALUES] = pa.ListArray.from_arrays(column.offsets, column.items, mask=mask)
    return pa.table(columns)


def insert_select(contract: Contract, schema: str, stage: str) -> str:
    """Move the staged rows into the table."""
    names = [quoted(field.name) for field in contract.schema]
    values = []
    for field in contract.schema:
        if not pa.types.is_map(field.type):
            values.append(quoted(field.name))
            continue
        keys, items = quoted(field.name + KEYS), quoted(field.name + VALUES)
        values.append(
            f"CASE WHEN {keys} IS NOT NULL THEN coalesce((SELECT json_object_agg(k, v ORDER BY n) "
            f"FROM unnest({keys}, {items}) WITH ORDINALITY AS pair(k, v, n)), '{{}}') END"
        )
    return f"INSERT INTO {quoted(schema, contract.name)} ({', '.join(names)}) SELECT {', '.join(values)} FROM {stage}"


def select(contract: Contract, schema: str, present: list[str]) -> str:
    """Read these columns of the table, or, where it has none of them yet, what tells how many rows there are."""
    values = []
    for field in contract.schema:
        if field.name not in present:
            continue
        name = quoted(field.name)
        if pa.types.is_map(field.type):
            values.append(
                f"CASE WHEN {name} IS NOT NULL THEN ARRAY(SELECT json_object_keys({name})) END "
                f"AS {quoted(field.name + KEYS)}"
            )
            values.append(
                f"CASE WHEN {name} IS NOT NULL THEN ARRAY(SELECT value::float8 FROM json_each_text({name})) END "
                f"AS {quoted(field.name + VALUES)}"
            )
        else:
            values.append(name)
    return f"SELECT {', '.join(values or [quoted('partition')])} FROM {quoted(schema, contract.name)}"


def contract_batches(batch: pa.RecordBatch, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """What `select` gave, in the exact schema of the contract's columns that were asked for."""
    found = set(batch.schema.names)
    columns = []
    for field in schema:
        if field.name in found:
            columns.append(batch.column(field.name))
        elif field.name + KEYS in found:
            keys, items = batch.column(field.name + KEYS), batch.column(field.name + VALUES)
            mask = keys.is_null() if keys.null_count else None
            columns.append(pa.MapArray.from_arrays(keys.offsets, keys.values, items.values, type=field.type, mask=mask))
        else:
            columns.append(pa.nulls(batch.num_rows, field.type))
    bare = pa.table(dict(zip(schema.names, columns, strict=True)))
    yield from bare.cast(schema).to_batches()
