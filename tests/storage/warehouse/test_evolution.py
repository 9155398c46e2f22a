"""Tables of an earlier contract version, their readers and writers, and tables that are not ours, in every sink."""

import pyarrow as pa
import pytest
from published_rows import predictions
from warehouses import each_format

from robert_pipeline.errors import WarehouseError
from robert_pipeline.storage.warehouse import Commit, open_warehouse
from schemas import CONTRACTS, PREDICTIONS, PREDICTIONS_V1
from schemas.contract import Contract, field

ADDED = ["decision_thresholds", "review_thresholds"]


@pytest.fixture
def of_version_1(monkeypatch, warehouse):
    """The sink as a release has it that knows version 1 only: a function, because the knowledge is global."""

    def call(do):
        with monkeypatch.context() as patch:
            patch.setitem(CONTRACTS, "predictions", PREDICTIONS_V1)
            return do(open_warehouse(warehouse))

    return call


def publish_v1(partition, key="a", count=2):
    rows = predictions(partition, count, contract=PREDICTIONS_V1)
    return lambda sink: sink.replace_partition("predictions", partition, [rows], key)


def test_an_old_partition_stays_readable_and_the_table_gets_its_columns(sink, of_version_1):
    """After an upgrade of this project nobody could read last year's labels, or publish any."""
    of_version_1(publish_v1("old"))
    sink.check()
    before = sink.read("predictions").read_all().sort_by("doc_id")
    assert before.schema.equals(PREDICTIONS.schema, check_metadata=True)
    assert [before[name].null_count for name in ADDED] == [2, 2]
    assert sink.dataset("predictions").to_table(columns=["doc_id", *ADDED]).num_rows == 2
    assert sink.dataset("predictions", columns=ADDED).to_table()[ADDED[0]].null_count == 2
    assert sink.replace_partition("predictions", "new", [predictions("new", 3)], "b") is Commit.COMMITTED
    old, new = (sink.read("predictions", name).read_all().sort_by("doc_id") for name in ("old", "new"))
    assert PREDICTIONS_V1.view(old).to_pylist() == predictions("old", 2, contract=PREDICTIONS_V1).to_pylist()
    assert [old[name].null_count for name in ADDED] == [2, 2]
    assert new.to_pylist() == predictions("new", 3).to_pylist()
    assert sink.commit_keys("predictions") == {"old": "a", "new": "b"}


def test_a_reader_and_a_writer_of_version_1_keep_working(sink, of_version_1):
    """Dashboards, and machines that are upgraded last, would stop the day the first machine is upgraded."""
    sink.replace_partition("predictions", "new", [predictions("new", 3)], "a")
    rows = of_version_1(lambda old: old.read("predictions").read_all().sort_by("doc_id"))
    assert rows.schema.equals(PREDICTIONS_V1.schema, check_metadata=True)
    assert rows.to_pylist() == predictions("new", 3, contract=PREDICTIONS_V1).to_pylist()
    assert of_version_1(publish_v1("old")) is Commit.COMMITTED
    assert of_version_1(lambda old: old.check()) is None
    by_partition = {name: sink.read("predictions", name).read_all().sort_by("doc_id") for name in ("old", "new")}
    assert [by_partition["old"][name].null_count for name in ADDED] == [2, 2]
    assert by_partition["new"].to_pylist() == predictions("new", 3).to_pylist()


def test_eight_writers_give_an_old_table_its_columns_once(sink, warehouse, of_version_1, publisher):
    """The first publications after an upgrade, all at the same moment, would fail or leave rows out."""
    of_version_1(publish_v1("old"))
    writers = [publisher(warehouse, "replace", f"day={i}", "key", 5, "head-a") for i in range(8)]
    assert [writer.finished() for writer in writers] == ["committed"] * 8
    rows = sink.read("predictions").read_all().sort_by("doc_id")
    assert rows.num_rows == 42
    assert rows[ADDED[0]].null_count == 2


def foreign(**changes):
    """A contract of that name that is not ours: fields changed, taken out (None), or added."""
    fields = [changes.pop(f.name, f) for f in PREDICTIONS_V1.fields]
    return Contract(
        name="predictions",
        version=1,
        description="of somebody else",
        fields=tuple(f for f in (*fields, *changes.values()) if f is not None),
    )


FOREIGN = {
    "no column": (foreign(probability=None), "no column 'probability'"),
    "other type": (foreign(tokens_seen=field("tokens_seen", pa.string(), "x")), "column 'tokens_seen' of .*, robert"),
    "nullable": (foreign(doc_id=field("doc_id", pa.string(), "x", nullable=True)), "column 'doc_id' of .*, robert"),
    "more": (foreign(cost=field("cost", pa.int64(), "x")), "required column 'cost'"),
}


@each_format
@pytest.mark.parametrize("case", FOREIGN)
def test_a_table_someone_else_made_is_refused_before_any_work(sink, warehouse, monkeypatch, case):
    """A night's work would end in an error at its last step, or change somebody else's table."""
    contract, message = FOREIGN[case]
    with monkeypatch.context() as patch:
        patch.setitem(CONTRACTS, "predictions", contract)
        open_warehouse(warehouse).replace_partition("predictions", "theirs", [], "theirs")

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
    with monkeypatch.context() as patch:
        patch.setitem(CONTRACTS, "predictions", contract)
        assert open_warehouse(warehouse).commit_keys("predictions") == {"theirs": "theirs"}


@each_format
def test_an_optional_column_of_someone_else_is_left_alone(sink, warehouse, monkeypatch):
    """A column that another team added to the table would stop every publication."""
    with monkeypatch.context() as patch:
        more = foreign(cost=field("cost", pa.int64(), "What it costs us.", nullable=True))
        patch.setitem(CONTRACTS, "predictions", more)
        open_warehouse(warehouse).replace_partition("predictions", "theirs", [], "theirs")
    sink.replace_partition("predictions", "p", [predictions("p", 2)], "a")
    assert sink.read("predictions").read_all().sort_by("doc_id").to_pylist() == predictions("p", 2).to_pylist()
