"""What `robert import` reads: every kind of file becomes the same rows, and what cannot be read is named."""

import csv
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robert_pipeline.config import Columns
from robert_pipeline.errors import ConfigError, CorpusError
from robert_pipeline.storage.sources import open_source
from tests.corpora import invalid_utf8, write_file

OTHER = Columns(doc_id="id", text="body", label="class")


def rows_of(source, columns=OTHER):
    """(doc_id, text, label) of every row."""
    tables = list(open_source(str(source), columns=columns).tables())
    return [tuple(row.values()) for table in tables for row in table.to_pylist()]


def complaint(source, columns=OTHER, kind=CorpusError):
    """What is said about a source, when it is opened or when it is read."""
    with pytest.raises(kind) as raised:
        rows_of(source, columns)
    assert raised.value.fix
    assert "\n" not in str(raised.value)
    return str(raised.value)


ROWS = [("1", 'one, ü\n"x"', "a"), ("2", None, None), ("3", "three", "b")]


def write(folder, name, rows=ROWS, names=("id", "body", "class")):
    """The rows as a file of the kind that its name says."""
    place = folder / name
    if place.suffix in (".csv", ".tsv"):
        with place.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t" if place.suffix == ".tsv" else ",")
            writer.writerows([names, *rows])
    elif place.suffix in (".jsonl", ".ndjson"):
        place.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    elif place.suffix == ".json":
        place.write_text(json.dumps([dict(zip(names, row, strict=True)) for row in rows]))
    else:
        columns = {name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(names)}
        write_file(place, **columns)
    return place


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "ndjson", "parquet", "pq"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, suffix):
    """A corpus would hold other documents when they come as CSV than when they come as JSON."""
    assert rows_of(write(tmp_path, f"it's ünï code.{suffix}")) == ROWS


@pytest.mark.parametrize("suffix", ["CSV", "Parquet"])
def test_the_ending_may_be_in_capitals(tmp_path, suffix):
    """A file from another system would be looked for on the hub."""
    assert rows_of(write(tmp_path, f"a.{suffix.lower()}").rename(tmp_path / f"a.{suffix}")) == ROWS


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_folder_is_read_file_by_file_in_name_order(tmp_path, suffix):
    """Documents of a folder would be missing, or their order would change from one import to the next."""
    for number, place in enumerate(("b/2", "a", "b/1", ".hidden/4", "_temporary/5")):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        write(tmp_path, f"{place}.{suffix}", [(str(number), "x", "y")])
    (tmp_path / "README.md").write_text("about")
    source = open_source(str(tmp_path), columns=OTHER)
    assert [row["doc_id"] for table in source.tables() for row in table.to_pylist()] == ["1", "2", "0"]
    assert source.left_out == ("README.md",)


def test_a_text_file_is_a_document_named_by_its_place_and_labelled_by_its_folder(tmp_path):
    """Twenty folders of newsgroup articles would become documents without names and labels."""
    for name, content in (("pos/1.txt", b"good\r\n\n day "), ("neg/x/2.txt", b"caf\xe9"), ("3.txt", b"")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    tables = list(open_source(str(tmp_path), columns=OTHER).tables())
    rows = pa.concat_tables(tables)
    assert rows.column("doc_id").to_pylist() == ["3.txt", "neg/x/2.txt", "pos/1.txt"]
    assert rows.column("text").cast(pa.binary()).to_pylist() == [b"", b"caf\xe9", b"good\r\n\n day "]
    assert rows.column("label").to_pylist() == [None, "x", "pos"]
    assert rows_of(tmp_path / "pos" / "1.txt") == [("1.txt", "good\r\n\n day ", None)]


cell = st.text(st.characters(blacklist_categories=["Cs"]), max_size=8)


@given(st.lists(st.tuples(cell, cell, cell), min_size=1, max_size=5))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cells_of_a_csv_file_are_taken_as_they_are_written(tmp_path, rows):
    """'007' would become the id 7, and the label 'None' or 'NA' no label."""
    place = tmp_path / "a.csv"
    with place.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([OTHER_NAMES, *rows])
    assert rows_of(place) == [tuple(value or None for value in row) for row in rows]


OTHER_NAMES = ("id", "body", "class")


@pytest.mark.parametrize("value", ["007", "1.0", "None", "NA", "nan", "null", "true", "-", " x "])
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_words_and_digits_keep_their_spelling(tmp_path, suffix, value):
    """Documents would be published under ids and labels that the corpus does not have."""
    assert rows_of(write(tmp_path, f"a.{suffix}", [(value, value, value)] * 2)) == [(value, value, value)] * 2


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_types_may_differ_from_row_to_row(tmp_path, suffix):
    """A file whose first ten thousand labels are empty would fail at the first that is not."""
    rows = [(number, "x" * 300, None) for number in range(3_000)] + [("last", "y", "a")]
    if suffix == "jsonl":
        rows[-1] = (4_000, "y", "a")  # JSON numbers and strings in one column are a mistake
    found = rows_of(write(tmp_path, f"a.{suffix}", rows))
    assert len(found) == 3_001
    assert found[1] == ("1", "x" * 300, None)
    assert found[-1] == (str(rows[-1][0]), "y", "a")


def test_named_classes_and_other_types_become_words(tmp_path):
    """Labels would be published as numbers that only the data set's authors understand."""
    import datasets

    features = datasets.Features(
        {
            "id": datasets.Value("int32"),
            "body": datasets.Value("large_string"),
            "class": datasets.ClassLabel(2, ["n", "p"]),
        }
    )
    data = datasets.Dataset.from_dict({"id": [7, 8, 9], "body": ["x", "y", "z"], "class": [1, 0, -1]}, features)
    data.to_parquet(str(tmp_path / "a.parquet"))
    assert rows_of(tmp_path / "a.parquet") == [("7", "x", "p"), ("8", "y", "n"), ("9", "z", None)]
    write_file(tmp_path / "b.parquet", body=pa.array(["x", "y"]).dictionary_encode(), **{"class": [True, None]})
    assert rows_of(tmp_path / "b.parquet", Columns(text="body", label="class")) == [
        (None, "x", "true"),
        (None, "y", None),
    ]


def test_bytes_that_are_not_utf8_come_through_parquet(tmp_path):
    """One bad document would stop the import of a million good ones; it is rejected later, with a reason."""
    write_file(tmp_path / "a.parquet", text=invalid_utf8([b"one", b"caf\xe9"]))
    (table,) = open_source(str(tmp_path / "a.parquet"), columns=Columns()).tables()
    assert table.column("text").cast(pa.binary()).to_pylist() == [b"one", b"caf\xe9"]


def test_ids_and_labels_need_not_be_there(tmp_path):
    """A list of texts could not be imported."""
    source = open_source(str(write(tmp_path, "a.csv", [("x",)], ("text",))), columns=Columns())
    assert not source.has_ids
    assert [table.to_pylist() for table in source.tables()] == [[{"doc_id": None, "text": "x", "label": None}]]


def test_a_byte_order_mark_is_not_part_of_a_name(tmp_path):
    """A table saved by a spreadsheet program would lack its first column."""
    (tmp_path / "a.csv").write_text("\ufeffbody,id\nx,1\n", encoding="utf-8")
    assert rows_of(tmp_path / "a.csv", Columns(doc_id="id", text="body")) == [("1", "x", None)]


def test_the_number_of_rows_is_known_of_parquet(tmp_path):
    """A long import would show no time left."""
    write(tmp_path, "a.parquet")
    write(tmp_path, "b.parquet")
    assert open_source(str(tmp_path), columns=OTHER).row_count == 6


# What is refused.


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("columns", "option", "kind"),
    [
        (Columns(text="nope"), "--text-column", CorpusError),
        (Columns(text="body", doc_id="nope"), "--doc-id-column", ConfigError),
        (Columns(text="body", label="nope"), "--label-column", ConfigError),
    ],
    ids=["text", "id", "label"],
)
def test_a_missing_column_is_named_with_the_option_that_names_it(tmp_path, suffix, columns, option, kind):
    """An import would leave out the labels because of a typing error, or fail without saying what there is."""
    place = write(tmp_path, f"a.{suffix}")
    assert complaint(place, columns, kind).startswith(
        f"{place} has no column 'nope'. Name the right one with {option}; it has: id, body, class"
    )


@pytest.mark.parametrize(
    ("name", "values", "found"),
    [
        ("body", [1, 2], "int64, not text"),
        ("body", [["a"], ["b"]], "List, not text"),
        ("id", [1.5, 2.5], "float64, not text or integer"),
        ("class", [1.5, 2.5], "float64, not text or integer"),
        ("class", [{"a": 1}, {"a": 2}], "dict, not text or integer"),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_column_of_a_wrong_type_is_named(tmp_path, suffix, name, values, found):
    """Lists and prices would become texts and labels that nobody wrote."""
    columns = {"id": ["1", "2"], "body": ["x", "y"], name: values}
    place = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        write_file(place, **columns)
    columns = Columns(doc_id="id", text="body", label="class" if name == "class" else "label")
    assert complaint(place, columns).startswith(f"column '{name}' of {place} is {found}. Name another one with --")


def test_quotes_of_a_tsv_file_are_characters(tmp_path):
    """A review that begins with a quotation would swallow the next one, and its label with it."""
    rows = ['d1\t"Never again, she said.\tneg', 'd2\tGood film" is what I read\tpos', 'd3\t"Up" is a great film\tpos']
    (tmp_path / "a.tsv").write_text("\n".join(["doc_id\ttext\tlabel", *rows]))
    assert rows_of(tmp_path / "a.tsv", Columns()) == [tuple(row.split("\t")) for row in rows]


def test_a_quote_that_may_be_several_rows_is_refused(tmp_path):
    """A quotation over two reviews would make one of them."""
    rows = ['d1\t"Never again, she said.\tneg', 'd2\tAnd left"\tpos']
    (tmp_path / "a.tsv").write_text("\n".join(["doc_id\ttext\tlabel", *rows]))
    assert "line 3 ends a quote that holds tabs and line breaks" in complaint(tmp_path / "a.tsv", Columns())


@pytest.mark.parametrize("cell", ['"Up" is a great film', '"Never again, she said.'])
def test_quotes_of_a_csv_file_enclose_whole_cells(tmp_path, cell):
    """A quote that is not closed would make one document of all that follow."""
    (tmp_path / "a.csv").write_text(f'doc_id,text,label\nd1,good,pos\nd2,{cell},neg\nd3,"Good" film,pos\n')
    assert "a.csv cannot be imported: line " in complaint(tmp_path / "a.csv", Columns())


def test_a_column_that_a_csv_file_has_twice_is_refused(tmp_path):
    """Either of the two could be meant."""
    place = write(tmp_path, "a.csv", [("1", "x", "y")], ("id", "body", "body"))
    assert complaint(place, Columns(text="body")) == f"{place} has more than one column 'body'. Rename one of them"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.csv", b"", "has no column 'body'"),
        ("a.csv", b"id,text,class\n1,x,y\n", "has no column 'body'"),
        ("a.csv", b'id,body,class\n1,"x', "cannot be imported: "),
        (
            "a.csv",
            b"id,body,class\n1,one, two,y\n",
            "cannot be imported: CSV parse error: Row #2: Expected 3 columns, got 4",
        ),
        (
            "a.csv",
            b"id,body,class\n1,x,y\n1,x\n",
            "cannot be imported: CSV parse error: Row #3: Expected 3 columns, got 2",
        ),
        ("a.csv", b"id,body,class\n" + b"1,x,y\n" * 9_999 + b"1,caf\xe9,y\n", "cannot be imported: In CSV column"),
        ("a.csv", b"caf\xe9,body,class\n1,x,y\n", "cannot be imported: 'utf-8' codec can't decode byte 0xe9"),
        ("a.jsonl", b'{"id": "1", "body":', "cannot be imported: "),
        ("a.jsonl", b'{"id": "1", "body": "x", "class": "y"}\n' * 2000 + b"{", "cannot be imported: "),
        ("a.parquet", b"", "cannot be imported: Parquet file size is 0 bytes"),
        ("a.parquet", b"PAR1 and no more PAR1", "cannot be imported: "),
    ],
)
def test_a_damaged_file_is_named_among_sound_ones(tmp_path, name, content, problem):
    """Of a thousand files, one would be damaged, and nobody would know which."""
    suffix = name.rpartition(".")[2]
    for sound in ("0", "b"):
        write(tmp_path, f"{sound}.{suffix}")
    (tmp_path / name).write_bytes(content)
    found = complaint(tmp_path)
    assert found.startswith(f"{tmp_path / name} {problem}")
    fix = "--text-column" if problem.startswith("has") else "iconv" if b"\xe9" in content else "Mend the file"
    assert fix in found


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("lacking", ["a", "b"])
def test_a_column_that_only_some_files_have_is_not_left_out(tmp_path, suffix, lacking):
    """The labels of half of the files would be left out in silence."""
    for name in ("a", "b"):
        names = ("doc_id", "text") if name == lacking else ("doc_id", "text", "label")
        write(tmp_path, f"{name}.{suffix}", [("1", "x", "y")[: len(names)]], names)
    other = "b" if lacking == "a" else "a"
    assert complaint(tmp_path, Columns()).startswith(
        f"{tmp_path}/{lacking}.{suffix} has no column 'label', {tmp_path}/{other}.{suffix} has one"
    )


def test_json_is_read_whatever_its_first_objects_are_like(tmp_path):
    """A sound file would be refused, because a key that nobody needs comes late or changes its type."""
    rows = [{"doc_id": number, "text": f"text {number}", "score": 1} for number in range(2_500)]
    rows += [{"doc_id": "x", "text": "late", "label": True, "score": 0.5, "more": {"a": [1]}}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = rows_of(tmp_path / "a.jsonl", Columns())
    assert (len(found), found[2], found[-1]) == (2_501, ("2", "text 2", None), ("x", "late", "true"))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"doc_id": "1", "text": 5}', "column 'text' of {path} is int64, not text"),
        ('{"doc_id": 1.5, "text": "x"}', "column 'doc_id' of {path} is float64, not text or integer"),
        ('{"doc_id": "1", "text": ["x"]}', "column 'text' of {path} is List, not text"),
        ('{"doc_id": "1", "text": "x"', "{path} cannot be imported: line 2, column 28: Expecting ',' delimiter"),
        ("[1, 2]", "{path} cannot be imported: line 2 is no JSON object"),
    ],
)
def test_what_is_wrong_with_json_is_named(tmp_path, line, problem):
    """Of a million lines, nobody would know which one to mend."""
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"doc_id": null, "text": null}}\n{line}\n')
    assert complaint(path, Columns()).startswith(problem.format(path=path))


def test_a_name_that_is_not_utf8_is_named(tmp_path):
    """An import of a folder of texts would end in a traceback."""
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("x")
    except OSError:
        pytest.skip("this file system takes no such name")
    assert "'caf\\udce9.txt', a name that is not UTF-8. Rename the file" in complaint(tmp_path, Columns())


def test_a_key_that_a_json_object_leaves_out_is_null(tmp_path):
    """Objects without a label would stop the import, or take those with one along into having none."""
    write(tmp_path, "a.jsonl", [("1", "x")], ("doc_id", "text"))
    write(tmp_path, "b.jsonl", [("2", "y", "z")], ("doc_id", "text", "label"))
    (tmp_path / "c.jsonl").write_text('{"doc_id": "3", "label": "z"}\n{"text": "v"}\n')
    assert rows_of(tmp_path, Columns()) == [
        ("1", "x", None),
        ("2", "y", "z"),
        ("3", None, "z"),
        (None, "v", None),
    ]


@pytest.mark.parametrize("content", ["", "[]"])
def test_a_source_without_rows_says_so(tmp_path, content):
    """The message for an empty download would be about its columns."""
    (tmp_path / "a.json").write_text(content)
    assert complaint(tmp_path / "a.json").startswith(f"{tmp_path / 'a.json'} cannot be imported: it holds no rows")
    write(tmp_path, "b.json")
    assert rows_of(tmp_path) == ROWS


@pytest.mark.parametrize(
    ("names", "found"),
    [((), "no files"), (("a.csv", "b.json"), ".csv, .json"), (("a.csv", "b.tsv"), ".csv, .tsv"), (("a.doc",), ".doc")],
)
def test_a_folder_must_hold_one_kind_of_files(tmp_path, names, found):
    """Half of a folder would be left out."""
    for name in names:
        (tmp_path / name).touch()
    assert complaint(tmp_path).startswith(f"{tmp_path} holds {found}. Give files of one kind: .csv, ")


@pytest.mark.parametrize("name", ["nope.csv", "./nope", "/no/where", "~/no where", ""])
def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(name):
    """A mistyped path would be sent to a server."""
    assert complaint(name) == f"'{name}' does not exist. Give a file, a folder of files, or a hub name"


def test_a_hub_name_that_cannot_be_had_is_named():
    """Without network, or with a mistyped name, the message would be the hub client's traceback."""
    found = complaint("no-such/data")
    assert found.startswith("'no-such/data' is neither a file here nor to be had from the Hugging Face hub: ")
    assert "--split" in found


def test_nothing_is_left_in_a_cache(tmp_path, monkeypatch):
    """Every import would leave a second copy of the data on the disk."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    folder.mkdir()
    for suffix in ("csv", "jsonl", "parquet"):
        rows_of(write(folder, f"a.{suffix}"))
        left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
        assert left == []
    assert pq.read_table(folder / "a.parquet").num_rows == 3
