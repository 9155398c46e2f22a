"""Reading a corpus: what stops a run, what becomes a reject, and that every row is one or the other."""

import dataclasses
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robert_pipeline.config import Columns
from robert_pipeline.errors import CorpusError
from robert_pipeline.storage.corpus import open_corpus, read_unit
from robert_pipeline.types import Document, Reject
from schemas import REJECT_REASONS
from tests.corpora import COLUMNS, invalid_utf8, outcomes, plan_partition, read_corpus, write_file, write_texts

ROOT = Path(__file__).resolve().parents[2]


def look(uri, partition=None):
    """Find the corpus and the fragments of one or all partitions, as planning does."""
    corpus = open_corpus(str(uri), COLUMNS)
    return [corpus.fragments(name) for name in ([partition] if partition else corpus.partitions())]


def complaint(uri, *, partition=None):
    """What a run over the corpus is told before anything is read."""
    with pytest.raises(CorpusError) as raised:
        look(uri, partition)
    assert raised.value.fix
    assert "\n" not in str(raised.value)
    return str(raised.value)


# What concerns the whole corpus.


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
    assert complaint(tmp_path).startswith(f"partition 'day=1' of corpus {tmp_path} holds no rows")


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


# Columns.

TEXTUAL = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.large_binary(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.dictionary(pa.int8(), pa.large_string()),
]


@pytest.mark.parametrize("kind", TEXTUAL, ids=str)
def test_text_and_ids_of_every_textual_type_are_read_alike(tmp_path, kind):
    """What another engine wrote would be refused, or embedded as other text."""
    texts, ids = ["one ü", None, "one ü", " "], ["a", "b", "c", None]
    write_file(tmp_path / "a.parquet", doc_id=pa.array(ids).cast(kind), text=pa.array(texts).cast(kind))
    expected = [("a", "one ü"), ("b", "null_text"), ("c", "one ü"), (None, "null_doc_id")]
    assert outcomes(read_corpus(tmp_path)) == expected


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint8(), pa.int32()], ids=str)
def test_integer_ids_are_read_as_their_digits(tmp_path, kind):
    """Numbered documents would have to be rewritten before they can be labelled."""
    write_file(tmp_path / "a.parquet", doc_id=pa.array([7, None, 7]).cast(kind), text=["one", "two", "three"])
    assert outcomes(read_corpus(tmp_path)) == [("7", "one"), (None, "null_doc_id"), ("7", "duplicate_doc_id")]


@pytest.mark.parametrize("name", ["body", "the text", "text.plain", "texte «é»", "text"])
def test_columns_may_have_any_name(tmp_path, name):
    """A corpus with other names could not be labelled as it is."""
    others = {"text.en": ["x"], "body.text": ["y"], "text_2": ["z"]}
    write_file(tmp_path / "a.parquet", **{**others, name: ["one"], f"{name} id": ["1"]})
    assert outcomes(read_corpus(tmp_path, columns=Columns(doc_id=f"{name} id", text=name))) == [("1", "one")]


def test_a_corpus_read_by_other_columns_makes_other_units(tmp_path):
    """Vectors of the titles would be found and published as those of the bodies."""
    write_file(tmp_path / "a.parquet", doc_id=["1"], text=["one"], title=["two"], label=["x"])
    units = {
        columns: plan_partition(tmp_path, columns=columns)[0].unit_id
        for columns in (COLUMNS, Columns(text="title"), Columns(doc_id="title"), Columns(label="title"))
    }
    assert len(set(units.values())) == 3
    assert units[COLUMNS] == units[Columns(label="title")]


# Labels.


def read_labels(uri, columns=COLUMNS):
    return list(open_corpus(str(uri), columns).labels("all"))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a", None, "ü"], ["a", None, "ü"]),
        (pa.array([1, None, 3]), ["1", None, "3"]),
        (pa.array([True, None, False]), ["true", None, "false"]),
        (pa.array(["a", None, "b"]).dictionary_encode(), ["a", None, "b"]),
        (pa.nulls(3), [None, None, None]),
        (invalid_utf8([b"a", b"\xff", b"b"]), ["a", None, "b"]),
    ],
    ids=["text", "integer", "boolean", "dictionary", "none", "invalid UTF-8"],
)
def test_labels_of_every_type_are_text(tmp_path, values, expected):
    """A head would learn from numbers what it then publishes as other names."""
    write_file(tmp_path / "a.parquet", doc_id=["x", "y", "z"], text=["1", "2", "3"], label=values)
    assert read_labels(tmp_path) == list(zip("xyz", expected, strict=True))


def test_a_document_has_the_label_of_its_first_row(tmp_path):
    """A document would be learned with the label of a row that is rejected for repeating its id."""
    write_file(
        tmp_path / "a.parquet",
        doc_id=["x", "y", "x", None, None],
        text=["1", "2", "3", "4", "5"],
        label=["a", "b", "c", "d", "e"],
    )
    assert read_labels(tmp_path) == [("x", "a"), ("y", "b")]


def test_a_missing_label_column_is_named(tmp_path):
    """Training on a corpus without labels would fail without saying how to name them."""
    write_texts(tmp_path / "a.parquet", ["one"])
    with pytest.raises(CorpusError, match=r"a\.parquet has no column 'label'.*--label-column"):
        read_labels(tmp_path)


def test_labels_of_a_wrong_type_are_named(tmp_path):
    """A head would learn one label a price."""
    write_file(tmp_path / "a.parquet", doc_id=["x"], text=["1"], label=[1.5])
    with pytest.raises(CorpusError, match=r"column 'label' of .*a\.parquet is double, not text or integer"):
        read_labels(tmp_path)


# Rows that cannot be labelled.


def test_each_bad_row_is_a_reject_with_its_reason(tmp_path):
    """A bad row would stop the run, or vanish, or be labelled."""
    ids = invalid_utf8([b"good", b"null", b"empty", b"blank", b"unicode blank", b"cut", b"\xff\xfe", b"", b"good"])
    texts = [b"one", b"", b"", b" \t\n", "\u2003\u00a0".encode(), b"caf\xe9", b"two", b"three", b"four"]
    column = invalid_utf8(texts)
    is_null = pa.array([position == 1 for position in range(len(texts))])
    write_file(tmp_path / "a.parquet", doc_id=ids, text=pa.compute.if_else(is_null, None, column))
    rows = read_corpus(tmp_path)
    assert outcomes(rows) == [
        ("good", "one"),
        ("null", "null_text"),
        ("empty", "empty_text"),
        ("blank", "empty_text"),
        ("unicode blank", "empty_text"),
        ("cut", "invalid_utf8"),
        (None, "invalid_utf8"),
        ("", "null_doc_id"),
        ("good", "duplicate_doc_id"),
    ]
    details = {row.row: row.detail for row in rows if isinstance(row, Reject)}
    assert details[4] == "text has 2 characters, none of them visible"
    assert details[5] == "text is not UTF-8: byte 3 is 0xe9"
    assert details[6] == r"doc_id is not UTF-8: b'\xff\xfe'"
    assert details[8] == "an earlier row of the partition has doc_id 'good'"


def test_ids_repeat_across_files_of_a_partition_but_not_across_partitions(tmp_path):
    """A document would be published twice, or tomorrow's would be rejected for having today's id."""
    for place in ("day=1/a.parquet", "day=1/b.parquet", "day=2/a.parquet"):
        write_texts(tmp_path / place, [place])
    assert outcomes(read_corpus(tmp_path, "day=1")) == [("d0", "day=1/a.parquet"), ("d0", "duplicate_doc_id")]
    assert outcomes(read_corpus(tmp_path, "day=2")) == [("d0", "day=2/a.parquet")]


def test_text_is_kept_to_the_byte(tmp_path):
    """Offsets of passages would point at other characters than those in the corpus."""
    text = "\ufeff\r\n\0 a\u0301\U0001f600\u200b\tb \n"
    write_texts(tmp_path / "a.parquet", [text])
    (row,) = read_corpus(tmp_path)
    assert row.text == text


def test_a_document_of_five_megabytes_and_one_of_one_letter_are_read_whole(tmp_path):
    """Long documents would be cut, or short ones dropped."""
    long = "word " * 1_000_000
    write_texts(tmp_path / "a.parquet", [long, "x"])
    assert [row.text for row in read_corpus(tmp_path)] == [long, "x"]


cells = st.none() | st.sampled_from([b"", b" ", b"\xff", b"a", b"b", b"caf\xe9"]) | st.text(max_size=6).map(str.encode)


@st.composite
def corpora(draw):
    """Files of (doc_id, text) rows, as bytes, and how they are cut."""
    files = draw(st.lists(st.lists(st.tuples(cells, cells), max_size=12), min_size=1, max_size=3))
    return files, draw(st.integers(1, 5)), draw(st.integers(1, 60))


@given(corpora())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_documents_in_are_documents_and_rejects_out(tmp_path_factory, drawn):
    """A row of the corpus would be neither labelled nor rejected, or both, or have another one's text."""
    files, row_group_rows, unit_bytes = drawn
    folder = tmp_path_factory.mktemp("corpus")
    for number, rows in enumerate(files):
        columns = {
            name: pa.array([row[position] for row in rows], pa.binary())
            for position, name in enumerate(("doc_id", "text"))
        }
        write_file(folder / f"{number}.parquet", row_group_rows=row_group_rows, **columns)
    expected = [(f"{n}.parquet", i, *row) for n, rows in enumerate(files) for i, row in enumerate(rows)]
    if not expected:
        assert "holds no rows" in complaint(folder)
        return
    rows = read_corpus(folder, unit_bytes=unit_bytes)
    assert [(row.file, row.row) for row in rows] == [place[:2] for place in expected]
    seen = set()
    for row, (_, _, doc_id, text) in zip(rows, expected, strict=True):
        if isinstance(row, Document):
            assert (row.doc_id.encode(), row.text.encode()) == (doc_id, text)
            assert row.text.strip()
            assert doc_id not in seen
        else:
            assert row.reason in REJECT_REASONS
            assert row.reason != "duplicate_doc_id" or doc_id in seen
        seen.add(doc_id)


# What happens between planning and reading.


def test_a_file_that_changed_since_planning_is_refused(tmp_path):
    """Vectors of the new content would be stored under the name of the old."""
    place = write_texts(tmp_path / "a.parquet", ["one", "two"])
    (unit,) = plan_partition(tmp_path)
    write_texts(place, ["three", "four"])
    with pytest.raises(CorpusError, match=r"a\.parquet has changed since the run was planned"):
        list(read_unit(str(tmp_path), COLUMNS, unit))
    place.unlink()
    with pytest.raises(CorpusError, match=r"a\.parquet has changed since the run was planned"):
        list(read_unit(str(tmp_path), COLUMNS, unit))


def test_a_touched_file_makes_another_unit(tmp_path):
    """A file that was written anew in place would keep its old vectors."""
    place = write_texts(tmp_path / "a.parquet", ["one"])
    (before,) = plan_partition(tmp_path)
    os.utime(place, ns=(1, 1))
    (after,) = plan_partition(tmp_path)
    assert before.unit_id != after.unit_id


def test_a_row_group_that_is_shorter_than_planned_is_refused(tmp_path):
    """Rows would be lost where a file does not hold what its footer says."""
    write_texts(tmp_path / "a.parquet", ["one", "two"])
    (unit,) = plan_partition(tmp_path)
    longer = dataclasses.replace(unit, ranges=(dataclasses.replace(unit.ranges[0], row_count=3),))
    with pytest.raises(CorpusError, match=r"a\.parquet is damaged: row group 0 ends after 2 rows"):
        list(read_unit(str(tmp_path), COLUMNS, longer))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_flipped_bit_never_changes_a_text_in_silence(tmp_path, share):
    """A damaged disk would change what is labelled; most flips give other text without an error."""
    texts = [f"document {number} " + os.urandom(40).hex() for number in range(60)]
    place = write_texts(tmp_path / "a.parquet", texts)
    content = bytearray(place.read_bytes())
    column = pq.ParquetFile(place).metadata.row_group(0).column(1)
    data_end = column.dictionary_page_offset + column.total_compressed_size
    content[int(share * data_end)] ^= 1
    place.write_bytes(content)
    try:
        rows, complaints = read_corpus(tmp_path), []
    except CorpusError as error:
        rows, complaints = [], [str(error)]
    if complaints:
        assert complaints[0].startswith(f"{tmp_path}/a.parquet is damaged: ")
        assert "\n" not in complaints[0]
    else:
        assert [row.text for row in rows] == texts


def test_a_cut_file_is_named(tmp_path):
    """A file whose copying broke off would be a traceback."""
    place = write_texts(tmp_path / "a.parquet", ["one"] * 100)
    place.write_bytes(place.read_bytes()[:-20])
    assert complaint(tmp_path).startswith(f"{tmp_path}/a.parquet is not a Parquet file: ")
