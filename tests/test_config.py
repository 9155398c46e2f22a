"""Configuration values: checked when made, with fingerprints that tell different ones apart."""

import dataclasses
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robert_pipeline.config import Chunking, Columns, Embedding, fingerprint, text_hash
from robert_pipeline.errors import ConfigError, CorpusError, RobertError, first_line
from robert_pipeline.types import Counts, RowRange, WorkUnit

RANGE = RowRange(file="a.parquet", revision="1-2", row_group=0, first_row=0, row_count=3, first_file_row=0)
UNIT = WorkUnit(partition="day=1", ranges=(RANGE,), duplicate_rows=(("a.parquet", 2),), text_bytes=100)


def test_fingerprints_are_what_stores_out_there_hold():
    """Every shard ever written would be embedded again."""
    assert fingerprint("kind", {"a": 1, "b": None, "c": ["é", 1.5]}) == "643c560cb70204e4"
    assert Chunking().fingerprint == "61061b999756c33e"
    assert UNIT.unit_id == "1f0012c1284a1a1e"
    assert text_hash("é".encode()) == "4a99557e4033c3539de2eb65472017cad5f9557f7a0625a09f1c3f6e2ba69c4c"


chunkings = st.integers(1, 512).flatmap(
    lambda tokens: st.builds(
        Chunking,
        chunk_tokens=st.just(tokens),
        overlap_tokens=st.integers(0, tokens - 1),
        max_chunks=st.none() | st.integers(1, 100),
    )
)


@given(chunkings, chunkings)
def test_chunkings_share_a_fingerprint_only_when_equal(one, other):
    """Vectors of one way of cutting would be taken for another's."""
    assert (one.fingerprint == other.fingerprint) == (one == other)


values = st.dictionaries(
    st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.text(max_size=3))
)


@given(st.text(max_size=3), values, st.text(max_size=3), values)
def test_fingerprints_depend_on_kind_and_values_not_on_order(kind, one, other_kind, other):
    """Two configurations would share what was stored for one of them, or one would not find its own."""
    assert fingerprint(kind, one) == fingerprint(kind, dict(reversed(one.items())))
    same = kind == other_kind and repr(sorted(one.items())) == repr(sorted(other.items()))
    assert (fingerprint(kind, one) == fingerprint(other_kind, other)) == same


@pytest.mark.parametrize(
    "change",
    [
        {"file": "b.parquet"},
        {"revision": "1-3"},
        {"row_group": 1},
        {"first_row": 1},
        {"row_count": 4},
        {"first_file_row": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_unit_of_other_rows_has_another_id(change):
    """A changed corpus would find the old shard and keep its old vectors."""
    assert dataclasses.replace(UNIT, ranges=(dataclasses.replace(RANGE, **change),)).unit_id != UNIT.unit_id


def test_partition_and_duplicates_decide_a_unit_s_id_and_its_size_does_not():
    """A row that became a duplicate would keep its place among the labelled."""
    assert dataclasses.replace(UNIT, partition="day=2").unit_id != UNIT.unit_id
    assert dataclasses.replace(UNIT, duplicate_rows=()).unit_id != UNIT.unit_id
    assert dataclasses.replace(UNIT, text_bytes=1).unit_id == UNIT.unit_id


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Chunking(chunk_tokens=0), "chunking.chunk_tokens is 0"),
        (lambda: Chunking(chunk_tokens=10, overlap_tokens=10), "chunking.overlap_tokens is 10"),
        (lambda: Chunking(overlap_tokens=-1), "chunking.overlap_tokens is -1"),
        (lambda: Chunking(max_chunks=0), "chunking.max_chunks is 0"),
        (lambda: Columns(text=""), "columns.text is empty"),
        (lambda: Columns(doc_id="text"), "columns.doc_id and columns.text are both 'text'"),
        (lambda: Embedding(unit_bytes=0), "embedding.unit_bytes is 0"),
        (lambda: Embedding(block_bytes=-1), "embedding.block_bytes is -1"),
        (lambda: Embedding(batch_tokens=0), "embedding.batch_tokens is 0"),
    ],
)
def test_an_impossible_value_is_named(make, field):
    """A run would start with values that cannot work, and fail far from the cause."""
    with pytest.raises(ConfigError) as raised:
        make()
    assert str(raised.value).startswith(field)
    assert raised.value.fix


def test_counts_add_up_field_by_field():
    """The report of a run would mix up its numbers."""
    one = Counts(documents=1, embedded=2, rejected=3, chunks=4, tokens=5)
    assert one + one == Counts(documents=2, embedded=4, rejected=6, chunks=8, tokens=10)
    assert one + Counts() == one


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one.\ntwo"), "one"),
        (ValueError("  \n one \n"), "one"),
        (OSError(2, "No such file", "a"), "[Errno 2] No such file: 'a'"),
        (MemoryError(), "MemoryError"),
        (ValueError("."), "ValueError"),
    ],
    ids=str,
)
def test_another_library_s_error_becomes_one_line(error, line):
    """A message to the user would run over many lines, or say nothing."""
    assert first_line(error) == line


@pytest.mark.parametrize("kind", [RobertError, *RobertError.__subclasses__()])
def test_an_error_survives_the_way_between_processes(kind):
    """A worker's error would reach the user as a traceback of the pickling."""
    error = pickle.loads(pickle.dumps(kind("file x is bad", fix="Mend it")))  # noqa: S301
    assert type(error) is kind
    assert (str(error), error.problem, error.fix) == ("file x is bad. Mend it", "file x is bad", "Mend it")
    assert str(CorpusError("no fix known")) == "no fix known"


def test_importing_the_values_is_cheap():
    """`robert --help` would wait for torch."""
    heavy = "{'torch', 'transformers', 'apache_beam', 'prefect', 'datasets', 'pyarrow', 'numpy'}"
    code = f"import sys, robert_pipeline.config, robert_pipeline.types; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
