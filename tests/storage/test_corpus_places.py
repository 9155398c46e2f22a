"""Finding a corpus: what stops a run before anything is read, and how files may lie on disk."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robert_pipeline.errors import CorpusError, StoreError
from robert_pipeline.storage.corpus import open_corpus, read_unit
from tests.corpora import COLUMNS, complaint, outcomes, plan_partition, read_corpus, write_file, write_texts

ROOT = Path(__file__).resolve().parents[2]

# What stops a run.


def test_a_missing_corpus_is_named(tmp_path):
    """A mistyped address would look like a corpus without documents."""
    assert complaint(tmp_path / "nowhere").startswith(f"corpus {tmp_path}/nowhere does not exist")


@pytest.mark.parametrize("content", [(), ("_SUCCESS", ".part.parquet.crc", "_temporary/0/part.parquet")])
def test_a_folder_without_data_is_named(tmp_path, content):
    """A job that wrote nothing would be labelled, successfully."""
    for name in content:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert complaint(tmp_path) == f"corpus {tmp_path} holds no Parquet file. Make one with `robert import`"


def test_a_partition_without_rows_is_named(tmp_path):
    """A partition that was written empty by mistake would be published empty."""
    write_texts(tmp_path / "day=1" / "a.parquet", [])
    assert complaint(tmp_path).startswith(
        f"partition 'day=1' of corpus {tmp_path}, which is day=1/a.parquet alone, holds no rows"
    )


def test_an_empty_file_beside_a_full_one_is_fine(tmp_path):
    """Engines write empty part files; they would stop the run."""
    write_texts(tmp_path / "a.parquet", [])
    write_texts(tmp_path / "b.parquet", ["one"])
    assert outcomes(read_corpus(tmp_path)) == [("d0", "one")]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"doc_id,text\n1,one\n", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_a_file_that_is_not_parquet_is_named(tmp_path, content):
    """A CSV file named .parquet would fail inside a worker, without a name."""
    (tmp_path / "a.parquet").write_bytes(content)
    fault = "cannot be read" if len(content) > 100 else "is not a Parquet file"
    assert complaint(tmp_path).startswith(f"{tmp_path}/a.parquet {fault}: ")


def test_a_file_of_another_kind_is_named_and_not_skipped(tmp_path):
    """Documents in a file with another ending would be missing from the table, without a word."""
    write_texts(tmp_path / "a.parquet", ["one"])
    (tmp_path / "b.csv").write_text("doc_id,text\n")
    assert complaint(tmp_path).startswith(f"{tmp_path}/b.csv is not a Parquet file. ")


def test_an_unknown_partition_is_answered_with_those_there_are(tmp_path):
    """A mistyped day would be labelled, with nothing in it."""
    for day in range(7):
        write_texts(tmp_path / f"day={day}" / "a.parquet", ["one"])
    assert complaint(tmp_path, partition="day=9") == (
        f"corpus {tmp_path} has no partition 'day=9'. It has: day=0, day=1, day=2, day=3, day=4, …"
    )


@pytest.mark.parametrize(("column", "option"), [("doc_id", "--doc-id-column"), ("text", "--text-column")])
def test_a_missing_column_is_named_with_the_option_that_names_it(tmp_path, column, option):
    """A corpus with other column names would fail without saying how to name them."""
    columns = {"doc_id": ["1"], "text": ["one"], "body": ["one"]}
    del columns[column]
    write_file(tmp_path / "a.parquet", **columns)
    found = complaint(tmp_path)
    assert found.startswith(f"{tmp_path}/a.parquet has no column '{column}'")
    assert option in found
    assert "body" in found


def test_a_column_that_only_some_files_lack_is_found(tmp_path):
    """A run would embed half of the corpus before it met the file."""
    write_texts(tmp_path / "a.parquet", ["one"])
    write_file(tmp_path / "b.parquet", doc_id=["1"], body=["one"])
    assert complaint(tmp_path).startswith(f"{tmp_path}/b.parquet has no column 'text'")


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    """Either of the two could have been labelled."""
    table = pa.Table.from_arrays([pa.array(["1"]), pa.array(["a"]), pa.array(["b"])], ["doc_id", "text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert complaint(tmp_path).startswith(f"{tmp_path}/a.parquet has more than one column 'text'")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("text", pa.array([1, 2])),
        ("text", pa.array([["a"], ["b"]], pa.list_(pa.field("element", pa.string())))),
        ("text", pa.array([{"a": "b"}, {"a": "c"}])),
        ("text", pa.nulls(2)),
        ("doc_id", pa.array([1.5, 2.5])),
        ("doc_id", pa.array([True, False])),
        ("doc_id", pa.array([0, 1], pa.timestamp("us"))),
    ],
    ids=lambda value: str(getattr(value, "type", value)),
)
def test_a_column_of_a_wrong_type_is_named_with_its_type(tmp_path, name, values):
    """Numbers would be labelled as if they were texts, or a worker would fail on them."""
    columns = {"doc_id": ["1", "2"], "text": ["a", "b"], name: values}
    write_file(tmp_path / "a.parquet", **columns)
    found = complaint(tmp_path)
    assert found.startswith(f"column '{name}' of {tmp_path}/a.parquet is {values.type}, not text")
    assert f"--{'doc-id' if name == 'doc_id' else 'text'}-column" in found


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    """A file without read permission, or one deleted a moment ago, would be a traceback."""
    corpus = open_corpus(str(write_texts(tmp_path / "a.parquet", ["one"])), COLUMNS)
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(CorpusError, match=r"a\.parquet cannot be read: .*No such file"):
        corpus.fragments("all")


def test_a_file_that_cannot_be_reached_is_an_error_of_the_corpus_that_may_go_away(tmp_path, monkeypatch):
    """The user would look for it in the store; or a schedule would give up over a bucket that is away for a minute."""
    corpus = open_corpus(str(write_texts(tmp_path / "a.parquet", ["one"])), COLUMNS)

    def refuse(_files, path):
        raise StoreError(f"cannot reach {path}: SLOW_DOWN", transient=True)

    monkeypatch.setattr("robert_pipeline.storage.files.Files.open", refuse)
    with pytest.raises(CorpusError, match=r"cannot reach a\.parquet: SLOW_DOWN") as failed:
        corpus.fragments("all")
    assert failed.value.transient


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    """A folder without read permission would be a traceback."""
    from robert_pipeline.storage.files import Files

    def refuse(self, folder=""):  # a folder of root's own listing is never refused
        raise PermissionError(13, f"Cannot list directory '{self.full_path(folder)}'")

    monkeypatch.setattr(Files, "list", refuse)
    assert complaint(tmp_path).startswith(f"corpus {tmp_path} cannot be listed: ")


# How a corpus may lie on disk.


def test_partitions_are_the_folders_that_hold_files(tmp_path):
    """Documents would be published under another partition than the one they lie in."""
    for place in ("a.parquet", "day=1/hour=2/b.parquet", "day=1/c.pq", "it's ünï ' day/d.parquet", "_old/e.parquet"):
        write_texts(tmp_path / place, [place], prefix=place)
    assert open_corpus(str(tmp_path), COLUMNS).partitions() == ["all", "day=1", "day=1/hour=2", "it's ünï ' day"]
    for partition, place in (("all", "a.parquet"), ("day=1", "day=1/c.pq"), ("it's ünï ' day",) * 2):
        (row,) = read_corpus(tmp_path, partition)
        assert row.file.startswith(place)


@pytest.mark.parametrize("name", ["a.parquet", "with space & ünï 'quote'.parquet", "no ending", "100%25.parquet"])
@pytest.mark.parametrize("as_address", [False, True])
def test_one_file_is_a_corpus(tmp_path, name, as_address):
    """`robert predict` could not label a single file, whatever it is called."""
    place = write_texts(tmp_path / name, ["one", None])
    uri = place.as_uri() if as_address else str(place)
    corpus = open_corpus(uri, COLUMNS)
    assert corpus.partitions() == ["all"]
    (unit,) = plan_partition(uri)
    rows = list(read_unit(uri, COLUMNS, unit))
    assert outcomes(rows) == [("d0", "one"), ("d1", "null_text")]


def test_a_relative_path_is_a_corpus(tmp_path, monkeypatch):
    """A corpus in the current folder could not be named."""
    write_texts(tmp_path / "a.parquet", ["one"])
    monkeypatch.chdir(tmp_path)
    for uri in (".", "a.parquet", "./a.parquet"):
        assert outcomes(read_corpus(uri)) == [("d0", "one")]


def test_linked_files_and_folders_are_read(tmp_path):
    """A corpus that is put together of links would look empty."""
    write_texts(tmp_path / "real" / "a.parquet", ["one"])
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "day=1").symlink_to(tmp_path / "real")
    (tmp_path / "corpus" / "b.parquet").symlink_to(tmp_path / "real" / "a.parquet")
    assert open_corpus(str(tmp_path / "corpus"), COLUMNS).partitions() == ["all", "day=1"]
    assert outcomes(read_corpus(tmp_path / "corpus", "day=1")) == [("d0", "one")]


def test_files_are_read_in_name_order_and_rows_know_their_place(tmp_path):
    """A reject could not be found in the corpus again."""
    write_texts(tmp_path / "b.parquet", ["b0", None, "b2"], row_group_rows=2, prefix="b")
    write_texts(tmp_path / "a.parquet", ["a0", "", "a2"], row_group_rows=1, prefix="a")
    rows = read_corpus(tmp_path, unit_bytes=1)
    assert [(row.file, row.row, row.doc_id) for row in rows] == [
        (f"{name}.parquet", row, f"{name}{row}") for name in "ab" for row in range(3)
    ]
