"""Rows that are made in steps come back as one table."""

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robert_pipeline.storage.spool import RowSpool

SCHEMA = pa.schema({"name": pa.string(), "ids": pa.list_(pa.int32()), "vector": pa.list_(pa.float16(), 2)})
rows = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
            "ids": st.lists(st.integers(0, 9), max_size=4),
            "vector": st.just([1.0, -0.5]),
        }
    ),
    max_size=5,
)


def table_of(values):
    return pa.Table.from_pylist(values, schema=SCHEMA)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rows, max_size=5))
def test_what_was_added_comes_back_in_order(tmp_path, steps):
    """A long document would lose the chunks of a window, or have them in another order."""
    spool = RowSpool(tmp_path, SCHEMA)
    for values in steps:
        spool.add(table_of(values))
    found = spool.rows()
    assert found.schema == SCHEMA
    assert found.to_pylist() == [row for values in steps for row in values]


def test_rows_are_on_disk_and_their_file_has_no_name(tmp_path):
    """A document's vectors would fill memory, or their file the disk after a crash."""
    schema = pa.schema({"vector": pa.list_(pa.float16(), 256)})
    values = pa.array([0.5] * 256 * 4_000, pa.float16())
    step = pa.Table.from_arrays([pa.FixedSizeListArray.from_arrays(values, 256)], schema=schema)
    spool, before = RowSpool(tmp_path, schema), pa.total_allocated_bytes()
    for _ in range(10):
        spool.add(step)
    found = spool.rows()
    assert pa.total_allocated_bytes() - before < step.nbytes
    assert found.nbytes == pytest.approx(10 * step.nbytes, rel=0.01)
    assert list(tmp_path.iterdir()) == []
    assert found.num_rows == 40_000
    assert found.slice(39_000, 1).to_pylist() == step.slice(0, 1).to_pylist()
