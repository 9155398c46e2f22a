"""Large documents and files of a corpus: found without reading the others, and read in little memory."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robert_pipeline.errors import CorpusError
from robert_pipeline.storage.corpus import open_corpus
from tests.corpora import COLUMNS, read_corpus, write_file, write_texts

ROOT = Path(__file__).resolve().parents[2]

READ_ALL = """
import resource, sys
from robert_pipeline.config import Columns
from robert_pipeline.core.plan import plan_units
from robert_pipeline.storage.corpus import open_corpus
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
corpus = open_corpus(sys.argv[1], Columns())
(unit,) = plan_units("all", corpus.fragments("all"), unit_bytes=8 << 20)
before, characters = peak(), 0
for row in corpus.read(unit):
    characters += len(row.text)
print(characters, peak() - before)
"""


def test_a_small_file_that_holds_much_is_read_in_little_memory(tmp_path):
    """A file of some kilobytes could bring a worker down: this one holds half a gigabyte."""
    count, text = 500, "word " * 200_000
    schema = pa.schema({"doc_id": pa.int32(), "text": pa.dictionary(pa.int32(), pa.string())})
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([text]))
    pq.write_table(pa.table([pa.array(range(count), pa.int32()), texts], schema=schema), tmp_path / "a.parquet")
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    characters, megabytes = map(int, done.stdout.split())
    assert (tmp_path / "a.parquet").stat().st_size < 200_000
    assert characters == count * len(text)
    assert megabytes < 250


def large_rows(folder, *, above_bytes):
    corpus = open_corpus(str(folder), COLUMNS)
    return [
        (fragment.file, number, *place)
        for fragment in corpus.find_large(corpus.fragments("all"), above_bytes=above_bytes)
        for number, group in enumerate(fragment.row_groups)
        for place in group.large_documents
    ]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_binary(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_large_documents_are_found_by_their_bytes(tmp_path, kind):
    """A document of three bytes a character would be thought small, and one behind a null row be another one."""
    texts = ["é" * 300, None, "a" * 500, "日" * 300, "a" * 900, *["b"] * 90, "c" * 901]
    values = pa.array(texts).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(texts).cast(kind)
    write_file(tmp_path / "a.parquet", doc_id=[str(i) for i in range(96)], text=values, row_group_rows=80)
    write_file(tmp_path / "b.parquet", doc_id=["x", "y"], text=["a" * 300, "a" * 700])
    found = [(file, group, row) for file, group, row, _ in large_rows(tmp_path, above_bytes=600)]
    assert found == [("a.parquet", 0, 3), ("a.parquet", 0, 4), ("a.parquet", 1, 15), ("b.parquet", 0, 1)]
    assert [size for *_, size in large_rows(tmp_path, above_bytes=600)] == [900, 900, 901, 700]


def test_texts_of_small_row_groups_are_not_read_to_plan(tmp_path):
    """Planning would read the whole corpus, where footers say that no document can be large."""
    place = write_texts(tmp_path / "a.parquet", ["x" * 50] * 40 + ["y" * 1_000], row_group_rows=40)
    file = pq.ParquetFile(place)
    column = file.metadata.row_group(0).column(1)
    content = bytearray(place.read_bytes())
    content[column.dictionary_page_offset + 30] ^= 1  # found by whoever reads it
    place.write_bytes(content)
    with pytest.raises(CorpusError, match="is damaged"):
        read_corpus(tmp_path)
    assert large_rows(tmp_path, above_bytes=900) == [("a.parquet", 1, 0, 1_000)]


def test_documents_before_the_one_that_is_wanted_are_not_kept(tmp_path):
    """The unit of one large document would hold its neighbours in memory: 12 of 20 MB here."""
    text = "word " * 4_000_000
    write_texts(tmp_path / "a.parquet", [text + str(number) for number in range(12)])
    program = READ_ALL.replace("(unit,) = plan", "*_, unit = plan").replace(
        'corpus.fragments("all")', 'corpus.find_large(corpus.fragments("all"), above_bytes=8 << 20)'
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    characters, megabytes = map(int, done.stdout.split())
    assert characters == len(text) + 2
    assert megabytes < 200
