"""Two runs on the same partitions at the same time."""

from dataclasses import replace

from robert_pipeline.config import Embedding
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.store_verify import verify_store
from robert_pipeline.storage.store import open_store
from tests.chaos.kill_loop import Run, processes, published, shards
from tests.projects import LABEL, LEARN, elsewhere


def test_two_runs_at_once_give_one_result(project, tmp_path):
    """A schedule that overlaps with a run by hand would write documents twice, or mix two shards in one."""
    processes.set_forkserver_preload(["tests.chaos.work"])
    units = Embedding(unit_bytes=700)
    alone = replace(elsewhere(project, tmp_path / "alone"), embedding=units)
    together = replace(elsewhere(project, tmp_path / "together"), embedding=units)
    runs = [Run(together), Run(together)]
    for run in [*runs, Run(alone)]:
        run.finish()
    assert published(together) == published(alone)
    assert {place for _, place in published(together)} == {LEARN, LABEL}
    assert shards(together) == shards(alone)
    assert len(shards(together)) > 6
    assert open_store(together.store).files.list_temporary() == []
    assert verify_store(together, check_only=True, run_id="check").findings == ()
    assert plan(together, run_id="r").missing == []
