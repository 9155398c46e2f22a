"""What runs left behind."""

from robert_pipeline.storage.files import Files
from robert_pipeline.storage.run_records import find_record, tokens_since, write_crash


def test_a_record_that_cannot_be_read_stops_nobody(tmp_path, monkeypatch):
    """A price could not be named, nor a backfill go on, for want of a permission on one small file."""
    store = str(tmp_path)
    write_crash(store, "p", "run", "killed")
    assert find_record(store, "p", "run").error == "killed"

    def refuse(_files, _path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Files, "open", refuse)
    assert find_record(store, "p", "run") is None
    assert tokens_since(store, ["p"], 0) == 0
