"""What a schedule does, on a real server with a real worker."""

from datetime import UTC, datetime, timedelta

import httpx

from tests.e2e.conftest import wait_for
from tests.history import commits, write_day


def test_a_cron_schedule_fires_and_labels_the_day_before(serve):
    """Every night's labels would be missing, or be those of another day."""
    site = serve(1, sqlite=True)
    yesterday = f"day={(datetime.now(UTC) - timedelta(days=1)).date()}"
    write_day(site.folder / "corpus", yesterday)
    nightly = site.get("/deployments/name/label-partition/nightly")
    assert [schedule["schedule"]["cron"] for schedule in nightly["schedules"]] == ["30 2 * * *"]
    every_minute = {"schedule": {"cron": "* * * * *", "timezone": "UTC"}, "active": True}
    made = httpx.post(f"{site.url}/api/deployments/{nightly['id']}/schedules", json=[every_minute], timeout=30)
    assert made.status_code == 201, made.text

    def fired():
        runs = site.runs(deployment_id={"any_": [nightly["id"]]})
        return [run for run in runs if run["auto_scheduled"] and run["state"]["type"] == "COMPLETED"]

    wait_for(fired, "a scheduled run to end well")
    assert commits(site.settings) == {yesterday: 1}
    assert any(artifact["type"] == "markdown" for artifact in site.artifacts())
