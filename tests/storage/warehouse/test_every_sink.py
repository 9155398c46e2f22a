"""What every sink promises; each test runs once per sink."""

import hashlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published_rows import prediction_row, predictions, rejects
from warehouses import SINKS, each_format

from robert_pipeline.errors import RobertError, StoreError, WarehouseError
from robert_pipeline.storage.warehouse import TABLES, Commit, open_warehouse
from schemas import PREDICTIONS, REJECTS

# PostgreSQL's text has no NUL; what becomes of one has its own test.
texts = st.characters(exclude_categories=["Cs"], exclude_characters="\0")

HARD_NAMES = [
    "a/b/c",
    "../../../outside",
    "a%2Fb",
    'it\'s "quoted"; drop table predictions; --',
    "two\nlines\r\n\tand a tab",
    "x" * 500,
    "day=2005-03-01",
    "..",
    ".",
    "/etc",
    "a%252Fb",
    "😀 – ünïcode",
    "null",
    "__HIVE_DEFAULT_PARTITION__",
    " leading and trailing ",
    "back\\slash",
    "{braces} $dollar `tick` *?[a]",
]


def published(sink, partition=None):
    rows = sink.read("predictions", partition).read_all().to_pylist()
    return sorted((row["partition"], row["doc_id"], row["head_fingerprint"]) for row in rows)


def expected(partition, count, head="head-a"):
    return sorted((partition, f"doc-{i}", head) for i in range(count))


def test_first_commit_creates_the_table_and_its_ledger(sink):
    """A first run could not publish, or would publish without remembering it."""
    assert sink.commit_keys("predictions") == {}
    assert sink.replace_partition("predictions", "day=1", [predictions("day=1", 3)], "key-1") is Commit.COMMITTED
    assert published(sink) == expected("day=1", 3)
    assert sink.commit_keys("predictions") == {"day=1": "key-1"}
    assert sink.commit_keys("rejects") == {}


def test_same_key_twice_commits_once_and_reads_no_rows(sink):
    """A re-run would publish rows a second time, or score everything again for nothing."""
    sink.replace_partition("predictions", "day=1", [predictions("day=1", 3)], "key-1")

    def untouched():
        raise AssertionError("rows were read")
        yield

    assert sink.replace_partition("predictions", "day=1", untouched(), "key-1") is Commit.ALREADY_COMMITTED
    assert published(sink) == expected("day=1", 3)


def test_new_key_replaces_the_partition_and_no_other(sink):
    """A new head would leave rows of the old one behind, or take other days with it."""
    for day in ("day=1", "day=2", "day=10"):
        sink.replace_partition("predictions", day, [predictions(day, 4)], "key-1")
    assert (
        sink.replace_partition("predictions", "day=1", [predictions("day=1", 2, "head-b")], "key-2") is Commit.COMMITTED
    )
    assert published(sink) == sorted(expected("day=1", 2, "head-b") + expected("day=2", 4) + expected("day=10", 4))
    assert sink.commit_keys("predictions") == {"day=1": "key-2", "day=2": "key-1", "day=10": "key-1"}


def test_going_back_to_an_earlier_key_commits_again(sink):
    """A rollback to the head before would be taken for a repetition and change nothing."""
    for key, head in (("a", "head-a"), ("b", "head-b"), ("a", "head-a")):
        assert sink.replace_partition("predictions", "p", [predictions("p", 2, head)], key) is Commit.COMMITTED
    assert published(sink) == expected("p", 2)


@each_format
def test_an_empty_partition_is_published_too(sink):
    """A day of which nothing can be labelled would keep yesterday's rows, or be published again for ever."""
    sink.replace_partition("predictions", "p", [predictions("p", 2)], "a")
    assert sink.replace_partition("predictions", "p", iter([predictions("p", 0)]), "b") is Commit.COMMITTED
    assert published(sink) == []
    assert sink.replace_partition("predictions", "p", iter([]), "b") is Commit.ALREADY_COMMITTED
    assert sink.replace_partition("predictions", "never", [], "b") is Commit.COMMITTED
    assert sink.commit_keys("predictions") == {"p": "b", "never": "b"}


@each_format
def test_both_tables_are_kept_apart(sink):
    """Rejects would appear among the labels."""
    sink.replace_partition("predictions", "p", [predictions("p", 2)], "a")
    sink.replace_partition("rejects", "p", [rejects("p", 3)], "a")
    assert sink.read("rejects").read_all().num_rows == 3
    assert sink.read("predictions").read_all().num_rows == 2


def test_another_process_sees_what_was_published(sink, warehouse):
    """Published rows would be visible to nobody but their writer."""
    sink.replace_partition("predictions", "p", [predictions("p", 2)], "a")
    other = open_warehouse(warehouse)
    assert published(other) == expected("p", 2)
    assert other.commit_keys("predictions") == {"p": "a"}


@each_format
def test_any_partition_name_is_stored_and_found(sink, tmp_path):
    """A partition with a slash, a quote or a line break would land in another place, or break the filter."""
    for partition in HARD_NAMES:
        sink.replace_partition("predictions", partition, [predictions(partition, 2)], "a")
    for partition in HARD_NAMES[:6]:
        sink.replace_partition("predictions", partition, [predictions(partition, 3, "head-b")], "b'\"%\n/..")
    for partition in HARD_NAMES[:6]:
        assert published(sink, partition) == expected(partition, 3, "head-b"), partition
    for partition in HARD_NAMES[6:]:
        assert published(sink, partition) == expected(partition, 2), partition
    assert sink.commit_keys("predictions") == {
        partition: "b'\"%\n/.." if partition in HARD_NAMES[:6] else "a" for partition in HARD_NAMES
    }
    assert {path.name for path in tmp_path.iterdir()} <= {"warehouse"}


@each_format
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    partition=st.text(texts, min_size=1, max_size=40),
    key=st.text(texts, min_size=1, max_size=40),
)
def test_any_name_and_key_round_trip(sink, partition, key):
    """Some character that nobody thought of would lose a partition or its ledger entry."""
    sink.replace_partition("predictions", partition, [predictions(partition, 1)], key)
    assert published(sink, partition) == expected(partition, 1)
    assert sink.commit_keys("predictions")[partition] == key


@each_format
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "label": st.none() | st.text(texts, max_size=20),
                "labels": st.lists(st.text(texts, max_size=5), max_size=3),
                "probability": st.floats(0, 1),
                "probabilities": st.dictionaries(st.text(texts, max_size=5), st.floats(0, 1), max_size=4).map(
                    lambda d: list(d.items())
                ),
                "tokens_seen": st.integers(0, 2**62),
                "passage_contribution": st.floats(allow_nan=False),
                "needs_review": st.booleans(),
                "scored_at": st.datetimes().map(lambda t: t.replace(tzinfo=__import__("datetime").UTC)),
            }
        ),
        min_size=1,
        max_size=5,
    )
)
def test_rows_come_back_as_they_went_in(sink, rows):
    """A map, a list, a null or a time would be changed on its way through the warehouse."""
    full = [prediction_row("p", f"doc-{i}", **row) for i, row in enumerate(rows)]
    batch = pa.RecordBatch.from_pylist(full, schema=PREDICTIONS.schema)
    key = hashlib.sha256(repr(rows).encode()).hexdigest()
    sink.replace_partition("predictions", "p", [batch], key)
    back = sink.read("predictions", "p").read_all()
    assert back.schema.equals(PREDICTIONS.schema, check_metadata=True)
    assert back.sort_by("doc_id").to_pylist() == pa.Table.from_batches([batch]).sort_by("doc_id").to_pylist()


@each_format
@pytest.mark.parametrize(
    "value",
    [
        "select",
        "\"; drop table x; --'",
        "line\nbreak\ttab",
        "😀" * 50,
        "=cmd|' /C calc'!A0",
        "z" * 200_000,
        "",
    ],
    ids=["keyword", "quotes", "newline", "emoji", "formula", "200kB", "empty"],
)
def test_hard_labels_and_texts_are_stored_as_they_are(sink, value):
    """A label that looks like SQL, or one of 200 kB, would stop a night's publication."""
    batch = predictions("p", 2, label=value, labels=[value], candidate_label=value, probabilities=[(value, 1.0)])
    sink.replace_partition("predictions", "p", [batch], "a")
    assert sink.read("predictions").read_all().to_pylist() == batch.to_pylist()


@each_format
@pytest.mark.parametrize("place", ["label", "labels", "probabilities"])
def test_a_nul_character_is_stored_or_refused_by_name(sink, warehouse, place):
    """A text cut at its NUL, or a traceback of the database, would be what an analyst finds."""
    changes = {"label": "a\0b", "labels": ["a\0b"], "probabilities": [("a\0b", 1.0)]}
    batch = predictions("p", 2, **{place: changes[place]})
    sink.replace_partition("predictions", "p", [predictions("p", 1)], "a")
    if warehouse.sink == "postgres":
        with pytest.raises(WarehouseError, match=f"field '{place}' holds a NUL character"):
            sink.replace_partition("predictions", "p", [batch], "b")
        assert published(sink) == expected("p", 1)
    else:
        sink.replace_partition("predictions", "p", [batch], "b")
        assert sink.read("predictions").read_all().to_pylist() == batch.to_pylist()


@each_format
def test_rows_are_streamed(sink):
    """Publishing a big partition would need the whole of it in memory."""
    held = []
    filler = "".join(chr(33 + (i * 7919) % 90) for i in range(4_000))

    def rows():
        for i in range(110):
            held.append(pa.total_allocated_bytes())
            yield predictions("p", 250, first=250 * i, run_id=f"{i}{filler}")

    before = pa.total_allocated_bytes()
    sink.replace_partition("predictions", "p", rows(), "a")
    total = 110 * 250 * 4_000
    assert max(held) - before < total * 0.6
    assert sum(batch.num_rows for batch in sink.read("predictions")) == 27_500


def test_an_error_of_the_rows_leaves_the_old_version_and_comes_out_unchanged(sink):
    """A damaged prediction shard would publish half a partition, or be blamed on the warehouse."""
    sink.replace_partition("predictions", "p", [predictions("p", 2)], "a")

    def breaking():
        yield predictions("p", 5, "head-b")
        raise StoreError("shard 7 is damaged", fix="Score it again")

    with pytest.raises(StoreError, match="shard 7"):
        sink.replace_partition("predictions", "p", breaking(), "b")
    assert published(sink) == expected("p", 2)
    assert sink.commit_keys("predictions") == {"p": "a"}
    assert sink.replace_partition("predictions", "p", [predictions("p", 3, "head-b")], "b") is Commit.COMMITTED


@each_format
@pytest.mark.parametrize(
    ("batch", "names"),
    [
        (rejects("p", 1), "'text_hash'"),
        (predictions("p", 1).drop_columns(["probability"]), "'probability'"),
        (
            predictions("p", 1).set_column(9, pa.field("tokens_seen", pa.int32()), pa.array([1], pa.int32())),
            "'tokens_seen'",
        ),
        (predictions("other", 1), "another partition"),
        (
            pa.RecordBatch.from_pylist([prediction_row("p", None)], schema=pa.schema(PREDICTIONS.schema)),
            "'doc_id'",
        ),
    ],
    ids=["other table", "missing column", "other type", "other partition", "null"],
)
def test_rows_that_break_the_contract_are_refused(sink, batch, names):
    """Rows that no reader expects would be published."""
    with pytest.raises(WarehouseError, match=names) as caught:
        sink.replace_partition("predictions", "p", [predictions("p", 1, first=9), batch], "a")
    assert "\n" not in str(caught.value)
    assert sink.commit_keys("predictions") == {}


@each_format
@pytest.mark.parametrize(
    ("partition", "key"),
    [("", "k"), ("p", ""), ("\ud800", "k"), ("p", "\ud800")],
    ids=["p", "k", "surrogate p", "k2"],
)
def test_names_that_cannot_be_stored_are_refused(sink, partition, key):
    """An empty name, or one that no encoding can hold, would fail deep inside a library."""
    with pytest.raises(WarehouseError):
        sink.replace_partition("predictions", partition, [], key)


@each_format
def test_unknown_tables_are_refused(sink):
    """A misspelt table would be created."""
    for call in (sink.commit_keys, sink.read, sink.dataset, sink.location):
        with pytest.raises(WarehouseError, match="'embeddings'"):
            call("embeddings")


def test_reading_before_anything_is_published_says_so(sink, warehouse, tmp_path):
    """Asking a warehouse that does not exist would create one, or show a traceback."""
    sink.check()
    for table in TABLES:
        assert sink.commit_keys(table) == {}
        with pytest.raises(WarehouseError, match=f"no table '{table}'") as caught:
            sink.read(table)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@each_format
def test_a_dataset_can_be_scanned_twice_and_partly(sink):
    """A query that joins the table with itself would find it empty the second time."""
    sink.replace_partition("predictions", "p", [predictions("p", 3)], "a")
    sink.replace_partition("predictions", "q", [predictions("q", 2)], "a")
    dataset = sink.dataset("predictions")
    assert dataset.count_rows() == 5
    assert sorted(dataset.to_table(columns=["doc_id"])["doc_id"].to_pylist())[:2] == ["doc-0", "doc-0"]
    assert sink.dataset("predictions", "q").count_rows() == 2
    assert dataset.schema.equals(PREDICTIONS.schema)


@each_format
def test_a_dataset_of_some_columns_holds_these(sink):
    """What needs one column of one row would be given others, or none."""
    sink.replace_partition("predictions", "p", [predictions("p", 3), predictions("p", 2, "head-b", 3)], "a")
    dataset = sink.dataset("predictions", "p", columns=["head_fingerprint", "label"])
    assert dataset.schema.names == ["head_fingerprint", "label"]
    assert sorted(dataset.to_table()["head_fingerprint"].to_pylist()) == ["head-a"] * 3 + ["head-b"] * 2
    first = sink.dataset("predictions", "p", columns=["label"], limit=1).head(1)
    assert first.to_pylist() == [{"label": "sport"}]
    assert sink.dataset("predictions", "q", columns=["label"], limit=1).head(1).num_rows == 0


@pytest.mark.parametrize("warehouse", ["postgres", "duckdb"], indirect=True)
def test_no_more_is_copied_than_is_asked_for(sink):
    """Planning a backfill would copy every partition whole, with all its columns, to look at one row of each."""
    sink.replace_partition("predictions", "p", [predictions("p", 50)], "a")
    dataset = sink.dataset("predictions", "p", columns=["label"], limit=1)
    (copy,) = dataset.files
    assert pq.read_schema(copy).names == ["label"]
    assert dataset.count_rows() == 1


def test_a_reader_keeps_its_version_while_the_partition_is_replaced(sink):
    """A query that runs while a partition is replaced would see a mixture, or lose its files."""
    sink.replace_partition("predictions", "p", [predictions("p", 3)], "a")
    reader = sink.read("predictions")
    sink.replace_partition("predictions", "p", [predictions("p", 5, "head-b")], "b")
    assert set(reader.read_all()["head_fingerprint"].to_pylist()) == {"head-a"}
    assert published(sink) == expected("p", 5, "head-b")


def test_readers_see_the_old_or_the_new_version_whole(sink, warehouse, publisher):
    """Between the old rows' removal and the new ones' arrival a reader would find nothing, or both."""
    sink.replace_partition("predictions", "p", [predictions("p", 500, "head-0")], "key-0")
    writer = publisher(warehouse, "churn", "p", 8, 500)
    seen = []
    while writer.running():
        seen.append(published(open_warehouse(warehouse), "p"))
    assert writer.finished() == "done"
    assert seen
    for rows in seen:
        assert len(rows) == 500
        assert len({head for _, _, head in rows}) == 1


@pytest.mark.parametrize("same_key", [True, False], ids=["one key", "own keys"])
def test_eight_writers_of_one_partition_leave_one_version(sink, warehouse, publisher, same_key):
    """Rows of two concurrent writers would be doubled or mixed; the same commit would be made twice."""
    writers = [
        publisher(warehouse, "replace", "p", "key" if same_key else f"key-{i}", 200, f"head-{i}") for i in range(8)
    ]
    results = [writer.finished() for writer in writers]
    rows = published(sink)
    heads = {head for _, _, head in rows}
    assert len(rows) == 200
    assert len(heads) == 1
    if same_key:
        assert sorted(results) == ["already_committed"] * 7 + ["committed"]
    else:
        assert results == ["committed"] * 8
        assert sink.commit_keys("predictions") == {"p": f"key-{heads.pop()[-1]}"}


def test_eight_writers_of_different_partitions_lose_nothing(sink, warehouse, publisher):
    """Two days published at the same moment, in a new warehouse, would overwrite each other."""
    writers = [publisher(warehouse, "replace", f"day={i}", "key", 100 + i, "head-a") for i in range(8)]
    assert [writer.finished() for writer in writers] == ["committed"] * 8
    assert published(sink) == sorted(row for i in range(8) for row in expected(f"day={i}", 100 + i))
    assert sink.commit_keys("predictions") == {f"day={i}": "key" for i in range(8)}


def test_kill_in_the_middle_leaves_the_old_version_and_a_rerun_completes(sink, warehouse, publisher):
    """A worker that dies while it publishes would leave a broken table, or block the next run."""
    sink.replace_partition("predictions", "p", [predictions("p", 3)], "a")
    writer = publisher(warehouse, "hang", "p", "b")
    assert writer.line() == "writing"
    writer.kill()
    assert published(sink) == expected("p", 3)
    assert sink.commit_keys("predictions") == {"p": "a"}
    assert sink.replace_partition("predictions", "p", [predictions("p", 4, "head-b")], "b") is Commit.COMMITTED
    assert published(sink) == expected("p", 4, "head-b")


@pytest.mark.parametrize("warehouse", [kind for kind in SINKS if kind != "postgres"], indirect=True)
def test_full_disk_is_one_clear_error_and_leaves_the_old_version(sink, warehouse, publisher):
    """A full disk would leave half a partition, or a traceback instead of the reason."""
    sink.replace_partition("predictions", "p", [predictions("p", 3)], "a")
    writer = publisher(warehouse, "fill_disk", "p", "b", 20_000)
    message = writer.finished()
    assert message.startswith("refused: ")
    assert "\n" not in message
    assert published(sink) == expected("p", 3)


@each_format
def test_errors_are_errors_of_this_project(sink):
    """The command line would show a traceback of a library."""
    assert issubclass(WarehouseError, RobertError)
    assert REJECTS.name in sink.location("rejects")
