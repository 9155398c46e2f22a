"""Looking at a store: what it says it holds is what it holds."""

from pathlib import Path

import pytest

from robert_pipeline.errors import StoreError
from robert_pipeline.runs.store_inventory import list_store, store_stats
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.heads import load_head
from tests.projects import LABEL, LEARN


def test_partitions_are_listed_with_what_they_hold(scored):
    """Nobody could see what is embedded, or which head has scored it."""
    by_partition = {item.partition: item for item in list_store(scored.store)}
    assert list(by_partition) == [LEARN, LABEL]
    counts = by_partition[LABEL].counts
    assert (counts.documents, counts.embedded, counts.rejected) == (10, 5, 5)
    assert by_partition[LABEL].scored_by == (load_head(scored.model).fingerprint,)
    assert by_partition[LABEL].encoder_name == scored.encoder.name
    assert by_partition[LABEL].embedding_bytes == sum(
        path.stat().st_size for path in Path(scored.store, "embeddings").rglob("*.parquet") if LABEL in str(path)
    )


def test_statistics_add_up_by_encoder(scored):
    """Bytes per chunk and the share that was reused could not be believed."""
    report = store_stats(scored.store)
    (encoder,) = report.encoders
    assert (encoder.shard_count, encoder.counts.embedded, encoder.counts.rejected) == (2, 45, 5)
    assert encoder.reuse_rate == encoder.counts.reused / 45
    assert encoder.bytes_per_chunk == encoder.embedding_bytes / encoder.counts.chunks
    assert sum(report.bytes_of.values()) == sum(
        path.stat().st_size for path in Path(scored.store).rglob("*") if path.is_file()
    )
    assert report.unreadable == 0


def test_a_shard_that_cannot_be_read_is_counted_apart(scored):
    """One damaged shard would hide all others."""
    (path,) = [path for path in Path(scored.store, "embeddings").rglob("*.parquet") if LABEL in str(path)]
    path.write_bytes(b"")
    assert store_stats(scored.store).unreadable == 1
    assert [item.unreadable for item in list_store(scored.store)] == [0, 1]


@pytest.mark.parametrize("look", [list_store, store_stats])
def test_a_store_that_is_not_there_is_named(look, tmp_path):
    """A misspelt address would look like an empty store."""
    with pytest.raises(StoreError, match="nothing-here"):
        look(str(tmp_path / "nothing-here"))


@pytest.mark.parametrize("look", [list_store, store_stats])
def test_an_outage_is_not_counted_as_damage(look, scored, monkeypatch):
    """While a bucket is away, the user would be told to verify shards that are whole."""

    def fail(_files, _path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Files, "open", fail)
    with pytest.raises(StoreError, match=r"cannot reach .*embeddings/"):
        look(scored.store)
