"""Embedding a unit: every document accounted for, every text encoded once, what is on disk whole."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from corpora import SMALL_CHUNKS, shard_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import (
    counting_encoder,
    embed_missing,
    hash_of,
    job_of,
    missing_units,
    settings_of,
    stored,
    units_of,
    write_partition,
)

from robert_pipeline.config import Embedding
from robert_pipeline.core.chunk import cut
from robert_pipeline.core.embed import WINDOW_CHUNKS, embed_texts
from robert_pipeline.errors import ConfigError
from robert_pipeline.stages.at_once import StoppedError
from robert_pipeline.stages.embedding import embed_unit
from robert_pipeline.stages.progress import listening
from robert_pipeline.storage.content_index import refresh_index
from robert_pipeline.storage.shards import open_shard
from robert_pipeline.storage.store import open_store
from robert_pipeline.types import Counts

ROOT = Path(__file__).parents[2]
ONE_UNIT = Embedding()


def text(number, words=12):
    return " ".join(f"word{number} says {i}" for i in range(words // 2 + number % 7))


@pytest.fixture
def encoder(tiny):
    return counting_encoder(tiny.tokenizer)


@pytest.fixture
def corpus(tmp_path):
    return tmp_path / "corpus"


def chunks_of(encoder, texts):
    """Chunks that encoding these texts takes."""
    return len(cut(encoder.tokenizer(list(texts)).token_counts_B, SMALL_CHUNKS)) if texts else 0


def test_every_document_is_embedded_or_rejected_in_corpus_order(corpus, tmp_path, encoder):
    """Documents would be lost between the corpus and the store."""
    write_partition(corpus, "day=1", [text(0), None, text(1), "  ", "\x00", text(2)])
    given_settings = settings_of(corpus, tmp_path / "store")
    counts = embed_missing(given_settings, encoder)
    documents, rejected = stored(given_settings, encoder)
    assert list(documents) == [("day=1", name) for name in ("d0", "d2", "d5")]
    assert [documents["day=1", f"d{i}"][0] for i in (0, 2, 5)] == [hash_of(text(n)) for n in range(3)]
    assert rejected == {
        ("day=1", 1, "day=1/part-0.parquet"): "null_text",
        ("day=1", 3, "day=1/part-0.parquet"): "empty_text",
        ("day=1", 4, "day=1/part-0.parquet"): "no_tokens",
    }
    assert (counts.documents, counts.embedded, counts.rejected, counts.reused) == (6, 3, 3, 0)


def test_a_text_is_encoded_once_wherever_it_is(corpus, tmp_path, encoder):
    """Duplicates inside a run, in one unit or in several, would each be paid for."""
    texts = [text(n % 9) for n in range(40)]
    write_partition(corpus, "day=1", texts)
    write_partition(corpus, "day=2", texts[::-1], ids=[f"e{n}" for n in range(40)])
    given_settings = settings_of(corpus, tmp_path / "store")
    assert len(units_of(given_settings)) > 5
    counts = embed_missing(given_settings, encoder)
    assert encoder.encoder.sequences == chunks_of(encoder, set(texts))
    assert (counts.embedded, counts.encoded, counts.reused) == (80, 9, 71)
    assert counts.encoded_tokens == sum(len(encoder.tokenizer([t]).token_ids) for t in set(texts))
    documents, _ = stored(given_settings, encoder)
    alone = counting_encoder(encoder.tokenizer)
    fresh = settings_of(corpus, tmp_path / "other")
    for unit in units_of(fresh):  # without survey and index
        embed_unit(unit, job_of(fresh, alone), alone)
    assert documents == stored(fresh, alone)[0]


def test_duplicates_in_one_block_are_encoded_once_without_a_survey(corpus, tmp_path, encoder):
    """A unit embedded by itself would pay for each copy."""
    write_partition(corpus, "day=1", [text(1), text(2), text(1), text(1)])
    given_settings = settings_of(corpus, tmp_path / "store", embedding=ONE_UNIT)
    (unit,) = units_of(given_settings)
    counts = embed_unit(unit, job_of(given_settings, encoder), encoder)
    assert (counts.embedded, counts.encoded) == (4, 2)
    assert encoder.encoder.sequences == chunks_of(encoder, {text(1), text(2)})


def test_known_texts_are_copied_under_another_id_in_another_partition(corpus, tmp_path, encoder):
    """A document that moved, or came again, would be embedded again."""
    write_partition(corpus, "day=1", [text(n) for n in range(10)])
    given_settings = settings_of(corpus, tmp_path / "store")
    embed_missing(given_settings, encoder)
    spent = encoder.encoder.sequences
    write_partition(corpus, "day=2", [text(n) for n in (3, 20, 7)], ids=["x", "y", "z"])
    counts = embed_missing(given_settings, encoder, run_id="second")
    assert encoder.encoder.sequences - spent == chunks_of(encoder, [text(20)])
    assert (counts.embedded, counts.encoded, counts.reused) == (3, 1, 2)
    documents, _ = stored(given_settings, encoder)
    assert documents["day=2", "x"] == documents["day=1", "d3"]
    assert documents["day=2", "z"] == documents["day=1", "d7"]


def test_a_corpus_of_which_2_in_100_changed_embeds_2_in_100(corpus, tmp_path, encoder):
    """A nightly run over a corpus that hardly changes would cost as much as the first."""
    texts = [text(n) for n in range(200)]
    write_partition(corpus, "day=1", texts)
    given_settings = settings_of(corpus, tmp_path / "store")
    embed_missing(given_settings, encoder)
    for n in (5, 80, 81, 199):
        texts[n] = text(1000 + n)
    spent = encoder.encoder.sequences
    write_partition(corpus, "day=1", texts)
    counts = embed_missing(given_settings, encoder)
    assert (counts.documents, counts.encoded, counts.reused) == (200, 4, 196)
    assert encoder.encoder.sequences - spent == chunks_of(encoder, [texts[n] for n in (5, 80, 81, 199)])
    documents, _ = stored(given_settings, encoder)
    assert [documents["day=1", f"d{n}"][0] for n in range(200)] == [hash_of(t) for t in texts]


def test_another_encoder_or_chunking_reuses_nothing(corpus, tmp_path, encoder, tiny):
    """Vectors of another encoder would be handed to a head that cannot read them."""
    write_partition(corpus, "day=1", [text(n) for n in range(5)])
    given_settings = settings_of(corpus, tmp_path / "store")
    embed_missing(given_settings, encoder)
    other = counting_encoder(tiny.tokenizer, "other")
    assert embed_missing(given_settings, other).encoded == 5
    wide = settings_of(corpus, tmp_path / "store", embedding=Embedding(vector_dtype="float32"))
    assert embed_missing(wide, encoder).encoded == 5


def test_a_text_that_nobody_can_store_is_rejected_everywhere(corpus, tmp_path, encoder):
    """A document whose text also failed elsewhere would be lost without a reason."""
    original = encoder.encoder.__class__.__call__

    class Failing(encoder.encoder.__class__):
        def __call__(self, batch):
            vectors = original(self, batch)
            vectors[batch.lengths_B > 15] = np.nan
            return vectors

    failing = counting_encoder(encoder.tokenizer)
    object.__setattr__(failing, "encoder", Failing())
    write_partition(corpus, "day=1", ["short", text(6, 40), "brief", text(6, 40)])
    write_partition(corpus, "day=2", [text(6, 40), "short"])
    given_settings = settings_of(corpus, tmp_path / "store")
    counts = embed_missing(given_settings, failing)
    documents, rejected = stored(given_settings, failing)
    assert sorted(documents) == [("day=1", "d0"), ("day=1", "d2"), ("day=2", "d1")]
    assert set(rejected.values()) == {"not_finite"}
    assert (counts.embedded, counts.rejected, counts.encoded) == (3, 3, 2)


def test_a_unit_that_has_its_shard_is_left_alone(corpus, tmp_path, encoder):
    """A second run would do everything again."""
    write_partition(corpus, "day=1", [text(1), None])
    given_settings = settings_of(corpus, tmp_path / "store", embedding=ONE_UNIT)
    embed_missing(given_settings, encoder, run_id="first")
    (unit,) = units_of(given_settings)
    assert embed_unit(unit, job_of(given_settings, encoder, run_id="second"), encoder) == Counts()
    store = open_store(given_settings.store)
    path = store.embedding_path(job_of(given_settings, encoder).key, "day=1", unit.unit_id)
    assert open_shard(store.files, path).header.run_id == "first"


def test_a_unit_can_be_replaced_from_its_own_vectors(corpus, tmp_path, encoder):
    """Running rejected rows again would pay for the rows that were never rejected."""
    write_partition(corpus, "day=1", [text(1), "  ", text(2)])
    given_settings = settings_of(corpus, tmp_path / "store", embedding=ONE_UNIT)
    embed_missing(given_settings, encoder)
    before = stored(given_settings, encoder)
    job = job_of(given_settings, encoder, run_id="again", replaces=True)
    refresh_index(open_store(given_settings.store), job.key)
    spent = encoder.encoder.sequences
    (unit,) = units_of(given_settings)
    counts = embed_unit(unit, job, encoder)
    assert encoder.encoder.sequences == spent
    assert (counts.embedded, counts.reused, counts.rejected) == (2, 2, 1)
    assert stored(given_settings, encoder) == before


def test_rejects_that_are_no_more_are_removed_with_the_old_shard(corpus, tmp_path, encoder):
    """A row would count as rejected and as embedded."""
    write_partition(corpus, "day=1", [text(1), text(2)])
    given_settings = settings_of(corpus, tmp_path / "store", embedding=ONE_UNIT)
    (unit,) = units_of(given_settings)
    job = job_of(given_settings, encoder)
    store = open_store(given_settings.store)
    store.files.write_bytes(store.reject_path(job.key, "day=1", unit.unit_id), b"of an earlier embedding")
    embed_missing(given_settings, encoder)
    assert stored(given_settings, encoder)[1] == {}


def test_a_failing_encoder_leaves_nothing_behind(corpus, tmp_path, encoder):
    """A crash in the middle of a unit would leave half of it as if it were all."""

    class Broken(encoder.encoder.__class__):
        def __call__(self, batch):
            raise RuntimeError("cuda is on fire")

    broken = counting_encoder(encoder.tokenizer)
    object.__setattr__(broken, "encoder", Broken())
    write_partition(corpus, "day=1", [text(1), "  "])
    given_settings = settings_of(corpus, tmp_path / "store", embedding=ONE_UNIT)
    (unit,) = units_of(given_settings)
    with pytest.raises(RuntimeError, match="on fire"):
        embed_unit(unit, job_of(given_settings, broken), broken)
    assert open_store(given_settings.store).files.list() == []
    assert missing_units(given_settings, encoder) == [unit]
    assert embed_missing(given_settings, encoder).embedded == 1


def test_a_unit_that_is_told_to_stop_does_so_between_two_batches(corpus, tmp_path, encoder):
    """Ctrl-C would wait for the units beside the one it met, however long their documents are."""
    write_partition(corpus, "day=1", [text(n) for n in range(40)])
    given_settings = settings_of(corpus, tmp_path / "store", embedding=Embedding(unit_bytes=1 << 20, block_bytes=200))
    (unit,) = units_of(given_settings)
    all_of_it = chunks_of(encoder, {text(n) for n in range(40)})
    with pytest.raises(StoppedError):
        embed_unit(unit, job_of(given_settings, encoder), encoder, is_stopping=lambda: encoder.encoder.sequences > 4)
    assert 4 < encoder.encoder.sequences < all_of_it
    assert open_store(given_settings.store).files.list() == []


def test_a_unit_of_known_texts_stops_too(corpus, tmp_path, encoder):
    """Nothing of it is encoded, so nothing would be asked until all of it is copied."""
    write_partition(corpus, "day=1", [text(n) for n in range(40)])
    given_settings = settings_of(corpus, tmp_path / "store", embedding=Embedding(unit_bytes=1 << 20, block_bytes=200))
    embed_missing(given_settings, encoder)
    write_partition(corpus, "day=2", [text(n) for n in range(40)])
    (unit,) = missing_units(given_settings, encoder)
    with pytest.raises(StoppedError):
        embed_unit(unit, job_of(given_settings, encoder), encoder, is_stopping=lambda: True)
    assert missing_units(given_settings, encoder) == [unit]


def test_chunks_longer_than_the_encoder_reads_are_refused_before_anything_is_read(corpus, tmp_path, encoder):
    """The encoder would cut texts in silence."""
    write_partition(corpus, "day=1", [text(1)])
    object.__setattr__(encoder, "max_chunk_tokens", 8)
    given_settings = settings_of(corpus, tmp_path / "store", embedding=ONE_UNIT)
    (unit,) = units_of(given_settings)
    with pytest.raises(ConfigError, match=r"chunking\.chunk_tokens is 16"):
        embed_unit(unit, job_of(given_settings, encoder), encoder)


def test_progress_counts_documents_once_and_encoded_tokens_only(corpus, tmp_path, encoder):
    """The bar would run over its end, or show a rate that nothing was encoded at."""
    texts = [text(n % 3) for n in range(12)]
    write_partition(corpus, "day=1", [*texts, None])
    given_settings = settings_of(corpus, tmp_path / "store")
    done = []
    with listening(done.append):
        counts = embed_missing(given_settings, encoder)
    assert sum(d.documents for d in done) == 13 == counts.documents
    assert sum(d.tokens for d in done) >= counts.encoded_tokens  # a token in two chunks is seen twice
    done.clear()
    write_partition(corpus, "day=2", texts)
    with listening(done.append):
        embed_missing(given_settings, encoder)
    assert (sum(d.documents for d in done), sum(d.tokens for d in done)) == (12, 0)


def test_a_full_disk_is_one_clear_error_and_the_next_run_goes_on(corpus, tmp_path, encoder, minilm_folder):
    """A full disk would leave half a shard, or a traceback."""
    write_partition(corpus, "day=1", [text(n) for n in range(60)])
    program = """
import resource, signal, sys
sys.path[:0] = ["tests"]
from stores import counting_encoder, embed_missing, settings_of
from transformers import AutoTokenizer
from robert_pipeline.core.tokenize import Tokenizer
from robert_pipeline.errors import StoreError
corpus, store, folder = sys.argv[1:]
tokenizer = Tokenizer(AutoTokenizer.from_pretrained(folder).backend_tokenizer, pad_id=0)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
try:
    embed_missing(settings_of(corpus, store), counting_encoder(tokenizer))
except StoreError as error:
    print("refused:", error)
"""
    store = tmp_path / "store"
    done = subprocess.run(
        [sys.executable, "-c", program, str(corpus), str(store), str(minilm_folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "refused: cannot write" in done.stdout, done.stderr
    assert "Free space or fix the permissions and run again" in done.stdout
    assert [path for path in store.rglob("*") if path.name.endswith(".tmp")] == []
    given_settings = settings_of(corpus, store)
    embed_missing(given_settings, encoder)
    assert len(stored(given_settings, encoder)[0]) == 60


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    nights=st.lists(
        st.lists(st.one_of(st.none(), st.just(" "), st.integers(0, 12).map(text)), min_size=1, max_size=25),
        min_size=1,
        max_size=3,
    ),
    unit_bytes=st.sampled_from([100, 700, 1 << 20]),
    block_bytes=st.sampled_from([1, 300, 1 << 20]),
)
def test_units_blocks_and_history_change_no_vector(tmp_path_factory, tiny, nights, unit_bytes, block_bytes):
    """How work is cut, or what was embedded before, would decide what a document's vectors are."""
    folder = tmp_path_factory.mktemp("nights")
    encoder = counting_encoder(tiny.tokenizer)
    given_settings = settings_of(
        folder / "corpus", folder / "store", embedding=Embedding(unit_bytes=unit_bytes, block_bytes=block_bytes)
    )
    seen = set()
    for texts in nights:
        write_partition(folder / "corpus", "day=1", texts)
        spent = encoder.encoder.sequences
        counts = embed_missing(given_settings, encoder)
        usable = [t for t in texts if t and t.strip()]
        assert (counts.embedded, counts.rejected) == (len(usable), len(texts) - len(usable))
        assert counts.encoded == len(set(usable) - seen)
        assert encoder.encoder.sequences - spent == chunks_of(encoder, set(usable) - seen)
        seen |= set(usable)
        documents, _ = stored(given_settings, encoder)
        assert {name: hashed for (_, name), (hashed, _) in documents.items()} == {
            f"d{n}": hash_of(t) for n, t in enumerate(texts) if t and t.strip()
        }
        for n, t in enumerate(texts):
            if t and t.strip():
                assert len(documents["day=1", f"d{n}"][1]) == chunks_of(encoder, [t])


LONG_TEXT = " ".join(f"word{number % 997} says {number}" for number in range(75_000))
"""1.4 MB, 262,000 tokens: chunks for two windows."""


@pytest.fixture(scope="module")
def long_corpus(tmp_path_factory):
    """A long document between short ones."""
    folder = tmp_path_factory.mktemp("long")
    write_partition(folder, "day=1", [text(1), LONG_TEXT, text(2), LONG_TEXT[:1_000]])
    return folder


def test_a_long_document_is_a_unit_in_windows_with_the_rows_of_any_other(long_corpus, tmp_path, encoder, monkeypatch):
    """Its chunks would be lost or doubled between windows, or a head would read it as several documents."""
    windows = settings_of(long_corpus, tmp_path / "windows", embedding=Embedding(unit_bytes=1 << 20))
    assert [unit.document_count for unit in units_of(windows)] == [1, 1, 2]
    counts = embed_missing(windows, encoder)
    chunks = chunks_of(encoder, [LONG_TEXT])
    assert chunks > WINDOW_CHUNKS
    assert encoder.encoder.sequences == counts.chunks > chunks
    whole = settings_of(long_corpus, tmp_path / "whole", embedding=ONE_UNIT)
    assert len(units_of(whole)) == 1
    monkeypatch.setattr(embed_texts, "__kwdefaults__", embed_texts.__kwdefaults__ | {"window_chunks": 1 << 20})
    assert embed_missing(whole, encoder) == counts
    documents, _ = stored(windows, encoder)
    assert documents == stored(whole, encoder)[0]
    assert len(documents["day=1", "d1"][1]) == chunks
    rows = [shard_rows(job_of(each, encoder), unit) for each in (windows, whole) for unit in units_of(each)]
    assert [row for unit in rows[:3] for row in unit] == rows[3]


def test_a_long_document_is_copied_where_it_is_known(long_corpus, tmp_path, encoder):
    """The dearest document of a corpus would be encoded again under its next id, or once for every copy."""
    given_settings = settings_of(long_corpus, tmp_path / "store", embedding=Embedding(unit_bytes=1 << 20))
    embed_missing(given_settings, encoder)
    spent = encoder.encoder.sequences
    corpus = tmp_path / "corpus"
    write_partition(corpus, "day=2", [LONG_TEXT, text(1), LONG_TEXT], ids=["x", "y", "z"])
    counts = embed_missing(settings_of(corpus, tmp_path / "store", embedding=Embedding(unit_bytes=1 << 20)), encoder)
    assert (counts.embedded, counts.reused, encoder.encoder.sequences) == (3, 3, spent)
    fresh = counting_encoder(encoder.tokenizer)
    other = settings_of(corpus, tmp_path / "other", embedding=Embedding(unit_bytes=1 << 20))
    assert embed_missing(other, fresh).reused == 1
    assert stored(other, fresh)[0]["day=2", "z"] == stored(given_settings, encoder)[0]["day=1", "d1"]


def test_a_long_document_that_fails_late_leaves_no_row(long_corpus, tmp_path, encoder):
    """Half of a document would be scored as if it were the whole, and counted as rejected as well."""
    original = encoder.encoder.__class__.__call__

    class FailingLate(encoder.encoder.__class__):
        def __call__(self, batch):
            vectors = original(self, batch)
            if self.sequences > WINDOW_CHUNKS + 100:
                vectors[:] = np.inf
            return vectors

    failing = counting_encoder(encoder.tokenizer)
    object.__setattr__(failing, "encoder", FailingLate())
    given_settings = settings_of(long_corpus, tmp_path / "store", embedding=ONE_UNIT)
    (unit,) = units_of(given_settings)
    counts = embed_unit(unit, job_of(given_settings, failing), failing)
    documents, rejected = stored(given_settings, failing)
    assert list(documents) == [("day=1", "d0")]
    assert rejected == {("day=1", row, "day=1/part-0.parquet"): "not_finite" for row in (1, 2, 3)}
    assert (counts.documents, counts.embedded, counts.rejected) == (4, 1, 3)
    assert [path.name for path in tmp_path.rglob("*") if path.suffix == ".tmp"] == []


def test_the_stage_imports_no_engine():
    """A worker of another engine would need Beam, Prefect or the data set library."""
    program = (
        "import sys; import robert_pipeline.stages.embedding, robert_pipeline.stages.survey; "
        "print([m for m in ('apache_beam', 'prefect', 'datasets', 'duckdb', 'pyiceberg', 'pydantic', 'typer') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
