"""What only the PostgreSQL sink has to prove: its table, its lock, a server that fails, and SQL that others can run."""

import os
import resource
import signal
import threading
import time
from contextlib import contextmanager

import adbc_driver_postgresql.dbapi as pg
import pytest
from published_rows import predictions
from warehouses import configured, serving_postgres

from robert_pipeline.config import Warehouse
from robert_pipeline.errors import WarehouseError
from robert_pipeline.storage.warehouse import Commit, open_warehouse
from robert_pipeline.storage.warehouse.postgres import PostgresSink
from schemas import PREDICTIONS
from schemas.contract import DESCRIPTION_KEY
from schemas.render import sql_statements


@pytest.fixture
def warehouse(request, tmp_path):
    return configured("postgres", request, tmp_path)


@pytest.fixture
def sink(warehouse):
    return open_warehouse(warehouse)


@contextmanager
def cursor(warehouse):
    with pg.connect(warehouse.uri) as connection, connection.cursor() as opened:
        yield opened


def ask(warehouse, sql):
    with cursor(warehouse) as opened:
        opened.execute(sql.replace("SCHEMA", warehouse.namespace))
        return opened.fetchall()


def test_the_table_is_its_contract(sink, warehouse):
    """Analysts would see columns without documentation, or nulls that the contract rules out."""
    sink.replace_partition("predictions", "p", [predictions("p", 1)], "a")
    made = ask(
        warehouse,
        "select attname, attnotnull, col_description(attrelid, attnum) from pg_attribute "
        "where attrelid = 'SCHEMA.predictions'::regclass and attnum > 0 order by attnum",
    )
    assert [tuple(row) for row in made] == [
        (field.name, not field.nullable, field.metadata[DESCRIPTION_KEY].decode()) for field in PREDICTIONS.schema
    ]


def test_sql_reads_maps_and_lists(sink, warehouse):
    """Probabilities would be text that nobody can compute with."""
    sink.replace_partition("predictions", "p", [predictions("p", 1)], "a")
    sql = "select (probabilities->>'tech')::float8, labels[1], review_thresholds->>'sport' from SCHEMA.predictions"
    assert [tuple(row) for row in ask(warehouse, sql)] == [(0.25, "sport", "0.6")]


def test_every_commit_is_in_the_ledger(sink, warehouse):
    """Nobody could tell when a partition was replaced, or how often."""
    for key in ("a", "b", "b", "a"):
        sink.replace_partition("predictions", "p", [predictions("p", 2)], key)
    rows = ask(warehouse, "select commit_key, row_count from SCHEMA.robert_commits order by id")
    assert [tuple(row) for row in rows] == [("a", 2), ("b", 2), ("a", 2)]


def test_a_writer_that_hangs_in_its_source_keeps_nobody_waiting(sink, warehouse):
    """A slow scoring of one partition would stop every other publication of it, and VACUUM."""
    sink.replace_partition("predictions", "p", [predictions("p", 1)], "a")
    impatient = PostgresSink(warehouse, patience_seconds=1)

    def rows():
        yield predictions("p", 200_000, "slow")
        assert impatient.replace_partition("predictions", "p", [predictions("p", 3)], "b") is Commit.COMMITTED

    assert sink.replace_partition("predictions", "p", rows(), "c") is Commit.COMMITTED
    assert sink.read("predictions").read_all().num_rows == 200_000


def test_a_lock_that_is_never_given_back_is_one_clear_error(sink, warehouse):
    """A forgotten session would hang every publication of its partition for ever."""
    sink.replace_partition("predictions", "p", [predictions("p", 1)], "a")
    key = f"robert:{warehouse.namespace}:predictions:p"
    with cursor(warehouse) as holder:
        holder.execute("select pg_advisory_xact_lock(hashtextextended($1, 0))", (key,))
        holder.fetchall()
        impatient = PostgresSink(warehouse, patience_seconds=0.2)
        with pytest.raises(WarehouseError, match="another writer held its lock") as caught:
            impatient.replace_partition("predictions", "p", [predictions("p", 2)], "b")
        assert "\n" not in str(caught.value)
        assert impatient.replace_partition("predictions", "q", [predictions("q", 2)], "b") is Commit.COMMITTED
    assert sink.commit_keys("predictions") == {"p": "a", "q": "b"}


def test_full_disk_is_one_clear_error_and_leaves_the_old_version(publisher):
    """A full disk of the server would leave half a partition, or a traceback instead of the reason."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The server and its processes inherit the limit: no file of theirs may grow beyond it, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, before[1]))
    try:
        serving = serving_postgres()
        uri = serving.__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    try:
        warehouse = Warehouse(sink="postgres", uri=uri)
        sink = open_warehouse(warehouse)
        sink.replace_partition("predictions", "p", [predictions("p", 3)], "a")
        noise = (predictions("p", 2_000, os.urandom(200).hex(), first=2_000 * i) for i in range(50))
        with pytest.raises(WarehouseError, match="could not extend file") as caught:
            sink.replace_partition("predictions", "p", noise, "b")
        assert "\n" not in str(caught.value)
        assert sink.read("predictions").read_all().num_rows == 3
        assert sink.commit_keys("predictions") == {"p": "a"}
    finally:
        serving.__exit__(None, None, None)


def test_a_server_that_drops_the_connection_half_way_leaves_the_old_version(sink, warehouse):
    """A restart of the database during a publication would leave half of it, or a traceback."""
    sink.replace_partition("predictions", "p", [predictions("p", 3)], "a")

    def rows():
        yield predictions("p", 200_000, "lost")
        with cursor(warehouse) as killer:
            killer.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where pid <> pg_backend_pid() and datname = current_database() and query like '%robert_stage%'"
            )
            assert len(killer.fetchall()) >= 1
        yield predictions("p", 200_000, "lost", first=200_000)

    with pytest.raises(WarehouseError) as caught:
        sink.replace_partition("predictions", "p", rows(), "b")
    assert "\n" not in str(caught.value)
    assert sink.read("predictions").read_all().num_rows == 3
    assert sink.replace_partition("predictions", "p", [predictions("p", 4)], "b") is Commit.COMMITTED


@pytest.mark.parametrize(
    ("place", "committed"),
    [
        ("before=adbc_driver_manager.dbapi:Connection.commit", False),
        ("before=robert_pipeline.storage.warehouse.postgres_rows:insert_select", False),
    ],
)
def test_kill_around_the_commit(sink, warehouse, publisher, place, committed):
    """A process killed at the worst moment would leave a table that is neither old nor new."""
    sink.replace_partition("predictions", "p", [predictions("p", 3)], "a")
    assert publisher(warehouse, "die_at", place, "p", "b").ended()[0] == -signal.SIGKILL
    assert sink.read("predictions").read_all().num_rows == 3
    assert sink.replace_partition("predictions", "p", [predictions("p", 5)], "b") is Commit.COMMITTED


def test_a_view_of_that_name_is_refused(sink, warehouse):
    """Somebody's view would be taken for the table, and fail at the end of a night's work."""
    with cursor(warehouse) as opened:
        opened.execute(f"create schema {warehouse.namespace}")
        opened.execute(f"create view {warehouse.namespace}.predictions as select 1 as doc_id")
        opened.connection.commit()
    with pytest.raises(WarehouseError, match=r"column 'doc_id' of .* is integer, robert needs text required"):
        sink.check()


def test_a_server_out_of_reach_is_one_clear_error():
    """A database that is down would be found at the end of a night's work, with a traceback."""
    sink = open_warehouse(Warehouse(sink="postgres", uri="postgresql://robert@127.0.0.1:1/labels"))
    started = time.monotonic()
    with pytest.raises(WarehouseError, match="Connection refused") as caught:
        sink.check()
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 30


def test_many_threads_share_a_sink(sink):
    """A flow that publishes days from several threads would lose some of them."""
    results = []

    def publish(i):
        results.append(sink.replace_partition("predictions", f"p{i}", [predictions(f"p{i}", 2)], "a"))

    threads = [threading.Thread(target=publish, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [Commit.COMMITTED] * 6
    assert sink.read("predictions").read_all().num_rows == 12


def test_a_table_that_was_dropped_is_published_anew(sink, warehouse):
    """The ledger would outlive the table, and every night say that its empty place holds what was published."""
    for table in ("p", "q"):
        sink.replace_partition("predictions", table, [predictions(table, 2)], "a")
    with cursor(warehouse) as opened:
        opened.execute(f"DROP TABLE {warehouse.namespace}.predictions")
        opened.connection.commit()
    assert sink.commit_keys("predictions") == {}
    assert sink.replace_partition("predictions", "p", [predictions("p", 2)], "a") is Commit.COMMITTED
    assert sink.commit_keys("predictions") == {"p": "a"}
    assert sink.read("predictions").read_all().num_rows == 2


def test_a_table_made_by_hand_is_published_into(sink, warehouse):
    """`robert schemas --format sql` would make a table that passes every check and fails after the embedding."""
    with cursor(warehouse) as opened:
        opened.execute(f"CREATE SCHEMA {warehouse.namespace}")
        for statement in sql_statements(PREDICTIONS, "postgres", f"{warehouse.namespace}.predictions"):
            opened.execute(statement)
        opened.connection.commit()
    sink.check()
    assert sink.commit_keys("predictions") == {}
    assert sink.replace_partition("predictions", "p", [predictions("p", 2)], "a") is Commit.COMMITTED
    assert sink.commit_keys("predictions") == {"p": "a"}


def test_writers_may_race_whatever_the_server_s_isolation(warehouse, monkeypatch):
    """Where transactions see the database as it was when they began, the rows of both would stay."""
    monkeypatch.setenv("PGOPTIONS", r"-c default_transaction_isolation=repeatable\ read")
    assert ask(warehouse, "SELECT current_setting('default_transaction_isolation')") == [("repeatable read",)]
    open_warehouse(warehouse).replace_partition("predictions", "p", [predictions("p", 1)], "a")
    for attempt in range(5):
        partition, both, outcomes = f"q{attempt}", threading.Barrier(2), []

        def publish(partition=partition, both=both, outcomes=outcomes):
            def rows():
                both.wait()
                yield predictions(partition, 300)

            outcomes.append(open_warehouse(warehouse).replace_partition("predictions", partition, rows(), "a"))

        threads = [threading.Thread(target=publish) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == [Commit.ALREADY_COMMITTED, Commit.COMMITTED]
        assert open_warehouse(warehouse).read("predictions", partition).read_all().num_rows == 300
