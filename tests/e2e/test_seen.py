"""What a person sees in the browser, by a real one without a window."""

import shutil
import subprocess

import pytest

from tests.history import commits, days

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
RENDER_MILLISECONDS = 30_000


@pytest.fixture
def look(tmp_path):
    """Open a page; gives what it says, and leaves a screenshot behind."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium is installed (on Debian or Ubuntu: apt-get install chromium)")

    def open_page(url, name):
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1400,1600"]
        arguments += [f"--user-data-dir={tmp_path / 'browser'}", f"--virtual-time-budget={RENDER_MILLISECONDS}"]
        picture = tmp_path / f"{name}.png"
        for action in (["--dump-dom"], [f"--screenshot={picture}"]):
            done = subprocess.run(
                [browser, *arguments, *action, url], capture_output=True, text=True, timeout=240, check=True
            )
            if action == ["--dump-dom"]:
                page = done.stdout
        assert picture.stat().st_size > 10_000
        return page

    return open_page


def test_a_backfill_is_seen_and_its_form_can_be_filled(serve, look):
    """An operator would see nothing of a backfill, or have to write its parameters as JSON."""
    site = serve(1)
    priced = site.start("backfill/history", dry_run=True)
    assert site.ended(priced) == "COMPLETED"
    assert commits(site.settings) == {}
    planner = site.start("backfill/history")
    assert site.ended(planner) == "COMPLETED"
    assert commits(site.settings) == dict.fromkeys(days(1), 1)
    kinds = {artifact["type"] for artifact in site.artifacts()}
    assert kinds == {"progress", "markdown", "table"}
    (published,) = site.events("robert.partition.published")
    assert published["payload"]["partition"] == days(1)[0]

    (child,) = site.runs(tags={"all_": ["backfill"]})
    assert f"label {days(1)[0]}" in look(f"{site.url}/runs/flow-run/{child['id']}", "run")
    assert "summary-day-2026-02-01" in look(f"{site.url}/artifacts", "artifacts")
    deployment = site.get("/deployments/name/backfill/history")["id"]
    form = look(f"{site.url}/deployments/deployment/{deployment}/run", "form")
    for words in ("reprocess", "max_active", "Partitions at the same time", "budget"):
        assert words in form
