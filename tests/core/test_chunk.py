"""Windows over token sequences."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robert_pipeline.config import Chunking
from robert_pipeline.core.chunk import cut

chunkings = st.integers(1, 60).flatmap(
    lambda tokens: st.builds(
        Chunking,
        chunk_tokens=st.just(tokens),
        overlap_tokens=st.integers(0, tokens - 1),
        max_chunks=st.none() | st.integers(1, 8),
    )
)
token_counts = st.lists(st.integers(0, 400), max_size=8)


def windows(counts, chunking):
    """Per document, the (start, stop) of its chunks."""
    spans = cut(np.array(counts, np.int64), chunking)
    found = [[] for _ in counts]
    for document, index, start, count in zip(
        spans.document_N, spans.index_N, spans.start_N, spans.count_N, strict=True
    ):
        assert index == len(found[document])
        found[document].append((start, start + count))
    assert spans.lengths_B.tolist() == [len(chunks) for chunks in found]
    assert len(spans) == sum(map(len, found))
    assert (np.diff(spans.document_N) >= 0).all()
    return found


@given(token_counts, chunkings)
def test_chunks_are_full_overlap_as_asked_and_stop_at_the_limit(counts, chunking):
    """Chunks would be cut otherwise than configured, or a limit would be broken."""
    for count, chunks in zip(counts, windows(counts, chunking), strict=True):
        assert (len(chunks) > 0) == (count > 0)
        if chunking.max_chunks is not None:
            assert len(chunks) <= chunking.max_chunks
        for start, stop in chunks:
            assert 0 <= start < stop <= count
        for start, stop in chunks[:-1]:
            assert stop - start == chunking.chunk_tokens
        for (_, stop), (start, _) in pairwise(chunks):
            assert stop - start == chunking.overlap_tokens


@given(token_counts, chunkings)
def test_chunks_cover_every_token_unless_a_limit_was_set(counts, chunking):
    """A part of a text would never be read, or a chunk would hold nothing new."""
    for count, chunks in zip(counts, windows(counts, chunking), strict=True):
        limited = chunking.max_chunks is not None and len(chunks) == chunking.max_chunks
        covered = set().union(*(range(start, stop) for start, stop in chunks)) if chunks else set()
        if not limited:
            assert covered == set(range(count))
        for before, (_, stop) in pairwise(chunks):
            assert stop > before[1]


@given(token_counts, chunkings)
def test_a_document_is_cut_as_if_it_were_alone(counts, chunking):
    """A document's chunks would depend on its neighbours."""
    together = windows(counts, chunking)
    assert together == [windows([count], chunking)[0] for count in counts]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, []),
        (1, [(0, 1)]),
        (200, [(0, 200)]),
        (201, [(0, 200), (150, 201)]),
        (350, [(0, 200), (150, 350)]),
        (351, [(0, 200), (150, 350), (300, 351)]),
    ],
)
def test_the_paper_s_windows(count, expected):
    """The defaults would not be Pappagari et al.'s 200 tokens every 150."""
    assert windows([count], Chunking()) == [expected]
