"""Texts in; their tokens, and where each chunk lies in its text, out. A long text is read in pieces.

Opens no file; the tokenizer is an argument. Axes: B documents, N chunks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from robert_pipeline.config import Chunking
from robert_pipeline.core.chunk import ChunkSpans, Int64, cut
from robert_pipeline.core.pieces import PiecesDifferError, tokenize_in_pieces
from robert_pipeline.core.tokenize import Tokenizer
from robert_pipeline.cores import usable_cores

TOKENIZED_CHARACTERS = 1 << 20
"""Text given to the tokenizer at once, at most."""
CORE_CHARACTERS = 1 << 17
"""Short texts are read so many characters a core at once: enough for all, and what the tokenizer answers is large."""
PIECES = 4
"""A longer text is read in so many parts of that at once: its tokens are held twice, and threads gain it nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadTexts:
    """What is kept of tokenised texts: a tokenizer's own result takes a hundred bytes a token, this four."""

    spans: ChunkSpans
    char_start_N: Int64
    char_end_N: Int64
    token_counts_B: Int64
    token_ids: NDArray[np.int32] = field(repr=False)
    """Of all texts, one after the other."""

    def first_tokens(self, chunk_N: Int64) -> Int64:
        """Where these chunks begin in `token_ids`."""
        first_token_B = np.cumsum(self.token_counts_B) - self.token_counts_B
        first_N: Int64 = first_token_B[self.spans.document_N[chunk_N]] + self.spans.start_N[chunk_N]
        return first_N

    def new_tokens(self, chunk_N: Int64) -> tuple[NDArray[np.int32], Int64]:
        """The tokens of these chunks that no earlier chunk of the text has, chunk by chunk, and how many of each."""
        spans = self.spans
        before_N = np.maximum(chunk_N - 1, 0)
        seen_N = np.where(spans.index_N[chunk_N] > 0, spans.start_N[before_N] + spans.count_N[before_N], 0)
        count_N = spans.start_N[chunk_N] + spans.count_N[chunk_N] - seen_N
        first_N = self.first_tokens(chunk_N) - spans.start_N[chunk_N] + seen_N
        places = np.repeat(first_N - (np.cumsum(count_N) - count_N), count_N) + np.arange(count_N.sum())
        return self.token_ids[places], count_N


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tokens:
    """Some of the texts: their tokens, and first and past-the-last character of each of their chunks."""

    token_ids: NDArray[np.int32]
    counts_B: Int64
    places_N2: Int64


def read_texts(
    texts: Sequence[str], tokenizer: Tokenizer, chunking: Chunking, *, characters: int = TOKENIZED_CHARACTERS
) -> ReadTexts:
    """Tokenise and cut texts, about so many characters at once, or fewer."""
    together = min(characters, CORE_CHARACTERS * len(usable_cores()))
    parts = [
        _Tokens(token_ids=np.empty(0, np.int32), counts_B=np.empty(0, np.int64), places_N2=np.empty((0, 2), np.int64)),
        *(_read(group, tokenizer, chunking, characters) for group in _groups(texts, together)),
    ]
    counts_B = np.concatenate([part.counts_B for part in parts])
    places_N2 = np.concatenate([part.places_N2 for part in parts])
    return ReadTexts(
        spans=cut(counts_B, chunking),
        char_start_N=places_N2[:, 0],
        char_end_N=places_N2[:, 1],
        token_counts_B=counts_B,
        token_ids=np.concatenate([part.token_ids for part in parts]),
    )


def _groups(texts: Sequence[str], characters: int) -> Iterator[Sequence[str]]:
    """Texts to tokenise together; one that is longer than `characters` is by itself."""
    first = held = 0
    for position, text in enumerate(texts):
        if held + len(text) > characters and position > first:
            yield texts[first:position]
            first, held = position, 0
        held += len(text)
    if first < len(texts):
        yield texts[first:]


def _read(texts: Sequence[str], tokenizer: Tokenizer, chunking: Chunking, characters: int) -> _Tokens:
    if len(texts) == 1 and len(texts[0]) > characters:
        try:
            return _read_long(texts[0], tokenizer, chunking, characters)
        except PiecesDifferError:
            pass  # right before small
    tokenized = tokenizer(texts)
    spans = cut(tokenized.token_counts_B, chunking)
    places = [
        tokenized.characters(int(document), int(start), int(count))
        for document, start, count in zip(spans.document_N, spans.start_N, spans.count_N, strict=True)
    ]
    return _Tokens(
        token_ids=tokenized.token_ids,
        counts_B=tokenized.token_counts_B,
        places_N2=np.array(places, np.int64).reshape(-1, 2),
    )


def _read_long(text: str, tokenizer: Tokenizer, chunking: Chunking, characters: int) -> _Tokens:
    step = chunking.chunk_tokens - chunking.overlap_tokens
    last = chunking.chunk_tokens - 1  # of the first chunk's tokens; the others follow every `step`
    ids: list[NDArray[np.int32]] = []
    starts: list[int] = []
    ends: list[int] = []
    held = text_end = 0
    for piece in tokenize_in_pieces(tokenizer, text, characters=characters // PIECES):
        count = len(piece.token_ids)
        ids.append(piece.token_ids.copy())  # without what was read around it
        starts += [piece.characters(token)[0] for token in range(-held % step, count, step)]
        first_end = last - held if held <= last else (last - held) % step
        ends += [piece.characters(token)[1] for token in range(first_end, count, step)]
        text_end = piece.characters(count - 1)[1] if count else text_end
        held += count
    counts_B = np.array([held], np.int64)
    chunks = len(cut(counts_B, chunking))
    ends.append(text_end)  # of a last chunk that is not full
    return _Tokens(
        token_ids=np.concatenate(ids),
        counts_B=counts_B,
        places_N2=np.array([starts[:chunks], ends[:chunks]], np.int64).T,
    )
