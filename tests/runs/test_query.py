"""SQL over the published tables."""

import datetime
import time
from pathlib import Path

import pytest
from published_rows import SCORED_AT, predictions, rejects

from robert_pipeline.config import Warehouse
from robert_pipeline.errors import WarehouseError
from robert_pipeline.runs.query import query
from robert_pipeline.storage.warehouse import open_warehouse
from robert_pipeline.storage.warehouse.sink import Upkeep


@pytest.fixture
def warehouse(tmp_path):
    warehouse = Warehouse(uri=str(tmp_path / "warehouse"))
    sink = open_warehouse(warehouse)
    for day in ("day=1", "day=2"):
        sink.replace_partition("predictions", day, [predictions(day, 3)], "a")
    return warehouse


def rows(warehouse, sql):
    return query(warehouse, sql).to_pylist()


def test_both_tables_can_be_queried(warehouse):
    """An analyst could not join labels with rejects, or would get an error where nothing was rejected."""
    sql = "select count(*) as n, (select count(*) from rejects) as r from predictions where partition = 'day=1'"
    assert rows(warehouse, sql) == [{"n": 3, "r": 0}]
    open_warehouse(warehouse).replace_partition("rejects", "day=1", [rejects("day=1", 2)], "a")
    assert rows(warehouse, sql) == [{"n": 3, "r": 2}]


def test_a_table_can_be_joined_with_itself(warehouse):
    """The second scan of a table would find nothing."""
    sql = "select count(*) as n from predictions a join predictions b using (doc_id)"
    assert rows(warehouse, sql) == [{"n": 12}]


def test_maps_lists_and_times_keep_their_meaning(warehouse):
    """Probabilities would be text, and times would move with the machine's time zone."""
    sql = """select probabilities['tech'] as tech, labels[1] as first, scored_at, strftime(scored_at, '%H:%M') as clock
             from predictions limit 1"""
    (row,) = rows(warehouse, sql)
    assert row == {"tech": 0.25, "first": "sport", "scored_at": SCORED_AT, "clock": "03:04"}
    assert row["scored_at"].utcoffset() == datetime.timedelta(0)


@pytest.mark.parametrize(
    "sql",
    [
        "select * from '/etc/passwd'",
        "select * from read_csv('/etc/passwd')",
        "select * from read_parquet('{folder}/**/*.parquet')",
        "select * from glob('/etc/*')",
        "copy predictions to '{folder}/out.csv'",
        "attach '{folder}/catalog.db'",
        "install httpfs",
        "load httpfs",
        "set enable_external_access = true",
        "reset lock_configuration",
        "create persistent secret s (type s3, key_id 'k')",
        "select getenv('HOME')",
        "select * from warehouse",
        "select * from sys",
    ],
)
def test_a_statement_reaches_nothing_but_the_two_tables(warehouse, sql):
    """A pasted query could read files of this machine, write some, or fetch code from the network."""
    before = sorted(Path(warehouse.uri).rglob("*"))
    with pytest.raises(WarehouseError, match="the query cannot run") as caught:
        query(warehouse, sql.replace("{folder}", warehouse.uri))
    assert "\n" not in str(caught.value)
    assert sorted(Path(warehouse.uri).rglob("*")) == before


@pytest.mark.parametrize("sql", ["", ";", "selec 1", "select nope from predictions", "select 1/0::tinyint + 'x'::int"])
def test_wrong_sql_is_one_line(warehouse, sql):
    """A typing error would show a traceback."""
    if sql.strip(";"):
        with pytest.raises(WarehouseError, match="the query cannot run") as caught:
            query(warehouse, sql)
        assert "\n" not in str(caught.value)
    else:
        assert query(warehouse, sql).num_rows == 0


def test_a_query_cannot_change_what_is_published(warehouse):
    """A careless DELETE would change the table for everybody."""
    for sql in ("delete from predictions", "update predictions set label = 'x'", "drop table predictions"):
        with pytest.raises(WarehouseError):
            query(warehouse, sql)
    query(warehouse, "drop view if exists predictions")
    assert rows(warehouse, "select count(*) as n from predictions") == [{"n": 6}]


def test_an_empty_warehouse_says_so(tmp_path):
    """A mistyped address would look like a table without rows."""
    with pytest.raises(WarehouseError, match=r"nothing is published in .*nowhere yet"):
        query(Warehouse(uri=str(tmp_path / "nowhere")), "select 1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sink", ["iceberg", "delta", "parquet"])
def test_a_moment_that_is_no_longer_kept_is_refused(tmp_path, sink):
    """An audit of a past moment would be told that nothing was labelled then."""
    warehouse = Warehouse(uri=str(tmp_path / "warehouse"), sink=sink)
    tables = open_warehouse(warehouse)
    tables.replace_partition("rejects", "day=1", [rejects("day=1", 2)], "a")
    before = datetime.datetime.now(datetime.UTC)
    time.sleep(0.01)
    tables.replace_partition("predictions", "day=1", [predictions("day=1", 3)], "a")
    time.sleep(0.01)
    between = datetime.datetime.now(datetime.UTC)
    time.sleep(0.01)
    for key in ("b", "c"):
        tables.replace_partition("predictions", "day=1", [predictions("day=1", 3)], key)
    counted = "select count(*) as n from predictions"
    assert query(warehouse, counted, as_of=before).to_pylist() == [{"n": 0}]
    assert query(warehouse, counted, as_of=between).to_pylist() == [{"n": 3}]
    tables.maintain("predictions", Upkeep(keep_days=0, stray_hours=0), dry_run=False)
    with pytest.raises(WarehouseError, match=r"keeps no version as old as|removed by maintenance"):
        query(warehouse, counted, as_of=between)
