"""The child runs of a backfill: what becomes of a partition whose ledger nobody can read."""

import asyncio
from types import SimpleNamespace

import pytest

from robert_pipeline.errors import WarehouseError


@pytest.mark.parametrize(
    ("error", "comes_back", "ending"),
    [
        (WarehouseError("the database restarts", transient=True), True, "published"),
        (WarehouseError("the database restarts", transient=True), False, "unknown"),
        (WarehouseError("another table", fix="Drop it"), True, "unknown"),
    ],
)
def test_a_ledger_out_of_reach_is_of_one_partition(monkeypatch, error, comes_back, ending):
    """A database that restarts while one run ends would fail the backfill, and leave the rest of history undone."""
    from prefect.states import Completed

    from flows import children

    asked = []

    async def started(*_arguments, **_named):
        return SimpleNamespace(id="1", name="label day", state=None, tags=[])

    async def ended(_run_id):
        return SimpleNamespace(id="1", name="label day", state=Completed(), tags=[])

    def is_published(*_arguments, **_named):
        asked.append(1)
        if comes_back and len(asked) > 2:
            return True
        raise error

    monkeypatch.setattr(children, "_start", started)
    monkeypatch.setattr(children, "_ended", ended)
    monkeypatch.setattr(children, "is_published", is_published)
    monkeypatch.setattr(children, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(children, "SERVER_PATIENCE_SECONDS", 30.0 if comes_back else 0.1)
    fact = SimpleNamespace(partition="day=1", current_key="key")
    child = asyncio.run(children.run_child(None, fact, {}, tag="t"))
    assert (child.partition, child.ending, child.error) == (
        "day=1",
        ending,
        "" if ending == "published" else str(error),
    )
    assert (len(asked) > 2) == error.transient
