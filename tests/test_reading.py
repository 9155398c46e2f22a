"""Every example of docs/reading.md that is marked as run, against real tables in a folder of its own.

The folder holds the same rows in `warehouse` (Iceberg), `delta`, `parquet` and `warehouse.duckdb`; the environment
variable LABELS_URI names a PostgreSQL server with them. Every partition has been replaced once.
"""

import re

import pytest
from published_rows import predictions
from warehouses import serving_postgres

from robert_pipeline.config import Warehouse
from robert_pipeline.storage.warehouse import open_warehouse
from tests.examples import ROOT, blocks, offline_environment, run_marked

READING = ROOT / "docs" / "reading.md"
COUNTS = {"sport": 5, "tech": 3}


@pytest.fixture(scope="module")
def server():
    with serving_postgres() as address:
        yield address


def publish(warehouse):
    """Two days, the first of them replaced: rows that were wrong must not be read."""
    sink = open_warehouse(warehouse)
    sink.replace_partition("predictions", "day=2026-01-01", [predictions("day=2026-01-01", 9, label="wrong")], "a")
    for day, (sport, tech) in {"day=2026-01-01": (3, 2), "day=2026-01-02": (2, 1)}.items():
        rows = [predictions(day, sport), predictions(day, tech, first=sport, label="tech", labels=["tech"])]
        sink.replace_partition("predictions", day, rows, "b")


def test_every_reader_counts_the_same(tmp_path, server):
    """An analyst who pastes an example would see an error, or other rows than the table has."""
    folder = tmp_path / "examples"
    folder.mkdir()
    for sink, name in {
        "iceberg": "warehouse",
        "delta": "delta",
        "parquet": "parquet",
        "duckdb": "warehouse.duckdb",
    }.items():
        publish(Warehouse(uri=str(folder / name), sink=sink))
    publish(Warehouse(uri=server, sink="postgres"))
    environment = offline_environment(tmp_path / "bin") | {"LABELS_URI": server}
    marked = [block for block in blocks(READING.read_text()) if block.runs]
    printed = run_marked(marked, document="docs/reading.md", folder=folder, environment=environment)
    assert len(printed) == len(marked)
    for block, text in zip(marked, printed, strict=True):
        if block.language == "python":
            counted = [line for line in text.splitlines() if line.startswith("{")]
            assert len(counted) == block.code.count("print("), text
            assert set(counted) == {str(COUNTS)}, f"docs/reading.md:{block.line}"
    assert "│ sport │ 5         │" in printed[0]


def test_what_is_not_run_says_so():
    """A reader would take an example on trust that nobody has ever run."""
    text = READING.read_text()
    for block in blocks(text):
        if not block.runs:
            before = "\n".join(text.splitlines()[: block.line - 2])
            paragraph = before.rstrip().split("\n\n")[-1]
            assert re.search(r"[Nn]ot\s+run\s+by\s+us", paragraph), f"docs/reading.md:{block.line}"
