"""Maintenance: what is gathered, forgotten and removed, and what never is."""

import functools
import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from published_rows import predictions
from pyiceberg.catalog.sql import SqlCatalog
from warehouses import configured, each_format

from robert_pipeline.config import Warehouse
from robert_pipeline.errors import ConfigError, WarehouseError
from robert_pipeline.storage.warehouse import data_files, iceberg, iceberg_files, open_warehouse, parquet
from robert_pipeline.storage.warehouse.sink import Upkeep

ALL = Upkeep(keep_days=0, stray_hours=0)
FILES = ["iceberg", "delta", "parquet"]
in_files = pytest.mark.parametrize("warehouse", FILES, indirect=True)


def rows(sink, **options):
    found = sink.read("predictions", **options).read_all().to_pylist()
    return sorted((row["partition"], row["doc_id"], row["head_fingerprint"]) for row in found)


def expected(partition, count, head="head-a"):
    return sorted((partition, f"doc-{i}", head) for i in range(count))


def files(warehouse, pattern="*"):
    return sorted(path for path in Path(warehouse.uri).rglob(pattern) if path.is_file())


def scatter(monkeypatch):
    """Let every batch become a file of its own, as many small publications by another engine would."""
    for module in (data_files, iceberg_files):
        monkeypatch.setattr(module, "row_groups", functools.partial(data_files.row_groups, group_rows=1))
    tiny = functools.partial(data_files.write_files, file_bytes=1)
    monkeypatch.setattr(parquet, "write_files", tiny)
    monkeypatch.setattr("robert_pipeline.storage.warehouse.delta.write_files", tiny)
    monkeypatch.setattr(iceberg, "write_files", functools.partial(iceberg_files.write_files, file_bytes=1))


@in_files
def test_small_files_become_one_and_rows_stay(sink, warehouse, monkeypatch):
    """A table of a hundred thousand small files would take minutes to open, or lose rows when it is mended."""
    with monkeypatch.context() as patch:
        scatter(patch)
        batches = [predictions("p", 3, first=3 * i) for i in range(5)]
        sink.replace_partition("predictions", "p", batches, "a")
    sink.replace_partition("predictions", "q", [predictions("q", 2)], "a")
    before = len(sink.dataset("predictions").files)
    assert before == 6
    planned = sink.maintain("predictions", Upkeep(), dry_run=True)
    assert (planned.compacted_partitions, planned.compacted_files) == (1, 5)
    assert len(sink.dataset("predictions").files) == before
    done = sink.maintain("predictions", Upkeep(), dry_run=False)
    assert (done.compacted_partitions, done.compacted_files) == (1, 5)
    assert len(sink.dataset("predictions").files) == 2
    assert rows(sink) == expected("p", 15) + expected("q", 2)
    assert sink.commit_keys("predictions") == {"p": "a", "q": "a"}
    assert sink.maintain("predictions", Upkeep(), dry_run=False).compacted_partitions == 0


@in_files
def test_old_versions_and_their_files_go(sink, warehouse):
    """A table that is replaced every night would grow for ever."""
    for key in ("a", "b", "c"):
        sink.replace_partition("predictions", "p", [predictions("p", 4, f"head-{key}")], key)
    sink.replace_partition("predictions", "q", [predictions("q", 2)], "a")
    before = files(warehouse)
    planned = sink.maintain("predictions", ALL, dry_run=True)
    assert files(warehouse) == before
    done = sink.maintain("predictions", ALL, dry_run=False)
    assert done == planned
    assert done.deleted_files >= 2
    assert len(files(warehouse, "*.parquet")) == 2
    assert done.deleted_bytes >= sum(2 * path.stat().st_size for path in files(warehouse, "*.parquet")) / 2
    assert rows(sink) == expected("p", 4, "head-c") + expected("q", 2)
    assert sink.commit_keys("predictions") == {"p": "c", "q": "a"}
    assert sink.maintain("predictions", ALL, dry_run=False).deleted_files == 0
    sink.replace_partition("predictions", "p", [predictions("p", 1, "head-d")], "d")
    assert rows(sink) == expected("p", 1, "head-d") + expected("q", 2)


@in_files
def test_versions_that_are_kept_stay_readable(sink, warehouse):
    """A reader that goes back to yesterday would find the files of yesterday gone."""
    for key in ("a", "b"):
        sink.replace_partition("predictions", "p", [predictions("p", 4, f"head-{key}")], key)
    between = datetime.now(UTC)
    time.sleep(0.01)
    sink.replace_partition("predictions", "p", [predictions("p", 4, "head-c")], "c")
    before = files(warehouse, "*.parquet")
    assert sink.maintain("predictions", Upkeep(keep_days=1, stray_hours=0), dry_run=False).expired_versions == 0
    assert files(warehouse, "*.parquet") == before
    versions = sink.history("predictions")
    made = [version for version in versions if version.partition == "p"]
    assert [version.commit_key for version in made] == ["a", "b", "c"]
    assert [rows(sink, as_of=version.id) for version in made] == [
        expected("p", 4, f"head-{key}") for key in ("a", "b", "c")
    ]
    assert rows(sink, as_of=between) == expected("p", 4, "head-b")
    assert rows(sink, as_of=datetime.now(UTC) + timedelta(days=1)) == expected("p", 4, "head-c")
    sink.maintain("predictions", ALL, dry_run=False)
    for gone in (made[0].id, between, "no-such-version", datetime(2001, 1, 1, tzinfo=UTC)):
        with pytest.raises(WarehouseError) as caught:
            rows(sink, as_of=gone)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("warehouse", ["postgres", "duckdb"], indirect=True)
def test_sinks_without_history_say_so(sink):
    """Someone would take today's labels for those of last week."""
    sink.replace_partition("predictions", "p", [predictions("p", 1)], "a")
    for ask in (
        lambda: sink.read("predictions", as_of="1"),
        lambda: sink.dataset("predictions", as_of=datetime.now(UTC)),
        lambda: sink.history("predictions"),
    ):
        with pytest.raises(WarehouseError, match="keeps no earlier versions"):
            ask()


@each_format
def test_maintaining_changes_no_row(sink):
    """What keeps a table in order would damage it, or fail where nothing was published yet."""
    assert sink.maintain("predictions", ALL, dry_run=False).deleted_files == 0
    for key in ("a", "b"):
        sink.replace_partition("predictions", "p", [predictions("p", 3, f"head-{key}")], key)
    for dry_run in (True, False):
        assert sink.maintain("predictions", ALL, dry_run=dry_run).table == "predictions"
        assert rows(sink) == expected("p", 3, "head-b")
    assert sink.commit_keys("predictions") == {"p": "b"}


@in_files
def test_strays_go_once_they_are_old(sink, warehouse, publisher):
    """What killed writers left would stay for ever, or what a writer has just written would be taken from it."""
    sink.replace_partition("predictions", "p", [predictions("p", 3)], "a")
    writer = publisher(warehouse, "hang", "p", "b")
    assert writer.line() == "writing"
    writer.kill()
    before = files(warehouse)
    assert sink.maintain("predictions", Upkeep(keep_days=0, stray_hours=1), dry_run=False).deleted_files == 0
    assert files(warehouse) == before
    sink.maintain("predictions", ALL, dry_run=False)
    left = {path for path in before if path not in files(warehouse)}
    assert left
    assert rows(sink) == expected("p", 3)
    assert len(files(warehouse, "*.parquet*")) == 1


def test_files_of_somebody_else_are_never_removed(tmp_path):
    """A note that a person put beside the table would be gone."""
    for kind in FILES:
        warehouse = Warehouse(uri=str(tmp_path / kind), sink=kind)
        sink = open_warehouse(warehouse)
        sink.replace_partition("predictions", "p", [predictions("p", 3)], "a")
        notes = [path.parent / "README.txt" for path in files(warehouse) if path.suffix in (".parquet", ".json")]
        for note in notes:
            note.write_text("mine")
            os.utime(note, (0, 0))
        sink.maintain("predictions", ALL, dry_run=False)
        assert all(note.read_text() == "mine" for note in notes)


@in_files
def test_maintaining_beside_writers_loses_nothing(sink, warehouse, publisher):
    """A nightly clean-up would take files that a publication of the same moment has just named."""
    sink.replace_partition("predictions", "p", [predictions("p", 20)], "first")
    cleaner = publisher(warehouse, "maintain", 6)
    writers = [publisher(warehouse, "churn", f"day={i}", 5, 20) for i in range(3)]
    assert [process.finished() for process in (cleaner, *writers)] == ["done"] * 4
    assert rows(sink) == sorted(
        row
        for name, head in [("p", "head-a"), *((f"day={i}", "head-4") for i in range(3))]
        for row in expected(name, 20, head)
    )
    assert sink.commit_keys("predictions") == {"p": "first", **{f"day={i}": "key-4" for i in range(3)}}
    sink.maintain("predictions", ALL, dry_run=False)
    assert len(files(warehouse, "*.parquet")) == 4


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("iceberg", "after=robert_pipeline.storage.warehouse.iceberg_upkeep:_expire"),
        ("iceberg", "before=robert_pipeline.storage.warehouse.iceberg_upkeep:remove_files"),
        ("parquet", "after=robert_pipeline.storage.warehouse.parquet:expire_manifest"),
        ("parquet", "before=pathlib:Path.unlink"),
    ],
)
def test_a_clean_up_that_is_killed_is_finished_by_the_next(request, tmp_path, publisher, kind, place):
    """Killed half way, it would leave a table that names files that are gone, or files that nothing ever removes."""
    warehouse = configured(kind, request, tmp_path)
    sink = open_warehouse(warehouse)
    for key in ("a", "b", "c"):
        sink.replace_partition("predictions", "p", [predictions("p", 4, f"head-{key}")], key)
    assert publisher(warehouse, "die_maintaining", place).ended()[0] == -signal.SIGKILL
    assert rows(sink) == expected("p", 4, "head-c")
    sink.maintain("predictions", ALL, dry_run=False)
    assert rows(sink) == expected("p", 4, "head-c")
    assert len(files(warehouse, "*.parquet")) == 1


def test_manifests_of_many_commits_are_gathered(tmp_path):
    """An Iceberg table with a partition a day would have a file to open for every day before a query begins."""
    sink = open_warehouse(Warehouse(uri=str(tmp_path / "w")))
    for day in range(6):
        sink.replace_partition("predictions", f"day={day}", [predictions(f"day={day}", 1)], "a")
    catalog = SqlCatalog("robert", uri=f"sqlite:///{tmp_path}/w/catalog.db")
    with catalog.load_table(("robert", "predictions")).transaction() as transaction:
        transaction.set_properties({"commit.manifest.min-count-to-merge": "5"})
    sink.maintain("predictions", ALL, dry_run=False)
    sink.maintain("predictions", ALL, dry_run=False)  # what the first one replaced goes with the second
    table = catalog.load_table(("robert", "predictions"))
    assert len(table.current_snapshot().manifests(table.io)) == 1
    assert len(list((tmp_path / "w" / "robert" / "predictions" / "metadata").glob("*-m*.avro"))) == 1
    assert len(rows(sink)) == 6


@pytest.mark.parametrize("field", ["keep_days", "stray_hours", "small_file_bytes"])
def test_impossible_limits_are_named(field):
    """A negative number of days would remove what is still needed."""
    with pytest.raises(ConfigError, match=f"{field} is -1"):
        Upkeep(**{field: -1})
