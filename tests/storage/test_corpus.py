"""Reading a corpus: columns, labels, what becomes a reject, and that every row is a document or one."""

import dataclasses
import os

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
from tests.corpora import (
    COLUMNS,
    complaint,
    invalid_utf8,
    outcomes,
    plan_partition,
    read_corpus,
    write_file,
    write_texts,
)

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
