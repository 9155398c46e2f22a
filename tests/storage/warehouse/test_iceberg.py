"""What only the Iceberg sink has to prove: its schema, its catalog, its snapshots and its files."""

import os
import shutil
import signal
import sqlite3
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from published_rows import predictions
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import LongType, NestedField, StringType

from robert_pipeline.config import Warehouse
from robert_pipeline.errors import WarehouseError
from robert_pipeline.storage.warehouse import Commit, open_warehouse
from robert_pipeline.storage.warehouse.iceberg import IcebergSink
from robert_pipeline.storage.warehouse.iceberg_files import write_files
from robert_pipeline.storage.warehouse.iceberg_schema import iceberg_schema, partition_spec
from schemas import CONTRACTS, PREDICTIONS
from schemas.contract import DESCRIPTION_KEY

SINKS = ["iceberg"]


def catalog_of(folder):
    return SqlCatalog("robert", uri=f"sqlite:///{folder}/catalog.db", warehouse=str(folder))


def load(folder, table="predictions"):
    return catalog_of(folder).load_table(("robert", table))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "warehouse"


@pytest.fixture
def sink(folder):
    return IcebergSink(Warehouse(uri=str(folder)))


@pytest.mark.parametrize("table", ["predictions", "rejects"])
def test_the_table_is_its_contract(sink, folder, table):
    """Analysts would see columns without documentation, or nulls that the contract rules out."""
    sink.replace_partition(table, "p", [], "a")
    made = load(folder, table)
    for field in CONTRACTS[table].fields:
        column = made.schema().find_field(field.name)
        assert column.doc == field.metadata[DESCRIPTION_KEY].decode()
        assert column.required is not field.nullable
    assert [field.name for field in made.schema().fields] == CONTRACTS[table].schema.names
    assert str(made.spec().fields[0].transform) == "identity"
    assert made.properties["comment"] == CONTRACTS[table].description


def test_other_iceberg_readers_see_the_same_rows(sink, folder):
    """The table would be readable by this project only."""
    batch = predictions("p", 3)
    sink.replace_partition("predictions", "p", [batch], "a")
    seen = load(folder).scan(row_filter="probability > 0.5 and doc_id != 'doc-1'").to_arrow()
    assert seen.select(PREDICTIONS.schema.names).to_pylist() == [batch.to_pylist()[0], batch.to_pylist()[2]]


def test_one_commit_is_one_snapshot(sink, folder):
    """Time travel could land between the removal of the old rows and the arrival of the new ones."""
    for key, count in (("a", 3), ("b", 4), ("c", 0)):
        sink.replace_partition("predictions", "p", [predictions("p", count)], key)
    snapshots = load(folder).snapshots()
    assert [snapshot.summary["robert.commit-key"] for snapshot in snapshots] == ["a", "b", "c"]
    assert [load(folder).scan(snapshot_id=s.snapshot_id).count() for s in snapshots] == [3, 4, 0]


def test_writers_that_lost_the_race_leave_no_files(sink, folder, publisher):
    """Every race would leave data files that nobody ever removes."""
    warehouse = Warehouse(uri=str(folder))
    sink.replace_partition("predictions", "other", [predictions("other", 1)], "a")
    writers = [publisher(warehouse, "replace", "p", "one-key", 50, "h") for _ in range(4)]
    assert sorted(writer.finished() for writer in writers) == ["already_committed"] * 3 + ["committed"]
    assert len(list(folder.rglob("*.parquet"))) == 2


@pytest.mark.parametrize(
    ("place", "committed"),
    [
        ("before=pyiceberg.catalog.sql:SqlCatalog.commit_table", False),
        ("before=pyiceberg.catalog.sql:SqlCatalog._write_metadata", False),
        ("after=pyiceberg.catalog.sql:SqlCatalog._write_metadata", False),
        ("after=pyiceberg.catalog.sql:SqlCatalog.commit_table", True),
    ],
)
def test_kill_around_the_commit(sink, folder, publisher, place, committed):
    """A process killed at the worst moment would leave a table that is neither old nor new."""
    sink.replace_partition("predictions", "p", [predictions("p", 3)], "a")
    writer = publisher(Warehouse(uri=str(folder)), "die_at", place, "p", "b")
    assert writer.ended()[0] == -signal.SIGKILL
    assert sink.read("predictions").read_all().num_rows == (5 if committed else 3)
    rerun = sink.replace_partition("predictions", "p", [predictions("p", 5, "killed")], "b")
    assert rerun is (Commit.ALREADY_COMMITTED if committed else Commit.COMMITTED)
    assert set(sink.read("predictions").read_all()["head_fingerprint"].to_pylist()) == {"killed"}
    assert sink.read("predictions").read_all().num_rows == 5


@pytest.mark.parametrize("first", ["before", "after"])
def test_kill_while_the_table_is_made(folder, publisher, first):
    """A first run killed at birth would leave a warehouse in which no table can be made."""
    place = f"{first}=pyiceberg.catalog.sql:SqlCatalog._write_metadata"
    writer = publisher(Warehouse(uri=str(folder)), "die_at", place, "p", "b")
    assert writer.ended()[0] == -signal.SIGKILL
    sink = open_warehouse(Warehouse(uri=str(folder)))
    assert sink.commit_keys("predictions") == {}
    assert sink.replace_partition("predictions", "p", [predictions("p", 5)], "b") is Commit.COMMITTED


def foreign(folder, schema, spec):
    folder.mkdir()
    catalog = catalog_of(folder)
    catalog.create_namespace("robert")
    catalog.create_table(("robert", "predictions"), schema, partition_spec=spec)


def ours(**changes):
    fields = [changes.pop(field.name, field) for field in iceberg_schema(PREDICTIONS).fields]
    return Schema(*[field for field in fields if field is not None], *changes.values())


NO_SPEC = PartitionSpec()
OUR_SPEC = partition_spec(iceberg_schema(PREDICTIONS))
FOREIGN = {
    "no column": (ours(probability=None), OUR_SPEC, "no column 'probability'"),
    "other type": (
        ours(probability=NestedField(8, "probability", StringType(), required=True)),
        OUR_SPEC,
        "column 'probability' .* is string required, robert needs double",
    ),
    "nullable": (ours(doc_id=NestedField(1, "doc_id", StringType())), OUR_SPEC, "column 'doc_id' .* is string, "),
    "more": (ours(extra=NestedField(99, "cost", LongType(), required=True)), OUR_SPEC, "required column 'cost'"),
    "not partitioned": (ours(), NO_SPEC, "not partitioned by identity of column 'partition'"),
    "other partitioning": (
        ours(),
        PartitionSpec(PartitionField(source_id=1, field_id=1000, transform=IdentityTransform(), name="doc_id")),
        "not partitioned by identity of column 'partition'",
    ),
    "another kind": (
        Schema(NestedField(1, "id", LongType()), NestedField(2, "partition", StringType())),
        PartitionSpec(PartitionField(source_id=2, field_id=1000, transform=IdentityTransform(), name="partition")),
        "no column 'doc_id'",
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_table_someone_else_made_is_refused_before_any_work(sink, folder, case):
    """A night's work would end in an error at its last step, or change somebody else's table."""
    schema, spec, message = FOREIGN[case]
    foreign(folder, schema, spec)

    def untouched():
        raise AssertionError("rows were read")
        yield

    for refuse in (
        sink.check,
        lambda: sink.commit_keys("predictions"),
        lambda: sink.read("predictions"),
        lambda: sink.replace_partition("predictions", "p", untouched(), "a"),
    ):
        with pytest.raises(WarehouseError, match=message) as caught:
            refuse()
        assert "\n" not in str(caught.value)
    assert load(folder).snapshots() == []


def test_an_optional_column_of_someone_else_is_left_alone(sink, folder):
    """A column that another team added to the table would stop every publication."""
    foreign(folder, ours(extra=NestedField(99, "cost", LongType())), OUR_SPEC)
    sink.replace_partition("predictions", "p", [predictions("p", 2)], "a")
    assert sink.read("predictions").schema.equals(PREDICTIONS.schema)
    assert load(folder).scan().to_arrow()["cost"].to_pylist() == [None, None]


def test_a_catalog_locked_for_a_moment_is_waited_for(sink, folder):
    """Another program that looks at the catalog would make a publication fail."""
    sink.replace_partition("predictions", "p", [predictions("p", 1)], "a")
    lock = sqlite3.connect(folder / "catalog.db", check_same_thread=False, isolation_level=None)
    lock.execute("begin exclusive")
    threading.Timer(2.5, lambda: lock.execute("commit")).start()
    assert sink.replace_partition("predictions", "p", [predictions("p", 2)], "b") is Commit.COMMITTED
    assert sink.read("predictions").read_all().num_rows == 2
    lock.close()


def test_a_catalog_locked_for_ever_is_one_clear_error(folder):
    """A forgotten lock would hang the run, or end it with a traceback."""
    IcebergSink(Warehouse(uri=str(folder))).replace_partition("predictions", "p", [predictions("p", 1)], "a")
    lock = sqlite3.connect(folder / "catalog.db", isolation_level=None)
    lock.execute("begin exclusive")
    impatient = IcebergSink(Warehouse(uri=str(folder)), patience_seconds=0.1)
    for call in (
        lambda: impatient.commit_keys("predictions"),
        lambda: impatient.replace_partition("predictions", "p", [], "b"),
    ):
        with pytest.raises(WarehouseError, match=r"catalog\.db cannot be used \(database is locked\)") as caught:
            call()
        assert "\n" not in str(caught.value)
    lock.execute("commit")
    lock.close()
    assert impatient.commit_keys("predictions") == {"p": "a"}


def test_a_catalog_that_goes_away_half_way_is_one_clear_error(sink, folder):
    """A catalog lost between start and commit would be a traceback, or half a commit."""
    sink.replace_partition("predictions", "p", [predictions("p", 1)], "a")
    shutil.copy(folder / "catalog.db", folder / "kept")

    def rows():
        yield predictions("p", 2)
        (folder / "catalog.db").write_bytes(b"not a database" * 1000)

    with pytest.raises(WarehouseError, match=r"catalog\.db cannot be used") as caught:
        sink.replace_partition("predictions", "p", rows(), "b")
    assert "\n" not in str(caught.value)
    (folder / "kept").replace(folder / "catalog.db")
    again = open_warehouse(Warehouse(uri=str(folder)))
    assert again.read("predictions").read_all().num_rows == 1
    assert again.replace_partition("predictions", "p", [predictions("p", 2)], "b") is Commit.COMMITTED


@pytest.mark.parametrize("what", ["file", "garbage", "metadata gone"])
def test_a_place_that_is_no_warehouse_is_one_clear_error(tmp_path, what):
    """A mistyped or damaged warehouse would show a traceback."""
    folder = tmp_path / "warehouse"
    if what == "file":
        folder.write_text("hello")
    else:
        folder.mkdir()
        (folder / "catalog.db").write_bytes(b"not a database" * 1000)
    if what == "metadata gone":
        (folder / "catalog.db").unlink()
        IcebergSink(Warehouse(uri=str(folder))).replace_partition("predictions", "p", [], "a")
        shutil.rmtree(folder / "robert" / "predictions" / "metadata")
    sink = IcebergSink(Warehouse(uri=str(folder)), patience_seconds=0.1)
    with pytest.raises(WarehouseError) as caught:
        sink.replace_partition("predictions", "p", [predictions("p", 1)], "a")
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_flipped_bit_is_noticed(sink, folder):
    """A damaged disk would give other probabilities without a word."""
    sink.replace_partition("predictions", "p", [predictions("p", 2_000)], "a")
    (path,) = folder.rglob("*.parquet")
    column = pq.read_metadata(path).row_group(0).column(0)
    content = bytearray(path.read_bytes())
    content[column.dictionary_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(WarehouseError, match="CRC") as caught:
        sink.read("predictions").read_all()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["plain", "with space", "100%", "%41", "a#b?c;d", "ünï😀", "it's"])
@pytest.mark.parametrize("form", ["absolute", "relative", "uri"])
def test_any_folder_can_be_a_warehouse(tmp_path, monkeypatch, name, form):
    """A folder with a space or a percent sign would give two warehouses, or none."""
    monkeypatch.chdir(tmp_path)
    uri = {"absolute": str(tmp_path / name), "relative": f"./{name}", "uri": (tmp_path / name).as_uri()}[form]
    sink = open_warehouse(Warehouse(uri=uri))
    sink.replace_partition("predictions", "p", [predictions("p", 2)], "a")
    monkeypatch.chdir("/")
    again = open_warehouse(Warehouse(uri=str(tmp_path / name)))
    assert again.read("predictions").read_all().num_rows == 2
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("uri", ["", "  ", "file://elsewhere/folder", "s3://bucket/warehouse"])
def test_addresses_that_cannot_be_served_are_refused(uri):
    """An address that means something else would make a folder of that name in the working directory."""
    with pytest.raises(WarehouseError, match=r"warehouse\.uri"):
        IcebergSink(Warehouse(uri=uri))


def test_big_partitions_become_several_files(sink, folder):
    """A partition of 100 GB would be one file, which no engine can read in parallel."""
    sink.replace_partition("predictions", "p", [], "a")
    table = load(folder)
    noise = [predictions("p", 3_000, os.urandom(30).hex(), first=3_000 * i) for i in range(60)]
    files = write_files(table, PREDICTIONS, "p", iter(noise), file_bytes=40_000)
    assert len(files) > 1
    assert sum(file.record_count for file in files) == 180_000
    assert sum(pq.read_metadata(Path(file.file_path)).num_rows for file in files) == 180_000


def test_a_namespace_of_several_parts_works(folder):
    """Two projects could not share a catalog."""
    for namespace in ("team.news", "team.court"):
        sink = open_warehouse(Warehouse(uri=str(folder), namespace=namespace))
        sink.replace_partition("predictions", "p", [predictions("p", 1, namespace)], "a")
        assert set(sink.read("predictions").read_all()["head_fingerprint"].to_pylist()) == {namespace}


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
    assert isinstance(sink.read("predictions"), pa.RecordBatchReader)
