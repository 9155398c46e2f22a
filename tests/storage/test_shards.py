"""Embedding shards: what is written is read, what is damaged is found and named."""

import contextlib
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import write_shard

from robert_pipeline.errors import StoreError
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.shards import ShardHeader, open_shard
from robert_pipeline.storage.store import open_store
from robert_pipeline.types import Counts

FLIPS = 200


def rows_of(folder, path):
    return pa.concat_tables([table.rows for table in open_shard(Files(str(folder)), path).batches()])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_documents_come_back_whole_and_in_order(address, dtype):
    """Vectors would be given to other documents, or lose precision they had."""
    path = write_shard(address, dtype=dtype, documents=7, groups=3)
    shard = open_shard(Files(address), path)
    assert shard.header.counts == Counts(documents=7, embedded=7, chunks=21, tokens=210)
    tables = list(shard.batches())
    assert [table.lengths_B.tolist() for table in tables] == [[3, 3, 3], [3, 3], [3, 3]]
    assert [table.first_rows.tolist() for table in tables] == [[0, 3, 6], [0, 3], [0, 3]]
    vectors = np.concatenate([table.vectors_ND for table in tables])
    rng = np.random.default_rng(0)
    written = np.concatenate([rng.normal(size=(len(table.vectors_ND), 8)).astype(np.float32) for table in tables])
    assert vectors.dtype == dtype
    assert (vectors == written.astype(dtype)).all()
    ids = [row["doc_id"] for table in tables for row in table.rows.to_pylist()]
    assert ids == [f"d{number}" for number in range(7) for _ in range(3)]


def test_a_shard_without_documents_can_be_read(tmp_path):
    """A unit of which every row is rejected could not be scored or published."""
    path = write_shard(tmp_path, documents=0, groups=1)
    (table,) = open_shard(Files(str(tmp_path)), path).batches()
    assert (table.rows.num_rows, table.lengths_B.tolist(), table.vectors_ND.shape) == (0, [], (0, 8))


def test_vectors_are_byte_stream_split_and_compressed(tmp_path):
    """Shards would be a sixth larger."""
    path = write_shard(tmp_path)
    column = pq.ParquetFile(tmp_path / path).metadata.row_group(0).column(9)
    assert (column.path_in_schema, column.compression) == ("vector.list.element", "ZSTD")
    assert "BYTE_STREAM_SPLIT" in column.encodings


headers = st.builds(
    ShardHeader,
    encoder_fingerprint=st.text(max_size=5),
    chunking_fingerprint=st.text(max_size=5),
    partition=st.text(max_size=20),
    unit_id=st.text(max_size=5),
    counts=st.builds(Counts, documents=st.integers(0, 2**40), tokens=st.integers(0, 2**60)),
    dimension=st.integers(1, 5000),
    vector_dtype=st.sampled_from(["float16", "float32"]),
    run_id=st.text(max_size=5),
    embed_seconds=st.floats(0, 1e9),
    encoder_name=st.text(max_size=20),
    source_fingerprint=st.text(max_size=5),
)


@given(headers, st.data())
def test_a_header_comes_back_as_it_was_or_is_refused(header, data):
    """A flipped digit would change the counts that a run reports."""
    text = header.to_json()
    assert ShardHeader.from_json(text) == header
    flipped = bytearray(text)
    bit = data.draw(st.integers(0, 8 * len(text) - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(ValueError, KeyError, TypeError):
        assert ShardHeader.from_json(bytes(flipped)) == header  # \u001f and \u001F are the same character


def test_one_flipped_bit_in_each_of_200_files_is_found_or_harmless(tmp_path):
    """A bit flipped on disk would become a label."""
    path = write_shard(tmp_path, documents=40, groups=3)
    whole = (tmp_path / path).read_bytes()
    header, rows = open_shard(Files(str(tmp_path)), path).header, rows_of(tmp_path, path)
    shuffled = random.Random(6)  # noqa: S311 - not for secrets
    messages = []
    for _ in range(FLIPS):
        flipped = bytearray(whole)
        bit = shuffled.randrange(8 * len(whole))
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / path).write_bytes(flipped)
        try:
            # What is read without the rest, for counting, must be right too.
            assert open_shard(Files(str(tmp_path)), path).header == header
            assert rows_of(tmp_path, path).equals(rows)
        except StoreError as error:
            messages.append(str(error))
    assert len(messages) == FLIPS
    assert all(path in message and "\n" not in message for message in messages)


def foreign(place):
    pq.write_table(pa.table({"a": [1, 2, 3]}), place)


def other_contract(place):
    rows = pq.ParquetFile(place).read()
    metadata = pq.ParquetFile(place).metadata.metadata
    with pq.ParquetWriter(place, rows.drop_columns(["char_end"]).schema) as writer:
        writer.write_table(rows.drop_columns(["char_end"]))
        writer.add_key_value_metadata({"robert.shard": metadata[b"robert.shard"]})


def fewer_rows(place):
    file = pq.ParquetFile(place)
    rows = file.read()
    with pq.ParquetWriter(place, rows.schema) as writer:
        writer.write_table(rows.slice(0, 5))
        writer.add_key_value_metadata({"robert.shard": file.metadata.metadata[b"robert.shard"]})


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda place: place.write_bytes(b""), "is damaged"),
        (lambda place: place.write_bytes(place.read_bytes()[:-1]), "is damaged"),
        (lambda place: place.write_bytes(place.read_bytes()[: place.stat().st_size // 2]), "is damaged"),
        (lambda place: place.write_bytes(b"hello" * 100), "is damaged"),
        (foreign, "is not an embedding shard of robert_pipeline"),
        (other_contract, "field 'char_end' of contract embeddings v1 is missing"),
        (fewer_rows, "it has 5 rows, its header says 18"),
    ],
    ids=["empty", "a byte short", "half", "text", "foreign", "contract", "rows"],
)
def test_a_file_that_is_no_shard_is_named(tmp_path, damage, problem):
    """A torn or foreign file would be scored, or stop a run without saying which file it is."""
    path = write_shard(tmp_path)
    damage(tmp_path / path)
    with pytest.raises(StoreError, match=problem) as caught:
        list(open_shard(Files(str(tmp_path)), path).batches())
    assert path in str(caught.value)
    assert "robert store verify" in caught.value.fix


def test_a_shard_of_another_encoder_partition_or_unit_under_the_right_name_is_refused(tmp_path):
    """A copy gone wrong would give documents the vectors of another encoder, or of other documents."""
    files = Files(str(tmp_path))
    path = write_shard(tmp_path)
    whole = files.read_bytes(path)
    for name in (
        path.replace("e" * 16, "f" * 16),
        path.replace("c" * 16, "f" * 16),
        path.replace("float16", "float32"),
        path.replace("/p/", "/q/"),
        path.replace("u" * 16, "v" * 16),
    ):
        files.write_bytes(name, whole)
        with pytest.raises(StoreError, match=f"{name} is damaged: it was written as {path}"):
            open_shard(files, name)


def test_a_shard_that_is_not_there_says_what_to_run(tmp_path):
    """The user would not know that embedding comes first."""
    with pytest.raises(StoreError, match=r"nothing\.parquet does not exist\. Run `robert embed`"):
        open_shard(Files(str(tmp_path)), "nothing.parquet")


def test_a_shard_that_goes_while_it_is_open_says_so(tmp_path):
    """A clean-up during a run would show a traceback."""
    path = write_shard(tmp_path)
    shard = open_shard(Files(str(tmp_path)), path)
    (tmp_path / path).unlink()
    with pytest.raises(StoreError, match="does not exist"):
        next(shard.batches())


def test_a_header_knows_its_path_and_key(tmp_path):
    """Headers and names could drift apart."""
    path = write_shard(tmp_path, partition="a/b c~")
    header = open_shard(Files(str(tmp_path)), path).header
    assert header.path == path
    assert path == open_store(str(tmp_path)).embedding_path(header.key, "a/b c~", header.unit_id)
