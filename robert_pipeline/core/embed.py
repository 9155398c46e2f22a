"""Texts in, chunk vectors out, in document order.

Tokenise once, cut in numpy, batch chunks of nearly equal length by a token budget, put the vectors back in order.
Opens no file; the encoder and the tokenizer are arguments. Axes: B documents, N chunks, D embedding.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from robert_pipeline.config import Chunking
from robert_pipeline.core.chunk import ChunkSpans, Int64, cut
from robert_pipeline.core.tokenize import TokenizedTexts, Tokenizer

log = logging.getLogger(__name__)

ChunkEncoder = Callable[[list[NDArray[np.int32]]], NDArray[np.float32]]
OnEncoded = Callable[[int], None]


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
    tokenized = tokenizer(texts)
    spans = cut(tokenized.token_counts_B, chunking)
    places = [
        tokenized.characters(int(document), int(start), int(count))
        for document, start, count in zip(spans.document_N, spans.start_N, spans.count_N, strict=True)
    ]
    places_N2 = np.array(places, np.int64).reshape(-1, 2)
    return EmbeddedTexts(
        spans=spans,
        char_start_N=places_N2[:, 0],
        char_end_N=places_N2[:, 1],
        token_counts_B=tokenized.token_counts_B,
        vectors_ND=_encode(tokenized, spans, tokenizer, encoder, dimension, budget, on_encoded),
    )


def _encode(
    tokenized: TokenizedTexts,
    spans: ChunkSpans,
    tokenizer: Tokenizer,
    encoder: ChunkEncoder,
    dimension: int,
    budget: BatchBudget,
    on_encoded: OnEncoded,
) -> NDArray[np.float32]:
    vectors_ND = np.empty((len(spans), dimension), np.float32)
    first_N = tokenized.first_token_B[spans.document_N] + spans.start_N
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
                    tokenized.token_ids[first_N[chunk] : first_N[chunk] + spans.count_N[chunk]],
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
