"""Writers of the smaller sinks killed around their commit; Iceberg and PostgreSQL have this in their own files."""

import signal

import pytest
from published_rows import predictions

from robert_pipeline.config import Warehouse
from robert_pipeline.storage.warehouse import Commit, open_warehouse

OURS = "robert_pipeline.storage.warehouse"
PLACES = [
    ("parquet", f"before={OURS}.parquet:write_manifest", False),
    ("parquet", f"after={OURS}.parquet:write_manifest", True),
    ("delta", f"before={OURS}.delta_tables:commit_files", False),
    ("delta", f"after={OURS}.delta_tables:commit_files", True),
    ("duckdb", f"before={OURS}.duckdb_file:DuckdbSink._swap", False),
    ("duckdb", f"after={OURS}.duckdb_file:DuckdbSink._swap", False),
]


@pytest.mark.parametrize(("kind", "place", "committed"), PLACES)
def test_kill_around_the_commit(tmp_path, publisher, kind, place, committed):
    """A process killed at the worst moment would leave a table that is neither old nor new, or stays locked."""
    warehouse = Warehouse(uri=str(tmp_path / "warehouse"), sink=kind)
    sink = open_warehouse(warehouse)
    sink.replace_partition("predictions", "p", [predictions("p", 3)], "a")
    assert publisher(warehouse, "die_at", place, "p", "b").ended()[0] == -signal.SIGKILL
    assert sink.read("predictions").read_all().num_rows == (5 if committed else 3)
    assert sink.commit_keys("predictions") == {"p": "b" if committed else "a"}
    rerun = sink.replace_partition("predictions", "p", [predictions("p", 5, "killed")], "b")
    assert rerun is (Commit.ALREADY_COMMITTED if committed else Commit.COMMITTED)
    assert sink.read("predictions").read_all()["head_fingerprint"].to_pylist() == ["killed"] * 5
