"""The flow of one partition, on a real server: what it publishes, shows and refuses."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from robert_pipeline.errors import BoundsError, CorpusError, WarehouseError
from robert_pipeline.runs.query import query
from tests.e2e.conftest import write_settings
from tests.history import commits
from tests.projects import LABEL, elsewhere


@pytest.fixture
def settings(project, tmp_path, prefect):
    """The project with an empty store and an empty warehouse, also as robert.toml."""
    settings = replace(elsewhere(project, tmp_path), registry=str(tmp_path / "models"))
    write_settings(settings, tmp_path / "robert.toml")
    return settings


def artifacts():
    """Newest last, by kind."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return {artifact.type: artifact for artifact in sorted(client.read_artifacts(), key=lambda made: made.created)}


def test_a_partition_is_published_once_and_shown(settings, tmp_path):
    """A night's run would not label its day, do it twice, or show nothing of it."""
    from flows.partition import label_partition

    (tmp_path / "robert.toml").write_text((tmp_path / "robert.toml").read_text().replace("= 0.5", "= 0.4"))
    with pytest.raises(BoundsError, match="5 of 10 documents rejected"):
        label_partition(str(tmp_path / "robert.toml"), LABEL)
    assert commits(settings) == {}
    for _ in range(2):
        label_partition(str(tmp_path / "robert.toml"), LABEL, force=True)
    assert commits(settings) == {LABEL: 1}
    assert query(settings.warehouse, "SELECT count(*) AS n FROM predictions").to_pylist() == [{"n": 5}]
    shown = artifacts()
    assert shown["progress"].data == 100
    assert "| rejected | 5 (50.0%) |" in shown["markdown"].data


def test_a_day_that_is_not_there_is_an_error(settings, tmp_path):
    """A corpus that comes late would look like a night without documents."""
    from flows.partition import label_partition

    with pytest.raises(CorpusError, match="has no partition 'day="):
        label_partition(str(tmp_path / "robert.toml"))


def test_the_day_before_is_a_day_of_utc(settings):
    """On the nights when a country moves its clocks, a day would be left out or labelled twice."""
    from flows.partition import day_before

    summer = timezone(timedelta(hours=2))
    assert day_before(settings, datetime(2026, 3, 29, 2, 30, tzinfo=UTC)) == "day=2026-03-28"
    assert day_before(settings, datetime(2026, 3, 30, 0, 30, tzinfo=summer)) == "day=2026-03-28"


@pytest.mark.parametrize("name", ["label_partition", "backfill"])
def test_every_parameter_of_a_form_says_what_it_is(name):
    """Somebody who fills the form in the UI would have to guess."""
    from prefect.utilities.callables import parameter_schema

    from flows import backfill, partition

    flow = getattr(partition if name == "label_partition" else backfill, name)
    for parameter in parameter_schema(flow.fn).properties.values():
        assert parameter["description"]


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (WarehouseError("out of reach", transient=True), True),
        (WarehouseError("another table", fix="Drop it"), False),
        (OSError("no route"), True),
    ],
)
def test_what_may_go_away_is_tried_again(error, again):
    """A night would fail over a database that restarts, or try three times what only a person can mend."""
    import asyncio

    from prefect.states import exception_to_failed_state

    from flows.retries import is_transient

    async def asked():
        return await is_transient(None, None, await exception_to_failed_state(error))

    assert asyncio.run(asked()) is again
