"""What the BigQuery sink says to BigQuery: SQL scripts, table schemas, rows in a shape that it loads. Talks to nobody.

BigQuery has no maps: a map is an array of (key, value) records, as a Parquet load makes it.
"""

from collections.abc import Iterator

import pyarrow as pa

from schemas import Contract
from schemas.render import identifier, sql_columns, sql_statements, text_literal

LEDGER = "robert_commits"
LOCKS = "robert_locks"

_API_TYPES: tuple[tuple[pa.DataType, str], ...] = (
    (pa.string(), "STRING"),
    (pa.bool_(), "BOOLEAN"),
    (pa.int32(), "INTEGER"),
    (pa.int64(), "INTEGER"),
    (pa.float64(), "FLOAT"),
    (pa.timestamp("us", tz="UTC"), "TIMESTAMP"),
)


def quoted(*names: str) -> str:
    """A qualified name as an identifier."""
    return identifier(".".join(names), "bigquery")


def create_statements(contract: Contract, project: str, dataset: str) -> list[str]:
    """What makes the table of a contract.

    What was committed to an earlier one, which somebody has dropped, is gone with it: forgotten first, so that whoever
    finds the table finds no key of the earlier one.
    """
    table, ledger = quoted(project, dataset, contract.name), quoted(project, dataset, LEDGER)
    (create,) = sql_statements(contract, "bigquery", table)
    head, _, options = create.rpartition("\n) OPTIONS")
    # Clustered, so that replacing a partition reads little but that partition.
    create = f"{head}\n) CLUSTER BY `partition` OPTIONS{options}".replace(
        "CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1
    )
    name = text_literal(contract.name, "bigquery")
    tables = f"{quoted(project, dataset)}.INFORMATION_SCHEMA.TABLES"
    forget = (
        f"IF NOT EXISTS (SELECT 1 FROM {tables} WHERE table_name = {name}) THEN\n"
        f"  DELETE FROM {ledger} WHERE table_name = {name};\nEND IF"
    )
    return [forget, create]


def ledger_statements(contract: Contract, project: str, dataset: str) -> list[str]:
    """What makes the two tables that commits need; nothing where they exist."""
    ledger, locks = quoted(project, dataset, LEDGER), quoted(project, dataset, LOCKS)
    return [
        f"CREATE TABLE IF NOT EXISTS {ledger} (number INT64 NOT NULL, table_name STRING NOT NULL, "
        "`partition` STRING NOT NULL, commit_key STRING NOT NULL, committed_at TIMESTAMP NOT NULL)",
        f"CREATE TABLE IF NOT EXISTS {locks} (table_name STRING NOT NULL, transactions INT64 NOT NULL)",
        f"MERGE {locks} AS l USING (SELECT {text_literal(contract.name, 'bigquery')} AS name) AS n "
        "ON l.table_name = n.name WHEN NOT MATCHED THEN INSERT VALUES (n.name, 0)",
    ]


def add_columns(contract: Contract, project: str, dataset: str, missing: list[str]) -> list[str]:
    """What gives a table the columns of a later contract version."""
    table = quoted(project, dataset, contract.name)
    return [
        f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {identifier(column.name, 'bigquery')} {column.sql_type} "
        f"OPTIONS (description = {text_literal(column.description, 'bigquery')})"
        for column in sql_columns(contract, "bigquery")
        if column.name in missing
    ]


def replace_script(contract: Contract, project: str, dataset: str, stage: str) -> str:
    """One transaction that swaps a partition's rows, with @partition, @commit_key and @only_new as parameters.

    Its last statement gives what became of it. The update of the lock row makes any two of these transactions conflict,
    whatever rows they touch, and BigQuery cancels one of the two, which is then run again.
    """
    table = quoted(project, dataset, contract.name)
    ledger, locks = quoted(project, dataset, LEDGER), quoted(project, dataset, LOCKS)
    name = text_literal(contract.name, "bigquery")
    columns = ", ".join(identifier(column, "bigquery") for column in contract.schema.names)
    return f"""DECLARE last_key STRING;
BEGIN TRANSACTION;
UPDATE {locks} SET transactions = transactions + 1 WHERE table_name = {name};
SET last_key = (SELECT commit_key FROM {ledger} WHERE table_name = {name} AND `partition` = @partition
                ORDER BY number DESC LIMIT 1);
IF last_key = @commit_key THEN
  ROLLBACK TRANSACTION;
  SELECT 'already_committed' AS outcome;
ELSEIF @only_new AND last_key IS NOT NULL THEN
  ROLLBACK TRANSACTION;
  SELECT 'exists' AS outcome;
ELSE
  DELETE FROM {table} WHERE `partition` = @partition;
  INSERT INTO {table} ({columns}) SELECT {columns} FROM {quoted(project, dataset, stage)};
  INSERT INTO {ledger} (number, table_name, `partition`, commit_key, committed_at)
    SELECT transactions, table_name, @partition, @commit_key, CURRENT_TIMESTAMP() FROM {locks}
    WHERE table_name = {name};
  COMMIT TRANSACTION;
  SELECT 'committed' AS outcome;
END IF"""


def ledger_query(contract: Contract, project: str, dataset: str) -> str:
    """Partition and key of every partition's last commit."""
    return (
        f"SELECT `partition`, ARRAY_AGG(commit_key ORDER BY number DESC LIMIT 1)[OFFSET(0)] AS commit_key "
        f"FROM {quoted(project, dataset, LEDGER)} "
        f"WHERE table_name = {text_literal(contract.name, 'bigquery')} GROUP BY `partition`"
    )


def select(
    contract: Contract, project: str, dataset: str, names: list[str], chosen: list[str], limit: int | None = None
) -> str:
    """The rows where each of the `chosen` columns equals the parameter of its name.

    Of them these columns, or, where the table has none of them yet, what tells how many rows there are.
    """
    columns = ", ".join(identifier(name, "bigquery") for name in names or ["partition"])
    conditions = " AND ".join(f"{identifier(name, 'bigquery')} = @{name}" for name in chosen) or "TRUE"
    first = "" if limit is None else f" LIMIT {limit:d}"
    return f"SELECT {columns} FROM {quoted(project, dataset, contract.name)} WHERE {conditions}{first}"


def api_type(dtype: pa.DataType) -> str:
    """A type in the words of BigQuery's API, as its tables are described by it."""
    for arrow, name in _API_TYPES:
        if arrow.equals(dtype):
            return name
    if pa.types.is_map(dtype):
        return f"REPEATED RECORD<key {api_type(dtype.key_type)}, value {api_type(dtype.item_type)}>"
    if pa.types.is_list(dtype):
        return f"REPEATED {api_type(dtype.value_type)}"
    raise TypeError(f"no BigQuery type for {dtype}")


def load_schema(contract: Contract) -> list[dict[str, object]]:
    """The contract as the table schema of a load job."""
    fields: list[dict[str, object]] = []
    for field in contract.schema:
        kind = api_type(field.type)
        repeated = kind.startswith("REPEATED")
        described: dict[str, object] = {
            "name": field.name,
            "type": "RECORD" if "RECORD" in kind else kind.removeprefix("REPEATED "),
            "mode": "REPEATED" if repeated else "NULLABLE" if field.nullable else "REQUIRED",
        }
        if "RECORD" in kind:
            described["fields"] = [
                {"name": "key", "type": api_type(field.type.key_type), "mode": "NULLABLE"},
                {"name": "value", "type": api_type(field.type.item_type), "mode": "NULLABLE"},
            ]
        fields.append(described)
    return fields


def staged_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Rows with every map as a list of (key, value) records."""
    for batch in batches:
        columns = []
        for column in batch.columns:
            if pa.types.is_map(column.type):
                copy = pa.concat_arrays([column])
                pairs = pa.StructArray.from_arrays([copy.keys, copy.items], ["key", "value"])
                mask = copy.is_null() if copy.null_count else None
                columns.append(pa.ListArray.from_arrays(copy.offsets, pairs, mask=mask))
            else:
                columns.append(column)
        yield pa.record_batch(columns, names=batch.schema.names)


def contract_batch(batch: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    """What `select` gave, in the exact schema of the contract's columns that were asked for.

    An empty array of an optional map was a null.
    """
    columns = []
    for field in schema:
        if field.name not in batch.schema.names:
            columns.append(pa.nulls(batch.num_rows, field.type))
            continue
        column = batch.column(field.name)
        if pa.types.is_map(field.type):
            copy = pa.concat_arrays([column])
            keys, values = copy.values.field("key"), copy.values.field("value")
            offsets = copy.offsets
            mask = None
            if field.nullable:
                mask = pa.array([length in (0, None) for length in copy.value_lengths().to_pylist()])
            column = pa.MapArray.from_arrays(offsets, keys, values, type=field.type, mask=mask)
        columns.append(column)
    return pa.table(dict(zip(schema.names, columns, strict=True))).cast(schema)
