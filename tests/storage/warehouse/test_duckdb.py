"""What is true of the DuckDB file alone: one process at a time is in it."""

import subprocess
import sys
import threading

import duckdb
import pytest
from published_rows import predictions

from robert_pipeline.config import Warehouse
from robert_pipeline.errors import WarehouseError
from robert_pipeline.storage.warehouse import Commit
from robert_pipeline.storage.warehouse.duckdb_file import DuckdbSink
from schemas import PREDICTIONS
from schemas.render import sql_statements

HOLD = """
import sys, duckdb
with duckdb.connect(sys.argv[1]) as connection:
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def file(tmp_path):
    """A file that another process holds, and the process; it lets go when a line is written to it."""
    place = tmp_path / "warehouse.duckdb"
    DuckdbSink(Warehouse(uri=str(place), sink="duckdb")).replace_partition(
        "predictions", "p", [predictions("p", 2)], "a"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    yield place, holder
    holder.kill()
    holder.wait()


def test_a_file_that_another_program_holds_for_ever_is_one_clear_error(file):
    """A night's publication would hang, or end in a traceback, because somebody left a shell open."""
    place, _ = file
    sink = DuckdbSink(Warehouse(uri=str(place), sink="duckdb"), patience_seconds=0.2)
    for call in (
        lambda: sink.replace_partition("predictions", "p", [predictions("p", 3)], "b"),
        lambda: sink.commit_keys("predictions"),
        sink.check,
    ):
        with pytest.raises(WarehouseError, match=str(place)) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_file_that_another_program_holds_for_a_moment_is_waited_for(file):
    """A query of an analyst would stop a night's publication."""
    place, holder = file
    sink = DuckdbSink(Warehouse(uri=str(place), sink="duckdb"))
    let_go = threading.Timer(0.5, holder.communicate, ["\n"])
    let_go.start()
    assert sink.replace_partition("predictions", "p", [predictions("p", 3)], "b") is Commit.COMMITTED
    let_go.join()
    assert sink.read("predictions").read_all().num_rows == 3


def test_a_table_that_was_dropped_is_published_anew(tmp_path):
    """The ledger would outlive the table, and every night say that its empty place holds what was published."""
    sink = DuckdbSink(Warehouse(uri=str(tmp_path / "warehouse.duckdb"), sink="duckdb"))
    for partition in ("p", "q"):
        sink.replace_partition("predictions", partition, [predictions(partition, 2)], "a")
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as connection:
        connection.execute("DROP TABLE robert.predictions")
    assert sink.commit_keys("predictions") == {}
    assert sink.replace_partition("predictions", "p", [predictions("p", 2)], "a") is Commit.COMMITTED
    assert sink.commit_keys("predictions") == {"p": "a"}
    assert sink.read("predictions").read_all().num_rows == 2


def test_a_table_made_by_hand_is_published_into(tmp_path):
    """`robert schemas --format sql` would make a table that passes every check and fails after the embedding."""
    sink = DuckdbSink(Warehouse(uri=str(tmp_path / "warehouse.duckdb"), sink="duckdb"))
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as connection:
        connection.execute("CREATE SCHEMA robert")
        for statement in sql_statements(PREDICTIONS, "duckdb", "robert.predictions"):
            connection.execute(statement)
    sink.check()
    assert sink.commit_keys("predictions") == {}
    assert sink.replace_partition("predictions", "p", [predictions("p", 2)], "a") is Commit.COMMITTED
    assert sink.commit_keys("predictions") == {"p": "a"}
