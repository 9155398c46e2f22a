"""Texts in, chunk vectors out, in order, whatever the batches."""

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robert_pipeline.config import Chunking, EncoderSource
from robert_pipeline.core.embed import BatchBudget, embed_texts
from robert_pipeline.core.reading import read_texts
from robert_pipeline.storage.encoders import load_encoder

WORDS = ["bank", "profit", "goal", "minister", "unbelievably", "日本", "😀", "e\u0301", "3.14"]
texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join), max_size=6)
chunkings = st.integers(1, 24).flatmap(
    lambda tokens: st.builds(
        Chunking,
        chunk_tokens=st.just(tokens),
        overlap_tokens=st.integers(0, tokens - 1),
        max_chunks=st.none() | st.integers(1, 5),
    )
)


def embed(loaded, texts, **others):
    """All chunks in one window."""
    (embedded,) = windows_of(loaded, texts, **others)
    return embedded


def windows_of(loaded, texts, *, chunking=None, batch_tokens=4096, encoder=None, **others):
    return embed_texts(
        read_texts(texts, loaded.tokenizer, chunking or Chunking()),
        frame=loaded.tokenizer.frame,
        encoder=encoder or loaded.encoder,
        **{"budget": BatchBudget(tokens=batch_tokens), **others},
    )


@given(texts, chunkings, st.integers(1, 3_000), st.integers(1, 30))
@settings(max_examples=40)
def test_windows_are_the_whole_in_order(tiny, texts, chunking, batch_tokens, window_chunks):
    """A long document would lose the chunks between two windows, or get vectors that a short one would not."""
    whole = embed(tiny, texts, chunking=chunking)
    windows = list(windows_of(tiny, texts, chunking=chunking, batch_tokens=batch_tokens, window_chunks=window_chunks))
    assert np.concatenate([window.chunk_N for window in windows]).tolist() == whole.chunk_N.tolist()
    np.testing.assert_allclose(np.concatenate([window.vectors_ND for window in windows]), whole.vectors_ND, atol=1e-5)
    assert all(len(window.vectors_ND) <= window_chunks for window in windows)


@given(texts, chunkings, st.integers(1, 3_000))
@settings(max_examples=40)
def test_batches_do_not_change_vectors_and_order_is_kept(tiny, texts, chunking, batch_tokens):
    """A document's vectors would depend on its neighbours, or be another document's."""
    together = embed(tiny, texts, chunking=chunking, batch_tokens=batch_tokens)
    at = 0
    for index, text in enumerate(texts):
        alone = embed(tiny, [text], chunking=chunking, batch_tokens=1)
        mine = slice(at, at + len(alone.texts.spans))
        np.testing.assert_allclose(together.vectors_ND[mine], alone.vectors_ND, atol=1e-5)
        assert (together.texts.spans.document_N[mine] == index).all()
        for name in ("char_start_N", "char_end_N"):
            assert (getattr(together.texts, name)[mine] == getattr(alone.texts, name)).all()
        assert together.texts.token_counts_B[index] == alone.texts.token_counts_B[0]
        at += len(alone.texts.spans)
    assert at == len(together.vectors_ND)


class Measuring:
    """An encoder that notes (sequences, longest) of every batch."""

    def __init__(self, encoder):
        self.encoder, self.sizes = encoder, []
        self.dimension = encoder.dimension

    concurrency = computed_at_once = 2
    pads = True

    def threads(self):
        return ThreadPoolExecutor(self.concurrency)

    def __call__(self, batch):
        self.sizes.append((len(batch), max(batch.lengths_B)))
        return self.encoder(batch)


@given(st.lists(st.sampled_from(WORDS), max_size=80), chunkings, st.integers(1, 300))
def test_no_batch_is_above_its_budget(tiny, words, chunking, batch_tokens):
    """A batch would take more memory than was allowed."""
    measured, done = Measuring(tiny.encoder), []
    embedded = embed(
        tiny, [" ".join(words)], chunking=chunking, batch_tokens=batch_tokens, encoder=measured, on_encoded=done.append
    )
    assert all(count * longest <= batch_tokens or count == 1 for count, longest in measured.sizes)
    assert sum(count for count, _ in measured.sizes) == len(embedded.texts.spans)
    assert sum(done) == embedded.texts.spans.count_N.sum()


def test_the_last_batches_are_small(tiny):
    """One core would wait for the other's last full batch, a seventh of the time that a short work unit takes."""
    measured = Measuring(tiny.encoder)
    embed(
        tiny,
        ["bank " * 700],
        chunking=Chunking(chunk_tokens=8, overlap_tokens=0),
        batch_tokens=200,
        encoder=measured,
    )
    sizes = sorted((count * longest for count, longest in measured.sizes), reverse=True)
    assert sizes[:2] == [200, 200]
    assert sizes[-1] <= 200 / 4
    done = [0, 0]
    for size in sizes:
        done[done.index(min(done))] += size
    assert abs(done[0] - done[1]) <= 200 / 4


def test_batches_do_not_change_minilm_s_vectors(minilm, articles):
    """Real documents would get other vectors, and other labels, in another corpus."""
    together = embed(minilm, articles[:6], batch_tokens=2_048)
    alone = np.concatenate([embed(minilm, [text], batch_tokens=1).vectors_ND for text in articles[:6]])
    np.testing.assert_allclose(together.vectors_ND, alone, atol=1e-5)


def test_batches_hardly_change_bfloat16_vectors(minilm_folder, articles):
    """In bfloat16 a document's vectors would depend on what it was batched with."""
    loaded = load_encoder(EncoderSource(name=str(minilm_folder), precision="bfloat16"))
    together = embed(loaded, articles[:3], batch_tokens=2_048).vectors_ND
    alone = np.concatenate([embed(loaded, [text], batch_tokens=1).vectors_ND for text in articles[:3]])
    cosines = (together * alone).sum(1) / np.linalg.norm(together, axis=1) / np.linalg.norm(alone, axis=1)
    assert cosines.min() >= 0.9999


def test_nothing_to_embed_is_no_vectors(tiny):
    """A block of documents without tokens would stop the run."""
    for texts in ([], ["", "\u200b"]):
        embedded = embed(tiny, texts)
        assert embedded.vectors_ND.shape == (0, 32)
        assert embedded.texts.token_counts_B.tolist() == [0] * len(texts)


class Cramped(Measuring):
    """An encoder whose memory holds `fits` tokens, padding included; raises `error` above."""

    concurrency = computed_at_once = 1
    pads = True

    def __init__(self, encoder, fits, error):
        super().__init__(encoder)
        self.fits, self.error, self.refused = fits, error, 0

    def __call__(self, batch):
        if len(batch) * max(batch.lengths_B) > self.fits:
            self.refused += 1
            raise self.error
        return super().__call__(batch)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_halves_the_batch_and_is_remembered(tiny, error):
    """A run would die of one batch, or run out of memory again at every following batch."""
    texts = ["bank profit goal minister " * 100] * 3
    chunking = Chunking(chunk_tokens=18, overlap_tokens=2)
    cramped = Cramped(tiny.encoder, 130, error)
    budget = BatchBudget(tokens=1_000)
    embedded = embed(tiny, texts, chunking=chunking, encoder=cramped, budget=budget)
    np.testing.assert_allclose(embedded.vectors_ND, embed(tiny, texts, chunking=chunking).vectors_ND, atol=1e-5)
    assert cramped.refused == 3  # 1,000 → 500 → 240 → 120
    assert budget.tokens == 120
    assert len(cramped.sizes) > 5


def test_a_single_chunk_that_does_not_fit_is_an_error(tiny):
    """The run would try the same batch for ever."""
    with pytest.raises(torch.OutOfMemoryError):
        embed(tiny, ["bank " * 50], encoder=Cramped(tiny.encoder, 5, torch.OutOfMemoryError("no")))


def test_other_errors_are_not_taken_for_memory(tiny):
    """A broken encoder would be tried again and again, with ever smaller batches."""
    cramped = Cramped(tiny.encoder, 5, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        embed(tiny, ["bank " * 500], encoder=cramped)
    assert cramped.refused == 1


def test_nothing_of_a_block_outlives_it(tiny):
    """Memory would grow with the corpus, block by block, until Python happens to look for cycles."""
    encoder = Measuring(tiny.encoder)
    alive = weakref.ref(encoder)
    gc.collect()
    gc.disable()
    try:
        embed(tiny, ["bank profit goal minister " * 100] * 3, encoder=encoder)
        del encoder
        assert alive() is None
    finally:
        gc.enable()


class Shared(Measuring):
    """An encoder of two threads, whose memory holds one batch: a second one at the same time finds none."""

    concurrency = computed_at_once = 2
    pads = True

    def __init__(self, encoder):
        super().__init__(encoder)
        self.running, self.refused = threading.Semaphore(1), 0

    def __call__(self, batch):
        if not self.running.acquire(blocking=False):
            self.refused += 1
            raise MemoryError
        try:
            time.sleep(0.01)
            return super().__call__(batch)
        finally:
            self.running.release()


def test_chunks_that_find_no_memory_beside_others_are_encoded_alone_later(tiny):
    """The run would die of a batch that fits, because another thread's batch held the memory at that moment."""
    texts = ["bank profit goal minister " * 100] * 3
    shared = Shared(tiny.encoder)
    chunking = Chunking(chunk_tokens=18, overlap_tokens=2)
    embedded = embed(tiny, texts, chunking=chunking, batch_tokens=60, encoder=shared)
    assert shared.refused
    expected = embed(tiny, texts, chunking=chunking)
    np.testing.assert_allclose(embedded.vectors_ND, expected.vectors_ND, atol=1e-5)


def test_memory_that_really_runs_out_is_survived(tiny_folder):
    """The text of torch's own out-of-memory error would not be recognised."""
    process = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "embed_in_little_memory.py"), str(tiny_folder)],
        capture_output=True,
        text=True,
        check=False,
        # A thread's arena reserves 64 MB of the address space that is limited; how many there are is chance.
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
    )
    assert process.returncode == 0, process.stderr
    batch_tokens, chunks, finite = process.stdout.split()
    assert int(batch_tokens) < 4_000_000
    assert (int(chunks), finite) == (4_000, "True")
