"""Which chunks a step sees: every document the same weight, steps of even size, the same seed the same steps."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from robert_pipeline.config import Chunking
from robert_pipeline.core.chunk import cut
from robert_pipeline.core.finetune.plan import batches, epoch_steps, evaluation_batches

SPECIAL = 2
token_counts = st.lists(st.integers(1, 900), min_size=1, max_size=12)


def spans_of(counts):
    return cut(np.array(counts, np.int64), Chunking(chunk_tokens=50, overlap_tokens=10))


def epoch(counts, *, most=4, step_tokens=300, seed=0, number=0):
    spans = spans_of(counts)
    documents = np.arange(len(counts))
    steps = epoch_steps(
        spans,
        documents,
        epoch=number,
        chunks_per_document=most,
        step_tokens=step_tokens,
        special_tokens=SPECIAL,
        seed=seed,
    )
    return spans, steps


@given(token_counts, st.integers(1, 6), st.integers(1, 2_000), st.integers(0, 5))
def test_every_document_weighs_the_same(counts, most, step_tokens, seed):
    """Long documents would teach more than short ones, or some chunk would count twice."""
    spans, steps = epoch(counts, most=most, step_tokens=step_tokens, seed=seed)
    chunks = np.concatenate([step.chunks for step in steps])
    weights = np.concatenate([step.weights for step in steps])
    assert len(set(chunks.tolist())) == len(chunks)
    for document, length in enumerate(spans.lengths_B):
        mine = spans.document_N[chunks] == document
        assert mine.sum() == min(length, most)
        np.testing.assert_allclose(weights[mine].sum(), 1, rtol=1e-5)


@given(token_counts, st.integers(1, 6), st.integers(0, 5), st.integers(0, 5))
def test_no_chunk_is_drawn_again_before_all_have_been(counts, most, seed, first):
    """The passage that tells a contract's kind would often be left out, however long the training."""
    lengths = spans_of(counts).lengths_B
    rounds = -(-int(lengths.max()) // most)
    drawn = [epoch(counts, most=most, seed=seed, number=first + number)[1] for number in range(rounds)]
    times = np.bincount(np.concatenate([step.chunks for steps in drawn for step in steps]), minlength=lengths.sum())
    assert times.min() >= 1
    longest = times[spans_of(counts).document_N == lengths.argmax()]
    assert longest.max() - longest.min() <= 1


@given(token_counts, st.integers(50, 2_000))
def test_steps_are_of_even_size(counts, step_tokens):
    """The last step of an epoch would be a handful of tokens, with a gradient that is mostly noise."""
    spans, steps = epoch(counts, step_tokens=step_tokens)
    sizes = [int(spans.count_N[step.chunks].sum()) + SPECIAL * len(step.chunks) for step in steps]
    mean = sum(sizes) / len(sizes)
    assert all(abs(size - mean) <= 2 * (50 + SPECIAL) for size in sizes)


def test_an_epoch_is_decided_by_its_seed():
    """A run that is gone on with after a crash would see other chunks than the one that crashed."""
    counts = [40, 700, 90, 333]
    once, again, other, later = (
        np.concatenate([step.chunks for step in epoch(counts, most=2, seed=seed, number=number)[1]]).tolist()
        for seed, number in ((7, 1), (7, 1), (8, 1), (7, 2))
    )
    assert once == again
    assert sorted(once) != sorted(other)
    assert sorted(once) != sorted(later)


@given(token_counts, st.integers(1, 600), st.integers(1, 4))
def test_batches_hold_the_step_and_keep_to_the_budget(counts, batch_tokens, workers):
    """A chunk would be learned from twice or not at all, or memory would run out."""
    spans, steps = epoch(counts, step_tokens=1_000)
    for step in steps:
        parts = batches(step, spans, batch_tokens=batch_tokens, special_tokens=SPECIAL, workers=workers)
        assert sorted(np.concatenate([part.chunks for part in parts])) == sorted(step.chunks)
        weight_of = dict(zip(step.chunks.tolist(), step.weights.tolist(), strict=True))
        for part in parts:
            assert [weight_of[chunk] for chunk in part.chunks.tolist()] == part.weights.tolist()
            tokens = int(spans.count_N[part.chunks].sum()) + SPECIAL * len(part.chunks)
            assert tokens <= batch_tokens or len(part.chunks) == 1
        if len(step.chunks) >= workers:
            assert len(parts) >= workers


@given(token_counts, st.integers(1, 6), st.integers(1, 500))
def test_evaluation_looks_at_every_document(counts, most, batch_tokens):
    """A held-out document would be judged by another one's chunks, or by none."""
    spans = spans_of(counts)
    documents = np.arange(len(counts))[::-1]
    seen = [0] * len(counts)
    for chunks, owners in evaluation_batches(
        spans, documents, batch_tokens=batch_tokens, special_tokens=SPECIAL, most_chunks=most
    ):
        assert (spans.document_N[chunks] == documents[owners]).all()
        for owner in owners:
            seen[owner] += 1
    assert seen == [min(most, int(spans.lengths_B[document])) for document in documents]
