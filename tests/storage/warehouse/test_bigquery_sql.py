"""What the BigQuery sink would say to BigQuery, looked at without BigQuery: texts, schemas, and rows there and back."""

import pyarrow as pa
import pytest
from published_rows import predictions

from robert_pipeline.config import Warehouse
from robert_pipeline.errors import WarehouseError
from robert_pipeline.storage.warehouse import bigquery_sql as sql
from robert_pipeline.storage.warehouse import open_warehouse
from robert_pipeline.storage.warehouse.extras import require
from schemas import CONTRACTS, PREDICTIONS, PROMOTIONS, REJECTS

PUBLISHED = [PREDICTIONS, REJECTS, PROMOTIONS]


def test_a_swap_is_one_transaction_that_looks_into_the_ledger_first():
    """A re-run would publish twice, or a reader would see a partition that is empty or doubled."""
    script = sql.replace_script(PREDICTIONS, "my-project", "robert", "stage")
    order = [
        "BEGIN TRANSACTION",
        "UPDATE",
        "last_key = @commit_key",
        "DELETE FROM",
        "INSERT INTO",
        "COMMIT TRANSACTION",
    ]
    places = [script.index(part) for part in order]
    assert places == sorted(places)
    assert script.count("BEGIN TRANSACTION") == script.count("COMMIT TRANSACTION") == 1
    assert script.count("ROLLBACK TRANSACTION") == 2
    assert "`my-project.robert.predictions`" in script
    assert all(f"`{name}`" in script for name in PREDICTIONS.schema.names)


@pytest.mark.parametrize("contract", PUBLISHED, ids=lambda c: c.name)
def test_a_table_is_made_with_every_column_and_clustered(contract):
    """A column would be missing, or replacing one day would read the whole table and be billed for it."""
    forget, create = sql.create_statements(contract, "p", "d")
    assert f"FROM `p.d`.INFORMATION_SCHEMA.TABLES WHERE table_name = '{contract.name}'" in forget
    assert create.startswith(f"CREATE TABLE IF NOT EXISTS `p.d.{contract.name}` (")
    assert "\n) CLUSTER BY `partition` OPTIONS (description = " in create
    assert all(f"    `{name}` " in create for name in contract.schema.names)
    added = sql.add_columns(contract, "p", "d", list(contract.added))
    assert len(added) == len(contract.added)
    assert all(" ADD COLUMN IF NOT EXISTS `" in statement for statement in added)


@pytest.mark.parametrize("contract", PUBLISHED, ids=lambda c: c.name)
def test_the_load_job_has_the_contract_s_columns(contract):
    """A load would guess a type, and refuse tomorrow's rows for it."""
    fields = {field["name"]: field for field in sql.load_schema(contract)}
    assert list(fields) == contract.schema.names
    for field in contract.schema:
        made = fields[field.name]
        repeated = pa.types.is_map(field.type) or pa.types.is_list(field.type)
        assert made["mode"] == ("REPEATED" if repeated else "NULLABLE" if field.nullable else "REQUIRED")
        assert (made["type"] == "RECORD") == pa.types.is_map(field.type)


def test_rows_come_back_as_they_went_in():
    """A map would be changed on its way through an array of records, or a null become an empty map."""
    batch = predictions("p", 5, probabilities=[("a", 0.25), ("b", 0.75)], review_thresholds=None)
    (staged,) = sql.staged_batches(iter([batch.slice(2)]))
    assert staged.schema.field("probabilities").type == pa.list_(
        pa.struct([pa.field("key", pa.string()), pa.field("value", pa.float64())])
    )
    back = sql.contract_batch(staged, PREDICTIONS.schema)
    assert back.schema.equals(PREDICTIONS.schema, check_metadata=True)
    assert back.to_pylist() == batch.slice(2).to_pylist()
    older = staged.select([name for name in staged.schema.names if name not in PREDICTIONS.added])
    assert sql.contract_batch(older, PREDICTIONS.schema)["decision_thresholds"].null_count == 3


def test_names_with_quotes_stay_names():
    """A data set with a backtick in its name would end the name and begin a statement."""
    assert sql.quoted("p", "d`; DROP TABLE x; --", "t") == "`p.d``; DROP TABLE x; --.t`"
    chosen = sql.select(CONTRACTS["predictions"], "p", "d", ["label"], ["partition", "doc_id"])
    assert chosen.endswith("WHERE `partition` = @partition AND `doc_id` = @doc_id")


def test_a_missing_library_is_named_with_its_extra():
    """Choosing a sink would end in a traceback that says nothing about what to install."""
    with pytest.raises(WarehouseError, match=r"pip install 'robert-pipeline\[bigquery\]'"):
        require("no_such_module_of_ours", extra="bigquery", what="warehouse.sink 'bigquery'")


@pytest.mark.parametrize(
    ("sink", "uri"),
    [
        ("postgres", "warehouse"),
        ("duckdb", "s3://bucket/x"),
        ("parquet", "s3://bucket/x"),
    ],
)
def test_an_address_of_another_kind_is_refused(sink, uri):
    """A folder would be made with the name of a database, or a database looked for in a folder."""
    with pytest.raises(WarehouseError, match=r"warehouse\.uri"):
        open_warehouse(Warehouse(sink=sink, uri=uri))
