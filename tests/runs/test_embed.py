"""Embedding partitions: every row accounted for, nothing done twice."""

from dataclasses import replace

import pytest

from robert_pipeline.config import Chunking, EncoderSource
from robert_pipeline.errors import AccountingError, ConfigError, StoreError
from robert_pipeline.runs import embed as embed_run
from robert_pipeline.runs.embed import EmbedReport, embed, partition_headers
from robert_pipeline.runs.outcome import partition_outcome
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.score import load_head_for, score
from robert_pipeline.runs.train import train
from robert_pipeline.storage.store import open_store
from robert_pipeline.types import Counts, EncoderUse
from tests.projects import LABEL, LEARN, REJECTED, elsewhere


@pytest.fixture
def settings(project, tmp_path):
    """The project with an empty store, its partitions in several units."""
    empty = elsewhere(project, tmp_path)
    return replace(empty, embedding=replace(empty.embedding, unit_bytes=1_000))


def test_every_row_is_embedded_or_rejected(settings):
    """Documents would be lost on the way into the store."""
    report = embed(settings, partitions=[LABEL], run_id="r")
    assert (report.counts.documents, report.counts.embedded) == (10, 5)
    assert report.counts.rejected == len(REJECTED)
    assert report.counts.chunks >= report.counts.embedded
    assert report.embedded == report.counts
    assert report.embedded_unit_count == report.unit_count > 1


def test_a_second_run_does_nothing(settings):
    """Every night would pay for the whole history again."""
    first = embed(settings, partitions=[LABEL], run_id="one")
    second = embed(settings, partitions=[LABEL], run_id="two")
    assert second.counts == first.counts
    assert (second.embedded, second.embedded_unit_count) == (Counts(), 0)
    assert second.documents_per_second == second.tokens_per_second == 0


def test_only_what_is_missing_is_embedded(settings):
    """A run that was stopped would begin again."""
    whole = embed(settings, partitions=[LABEL], run_id="one")
    planned = plan(settings, partitions=[LABEL], run_id="two")
    store = open_store(settings.store)
    unit = planned.partitions[0].units[0]
    store.files.delete(store.embedding_path(planned.job.key, LABEL, unit.unit_id))
    again = embed(settings, partitions=[LABEL], run_id="two")
    assert again.embedded_unit_count == 1
    assert again.embedded.documents == unit.document_count
    assert again.counts == whole.counts


def test_chunks_too_long_are_refused_before_anything_is_read(settings):
    """The whole corpus would be surveyed first, and the scratch of that left in the store."""
    long = replace(settings, chunking=Chunking(chunk_tokens=5000, overlap_tokens=4))
    before = open_store(settings.store).files.list()
    with pytest.raises(ConfigError, match=r"chunk_tokens is 5000, but encoder .* reads at most 510"):
        embed(long, run_id="long")
    assert open_store(settings.store).files.list() == before


def test_rates_are_of_this_run():
    """A run that found half of its work done would report twice its speed."""
    report = EmbedReport(
        counts=Counts(documents=100, tokens=1_000),
        embedded=Counts(documents=10, tokens=200),
        unit_count=2,
        embedded_unit_count=1,
        seconds=2.0,
    )
    assert report.documents_per_second == 5
    assert report.hours_per_million_documents == pytest.approx(1e6 / 5 / 3600)


def test_a_run_says_what_its_encoder_did(settings):
    """Nobody could tell a slow machine from a slow run, nor plan for a million documents."""
    first = embed(settings, partitions=[LABEL], run_id="one")
    use, special = first.encoder_use, 2 * first.counts.chunks
    assert use.encoded_tokens >= first.counts.tokens + special
    assert use.encoded_tokens <= use.computed_tokens
    assert 0 < use.ceiling_share < 1
    assert first.encoded_tokens_per_second == use.encoded_tokens / first.seconds
    again = embed(settings, partitions=[LABEL], run_id="two")
    assert again.encoder_use == EncoderUse()
    assert again.hours_per_million_documents == 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_labels_do_not_depend_on_batches(settings, tmp_path, minilm_folder, precision):
    """A document would get another label in another corpus, or on a machine with less memory."""
    encoder = EncoderSource(name=str(minilm_folder), precision=precision)
    settings = replace(settings, encoder=encoder, model=str(tmp_path / "minilm-head"))
    embed(settings, partitions=[LEARN], run_id="learn")
    train(settings, plan(settings, partitions=[LEARN], run_id="learn"))
    given = []
    for batch_tokens in (1, 100, 4_000):
        batched = elsewhere(settings, tmp_path / str(batch_tokens))
        batched = replace(batched, embedding=replace(batched.embedding, batch_tokens=batch_tokens))
        embed(batched, run_id="label")
        planned = plan(batched, run_id="label")
        score(planned, model=batched.model)
        head = load_head_for(planned, model=batched.model)
        outcomes = [partition_outcome(planned, partition, head.fingerprint) for partition in planned.partitions]
        given.append(
            [row["labels"] for outcome in outcomes for rows in outcome.predictions() for row in rows.to_pylist()]
        )
    assert len(given[0]) == 45
    assert given[0] == given[1] == given[2]


def test_a_shard_that_is_not_there_is_named(settings):
    """A lost file would make documents disappear from the counts."""
    planned = plan(settings, partitions=[LABEL], run_id="r")
    with pytest.raises(StoreError, match=f"partition '{LABEL}' has no embedding shard .*Run `robert embed` again"):
        partition_headers(planned, planned.partitions[0])


def test_a_shard_that_lost_rows_is_named(settings, monkeypatch):
    """A worker that drops a document would publish a table without it."""
    embed(settings, partitions=[LABEL], run_id="r")
    planned = plan(settings, partitions=[LABEL], run_id="r")
    genuine = embed_run.open_shard

    def with_a_row_less(files, path):
        shard = genuine(files, path)
        counts = replace(shard.header.counts, rejected=shard.header.counts.rejected - 1)
        return replace(shard, header=replace(shard.header, counts=counts))

    monkeypatch.setattr(embed_run, "open_shard", with_a_row_less)
    with pytest.raises(AccountingError, match=r"accounts for . embedded and .* rejected of"):
        partition_headers(planned, planned.partitions[0])
