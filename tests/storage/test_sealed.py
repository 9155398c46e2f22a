"""Parquet files under a seal."""

import collections
import random
import struct

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robert_pipeline.storage.files import Files
from robert_pipeline.storage.sealed import SealedWriter, SealError, open_sealed

ROWS = pa.table({"name": ["a", "b", "c"] * 50, "value": [float(i) for i in range(150)]})


def write(folder, name="f.parquet", rows=ROWS):
    with Files(str(folder)).writing(name) as place, SealedWriter(place, rows.schema, name=name) as writer:
        writer.write_table(rows, row_group_size=70)
    return (folder / name).read_bytes()


def read(folder, name="f.parquet", content=None):
    if content is not None:
        (folder / name).write_bytes(content)
    return open_sealed(Files(str(folder)), name).read()


def test_rows_come_back(tmp_path):
    """Nothing that is sealed could be read."""
    write(tmp_path)
    assert read(tmp_path).equals(ROWS)


def test_other_readers_take_it_for_parquet(tmp_path):
    """An analyst could not open a shard with DuckDB or pandas."""
    write(tmp_path)
    assert pq.read_table(tmp_path / "f.parquet", page_checksum_verification=True).equals(ROWS)


def test_a_flipped_bit_in_any_byte_is_found(tmp_path):
    """A bit flipped on disk would become a vector, a label or a count."""
    whole = write(tmp_path, rows=ROWS.slice(0, 3))
    for byte in range(len(whole)):
        flipped = bytearray(whole)
        flipped[byte] ^= 1 << byte % 8
        with pytest.raises((SealError, pa.ArrowException, OSError)):
            read(tmp_path, content=bytes(flipped))


@given(st.data())
def test_any_damage_is_found(tmp_path_factory, data):
    """A torn, shifted or overwritten file would be read as rows."""
    folder = tmp_path_factory.mktemp("sealed")
    whole = write(folder)
    at = data.draw(st.integers(0, len(whole)))
    damaged = data.draw(
        st.one_of(
            st.just(whole[:at]),
            st.binary(min_size=1, max_size=9).map(lambda new: whole[:at] + new + whole[at + len(new) :]),
            st.binary(min_size=1, max_size=9).map(lambda new: whole[:at] + new + whole[at:]),
            st.just(whole[at:] + whole[:at]),
            st.binary(max_size=50),
        )
    )
    if damaged != whole:
        with pytest.raises((SealError, pa.ArrowException, OSError)):
            read(folder, content=damaged)


def test_an_unsealed_file_is_refused(tmp_path):
    """A file that some other program has written would be trusted."""
    pq.write_table(ROWS, tmp_path / "f.parquet")
    with pytest.raises(SealError, match="no seal"):
        read(tmp_path)


def test_a_file_under_another_name_is_refused(tmp_path):
    """Rows of one unit, copied over those of another, would be published as its own."""
    content = write(tmp_path)
    with pytest.raises(SealError, match=r"written as f\.parquet"):
        read(tmp_path, "g.parquet", content)


def test_a_block_that_fails_seals_nothing(tmp_path):
    """Half of the rows would be taken for all of them."""
    place = tmp_path / "f.parquet"
    with pytest.raises(KeyError), SealedWriter(place, ROWS.schema, name="f.parquet") as writer:  # noqa: PT012 - the block
        writer.write_table(ROWS)
        raise KeyError
    with pytest.raises(SealError, match="no seal"):
        read(tmp_path)


def test_damage_outside_of_pages_is_what_page_checksums_do_not_see(tmp_path):
    """The seal would be a burden without a use: Parquet's own checksums would find all that it finds."""
    whole = write(tmp_path)
    footer = len(whole) - 8 - struct.unpack("<I", whole[-8:-4])[0]
    outcomes = collections.Counter()
    shuffled = random.Random(0)  # noqa: S311 - not for secrets
    for _ in range(400):
        bit = shuffled.randrange(8 * footer, 8 * (len(whole) - 8))
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / "f.parquet").write_bytes(flipped)
        try:
            pq.read_table(tmp_path / "f.parquet", page_checksum_verification=True)
            outcomes["unseen"] += 1
        except (pa.ArrowException, OSError, UnicodeDecodeError):
            outcomes["seen"] += 1
    assert outcomes["unseen"] > 20
