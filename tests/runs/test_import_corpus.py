"""`robert import`: a data set becomes a partition that the other commands read, whole or not at all."""

import inspect

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robert_pipeline.config import Columns
from robert_pipeline.errors import ConfigError, CorpusError, StoreError
from robert_pipeline.runs.import_corpus import import_corpus
from robert_pipeline.storage.corpus import open_corpus
from schemas import DOCUMENTS
from tests.corpora import COLUMNS, invalid_utf8, outcomes, read_corpus, write_file


@pytest.fixture
def source(tmp_path):
    """Four rows, two of them unusable, under names of their own."""
    place = tmp_path / "source.parquet"
    write_file(place, body=["one", None, " ", "four"], key=[1, 2, 3, 4], kind=["a", "b", None, "a"])
    return str(place)


OWN = Columns(doc_id="key", text="body", label="kind")


def test_a_data_set_becomes_a_partition_of_a_corpus(source, tmp_path):
    """What was imported could not be planned, embedded and learned from."""
    report = import_corpus(source, out=str(tmp_path / "corpus"), columns=OWN, partition="day=1/hour=2")
    assert (report.documents, report.labelled, report.partition) == (4, 3, "day=1/hour=2")
    assert report.path == f"{tmp_path}/corpus/day=1/hour=2/part-00000.parquet"
    corpus = open_corpus(str(tmp_path / "corpus"), COLUMNS)
    assert corpus.partitions() == ["day=1/hour=2"]
    assert list(corpus.labels("day=1/hour=2")) == [("1", "a"), ("2", "b"), ("3", None), ("4", "a")]


def test_unusable_rows_are_kept_to_be_rejected_with_a_reason(source, tmp_path):
    """Rows would be lost between the data set and the table, and no count would show it."""
    import_corpus(source, out=str(tmp_path / "corpus"), columns=OWN)
    assert outcomes(read_corpus(tmp_path / "corpus", "split=train")) == [
        ("1", "one"),
        ("2", "null_text"),
        ("3", "empty_text"),
        ("4", "four"),
    ]


def test_bytes_that_are_not_utf8_are_kept_to_be_rejected(tmp_path):
    """One bad byte would stop an import, or be changed into another text."""
    write_file(tmp_path / "a.parquet", text=invalid_utf8([b"caf\xe9", b"two"]))
    import_corpus(str(tmp_path / "a.parquet"), out=str(tmp_path / "corpus"))
    assert outcomes(read_corpus(tmp_path / "corpus", "split=train")) == [
        ("split=train-0", "invalid_utf8"),
        ("split=train-1", "two"),
    ]


def test_rows_without_an_id_column_are_numbered_and_null_ids_are_not_made_up(tmp_path):
    """Documents would have no name, or a row without an id would be given one that looks like any other."""
    texts = [f"text {number}" for number in range(2_500)]
    write_file(tmp_path / "a.parquet", text=texts)
    import_corpus(str(tmp_path / "a.parquet"), out=str(tmp_path / "a"), partition="p")
    assert [row.doc_id for row in read_corpus(tmp_path / "a", "p")] == [f"p-{number}" for number in range(2_500)]
    write_file(tmp_path / "b.parquet", text=["one", "two"], doc_id=pa.array([None, None], pa.string()))
    import_corpus(str(tmp_path / "b.parquet"), out=str(tmp_path / "b"), partition="p")
    assert outcomes(read_corpus(tmp_path / "b", "p")) == [(None, "null_doc_id")] * 2


def test_the_file_keeps_the_documents_contract(source, tmp_path):
    """Other readers of the corpus could not rely on names, types and descriptions; or damage would not be noticed."""
    path = import_corpus(source, out=str(tmp_path / "corpus"), columns=OWN).path
    schema = pq.read_schema(path)
    DOCUMENTS.check(schema, where=path)
    assert schema.field("text").metadata[b"description"] == DOCUMENTS.schema.field("text").metadata[b"description"]


def test_row_groups_are_worth_reading_and_bounded_in_bytes(tmp_path):
    """Reading a footer would cost more than the rows, or one row group would not fit into memory."""
    write_file(tmp_path / "a.parquet", text=["x"] * 2_500)
    path = import_corpus(str(tmp_path / "a.parquet"), out=str(tmp_path / "a")).path
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [1_000, 1_000, 500]
    write_file(tmp_path / "b.parquet", text=["x" * 200_000] * 300)
    path = import_corpus(str(tmp_path / "b.parquet"), out=str(tmp_path / "b")).path
    assert pq.read_metadata(path).num_row_groups == 3


def test_progress_is_told_with_the_rows_in_all(tmp_path):
    """A long import would look as if it hung."""
    write_file(tmp_path / "a.parquet", text=["x"] * 2_500)
    told = []
    import_corpus(str(tmp_path / "a.parquet"), out=str(tmp_path / "c"), on_rows=lambda *args: told.append(args))
    assert told == [(1_000, 2_500), (2_000, 2_500), (2_500, 2_500)]


def test_a_partition_that_holds_data_is_replaced_only_on_request(source, tmp_path):
    """A second file imported into the same partition would silently take the first one's place, or repeat its ids."""
    out = str(tmp_path / "corpus")
    import_corpus(source, out=out, columns=OWN, partition="day=1")
    import_corpus(source, out=out, columns=OWN, partition="day=1/hour=1")
    write_file(tmp_path / "corpus" / "day=1" / "more.parquet", doc_id=["x"], text=["y"])
    with pytest.raises(CorpusError, match=r"partition 'day=1' of corpus .* holds data already, day=1/more\.parquet"):
        import_corpus(source, out=out, columns=OWN, partition="day=1")
    assert len(read_corpus(out, "day=1")) == 5
    import_corpus(source, out=out, columns=OWN, partition="day=1", replace=True)
    assert len(read_corpus(out, "day=1")) == 4
    assert len(read_corpus(out, "day=1/hour=1")) == 4


def test_an_import_that_fails_leaves_what_was_there(source, tmp_path):
    """A damaged download would take the place of yesterday's partition, half written."""
    out = str(tmp_path / "corpus")
    import_corpus(source, out=out, columns=OWN)
    good = '{"text": "x"}\n'
    (tmp_path / "bad.jsonl").write_text(good * 400_000 + '{"text":')
    with pytest.raises(CorpusError, match=r"bad\.jsonl cannot be imported"):
        import_corpus(str(tmp_path / "bad.jsonl"), out=out, replace=True)
    (tmp_path / "empty.csv").write_text("text\n")
    with pytest.raises(CorpusError, match=r"empty\.csv holds no rows"):
        import_corpus(str(tmp_path / "empty.csv"), out=out, replace=True)
    assert len(read_corpus(out, "split=train")) == 4
    assert [path.name for path in (tmp_path / "corpus").rglob("*") if path.is_file()] == ["part-00000.parquet"]


@pytest.mark.parametrize("name", ["", " ", "_x", ".x", "..", "../x", "/x", "x/", "a//b", "a/./b", "a\nb", "a\0b"])
def test_a_partition_that_no_reader_would_see_is_refused(source, tmp_path, name):
    """Documents would be written to a hidden folder, or outside of the corpus, and never be labelled."""
    with pytest.raises(ConfigError, match="--partition is"):
        import_corpus(source, out=str(tmp_path / "corpus"), columns=OWN, partition=name)
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize("name", ["day='1' & ünï", "a=1/b=2", "100%", "train[:10%]", "~"])
def test_a_partition_has_the_name_it_was_given(source, tmp_path, name):
    """The name that the import reports would not be one that `robert plan` knows."""
    assert import_corpus(source, out=str(tmp_path / "corpus"), columns=OWN, partition=name).partition == name
    assert open_corpus(str(tmp_path / "corpus"), COLUMNS).partitions() == [name]


def test_a_place_that_cannot_be_written_is_named(source, tmp_path):
    """A full or foreign disk would be a traceback."""
    (tmp_path / "corpus").write_text("a file")
    with pytest.raises(StoreError, match=r"cannot write .*corpus/split=train/part-00000\.parquet"):
        import_corpus(source, out=str(tmp_path / "corpus"), columns=OWN)


def test_the_function_is_typed_and_told():
    """Whoever imports from Python would have to read the code."""
    signature = inspect.signature(import_corpus)
    assert all(parameter.annotation is not inspect.Parameter.empty for parameter in signature.parameters.values())
    for name in signature.parameters:
        if name not in ("columns", "split", "partition", "replace"):
            assert f"`{name}`" in import_corpus.__doc__, name
