"""What is particular to Delta tables."""

from published_rows import predictions

from robert_pipeline.config import Warehouse
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.warehouse import open_warehouse
from robert_pipeline.storage.warehouse.sink import Commit


def test_a_table_that_another_process_makes_at_that_moment_is_nobody_else_s(tmp_path, monkeypatch):
    """Two first publications at once: the second would take the first one's log for somebody else's files."""
    config = Warehouse(sink="delta", uri=str(tmp_path))
    assert open_warehouse(config).replace_partition("predictions", "p", [predictions("p", 3)], "a") is Commit.COMMITTED
    really, asked = Files.list, []

    def too_early(files, folder="", **others):
        asked.append(folder)
        return [] if asked == ["_delta_log"] else really(files, folder, **others)

    monkeypatch.setattr(Files, "list", too_early)
    assert open_warehouse(config).replace_partition("predictions", "p", [predictions("p", 3)], "b") is Commit.COMMITTED
    assert asked[0] == "_delta_log"
