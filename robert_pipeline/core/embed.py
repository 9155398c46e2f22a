"""Texts in, chunk vectors out, in document order.

Tokenise once, cut in numpy, batch chunks of nearly equal length by a token budget, put the vectors back in order.
Opens no file; the encoder and the tokenizer are arguments. Axes: B documents, N chunks, D embedding.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from robert_pipeline.config import Chunking
from robert_pipeline.core.chunk import ChunkSpans, Int64, cut
from robert_pipeline.core.tokenize import Tokenizer

log = logging.getLogger(__name__)

ChunkEncoder = Callable[[list[NDArray[np.int32]]], NDArray[np.float32]]
OnEncoded = Callable[[int], None]

TOKENIZED_CHARACTERS = 1 << 20
"""Text given to the tokenizer at once."""


@dataclass(kw_only=True, slots=True)
class BatchBudget:
    """Padded tokens of one encoder batch. Halved when memory runs out, and remembered for the batches that follow."""

    tokens: int

    def halve(self, longest: int, sequences: int) -> bool:
        """Make the budget smaller than the batch that did not fit; False where that was a single sequence."""
        if sequences <= 1:
            return False
        self.tokens = longest * (sequences // 2)
        return True


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedTexts:
    """The chunks of several texts and their vectors, in text order."""

    spans: ChunkSpans
    char_start_N: Int64
    char_end_N: Int64
    token_counts_B: Int64
    vectors_ND: NDArray[np.float32] = field(repr=False)


def embed_texts(
    texts: Sequence[str],
    *,
    tokenizer: Tokenizer,
    encoder: ChunkEncoder,
    chunking: Chunking,
    dimension: int,
    budget: BatchBudget,
    on_encoded: OnEncoded = lambda _tokens: None,
) -> EmbeddedTexts:
    """Embed every chunk of every text. `on_encoded` is told the useful tokens of each batch as it is done.

    A text without tokens has no chunk. Vectors are float32 (N, D) whatever the encoder computes in.
    """
    read = _read(texts, tokenizer, chunking)
    spans = cut(read.token_counts_B, chunking)
    return EmbeddedTexts(
        spans=spans,
        char_start_N=read.places_N2[:, 0],
        char_end_N=read.places_N2[:, 1],
        token_counts_B=read.token_counts_B,
        vectors_ND=_encode(read, spans, tokenizer, encoder, dimension, budget, on_encoded),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    """What is kept of tokenised texts: a tokenizer's own result takes a hundred bytes a token."""

    token_ids: NDArray[np.int32]
    token_counts_B: Int64
    places_N2: Int64
    """First character and one past the last of each chunk."""


def _read(texts: Sequence[str], tokenizer: Tokenizer, chunking: Chunking) -> _Read:
    ids: list[NDArray[np.int32]] = [np.empty(0, np.int32)]
    counts: list[Int64] = [np.empty(0, np.int64)]
    places: list[tuple[int, int]] = []
    for group in _groups(texts):
        tokenized = tokenizer(group)
        ids.append(tokenized.token_ids)
        counts.append(tokenized.token_counts_B)
        spans = cut(tokenized.token_counts_B, chunking)
        places += [
            tokenized.characters(int(document), int(start), int(count))
            for document, start, count in zip(spans.document_N, spans.start_N, spans.count_N, strict=True)
        ]
    return _Read(
        token_ids=np.concatenate(ids),
        token_counts_B=np.concatenate(counts),
        places_N2=np.array(places, np.int64).reshape(-1, 2),
    )


def _groups(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    first = held = 0
    for position, text in enumerate(texts):
        held += len(text)
        if held >= TOKENIZED_CHARACTERS:
            yield texts[first : position + 1]
            first, held = position + 1, 0
    if first < len(texts):
        yield texts[first:]


def _encode(
    read: _Read,
    spans: ChunkSpans,
    tokenizer: Tokenizer,
    encoder: ChunkEncoder,
    dimension: int,
    budget: BatchBudget,
    on_encoded: OnEncoded,
) -> NDArray[np.float32]:
    vectors_ND = np.empty((len(spans), dimension), np.float32)
    first_token_B = np.cumsum(read.token_counts_B) - read.token_counts_B
    first_N = first_token_B[spans.document_N] + spans.start_N
    lengths_N = spans.count_N + tokenizer.special_token_count
    # Longest first: batches of nearly equal length pad little, and memory runs out at once or never.
    order_N = np.argsort(-lengths_N, kind="stable")
    at = 0
    while at < len(order_N):
        longest = int(lengths_N[order_N[at]])
        chosen = order_N[at : at + max(1, budget.tokens // longest)]
        sequences = [
            np.concatenate(
                [
                    tokenizer.prefix_ids,
                    read.token_ids[first_N[chunk] : first_N[chunk] + spans.count_N[chunk]],
                    tokenizer.suffix_ids,
                ]
            )
            for chunk in chosen
        ]
        try:
            vectors_ND[chosen] = encoder(sequences)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error) or not budget.halve(longest, len(chosen)):
                raise
            log.warning("out of memory: batches of %d tokens from here on", budget.tokens)
            continue
        on_encoded(int(spans.count_N[chosen].sum()))
        at += len(chosen)
    return vectors_ND


def _out_of_memory(error: Exception) -> bool:
    # torch's CPU allocator raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
