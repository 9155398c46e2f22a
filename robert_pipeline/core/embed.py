"""Texts in, chunk vectors out, in document order.

Tokenise once, cut in numpy, batch chunks of nearly equal length by a token budget, put the vectors back in order.
Opens no file; the encoder and the tokenizer are arguments. Axes: B documents, N chunks, D embedding.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from robert_pipeline.config import Chunking
from robert_pipeline.core.chunk import ChunkSpans, Int64, cut
from robert_pipeline.core.packed_model import TokenBatch
from robert_pipeline.core.tokenize import Tokenizer

log = logging.getLogger(__name__)

OnEncoded = Callable[[int], None]

TOKENIZED_CHARACTERS = 1 << 20
"""Text given to the tokenizer at once."""
SMALLEST_BATCH = 4
"""The last batches are at least this part of a full one: smaller ones are slower than the waiting they save."""


class ChunkEncoder(Protocol):
    """What `embed_texts` needs of an encoder; `robert_pipeline.core.encoder.Encoder` is one."""

    dimension: int
    concurrency: int

    def prepare_thread(self) -> None:
        """Called once in each thread that will call the encoder."""
        ...

    def __call__(self, batch: TokenBatch) -> NDArray[np.float32]:
        """Vectors (B, D) of the sequences of a batch. May be called in `concurrency` threads at once."""
        ...


@dataclass(kw_only=True, slots=True)
class BatchBudget:
    """Tokens of one encoder batch, padding included. Halved when memory runs out, and remembered from then on."""

    tokens: int

    def fits(self, lengths: Int64) -> bool:
        """Whether sequences of these lengths, longest first, may be one batch. A single one always may."""
        return len(lengths) <= 1 or int(lengths[0]) * len(lengths) <= self.tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedTexts:
    """The chunks of several texts and their vectors, in text order."""

    spans: ChunkSpans
    char_start_N: Int64
    char_end_N: Int64
    token_counts_B: Int64
    token_ids: NDArray[np.int32] = field(repr=False)
    """Of all texts, one after the other."""
    vectors_ND: NDArray[np.float32] = field(repr=False)

    def new_tokens(self, chosen_N: NDArray[np.bool_]) -> tuple[NDArray[np.int32], Int64]:
        """The tokens of these chunks that no earlier chunk of the text has, chunk by chunk, and how many of each."""
        ends_N = self.spans.start_N + self.spans.count_N
        seen_N = np.where(self.spans.index_N > 0, np.roll(ends_N, 1), 0)
        first_token_B = np.cumsum(self.token_counts_B) - self.token_counts_B
        first_N = (first_token_B[self.spans.document_N] + seen_N)[chosen_N]
        count_N = (ends_N - seen_N)[chosen_N]
        places = np.repeat(first_N - (np.cumsum(count_N) - count_N), count_N) + np.arange(count_N.sum())
        return self.token_ids[places], count_N


def embed_texts(
    texts: Sequence[str],
    *,
    tokenizer: Tokenizer,
    encoder: ChunkEncoder,
    chunking: Chunking,
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
        token_ids=read.token_ids,
        vectors_ND=_encode(read, spans, tokenizer, encoder, budget, on_encoded),
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
    budget: BatchBudget,
    on_encoded: OnEncoded,
) -> NDArray[np.float32]:
    vectors_ND = np.empty((len(spans), encoder.dimension), np.float32)
    lengths_N = spans.count_N + len(tokenizer.frame)
    first_token_B = np.cumsum(read.token_counts_B) - read.token_counts_B
    first_N = first_token_B[spans.document_N] + spans.start_N
    # Longest first: batches of nearly equal length pad little, and memory runs out at once or never.
    order_N = np.argsort(-lengths_N, kind="stable")

    def encode(chosen: Int64, *, alone: bool = True) -> Int64:
        """Encode these chunks in one batch, or in as many as memory asks for."""
        if budget.fits(lengths_N[chosen]):
            try:
                vectors_ND[chosen] = encoder(
                    tokenizer.frame.batch(read.token_ids, first_N[chosen], spans.count_N[chosen])
                )
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or (alone and len(chosen) == 1):
                    raise
                if len(chosen) == 1:
                    put_off.append(chosen)
                    return chosen
                budget.tokens = min(budget.tokens, int(lengths_N[chosen[0]]) * (len(chosen) // 2))
                log.warning("out of memory: batches of %d tokens from here on", budget.tokens)
            else:
                return chosen
        half = len(chosen) // 2
        encode(chosen[:half], alone=alone)
        encode(chosen[half:], alone=alone)
        return chosen

    put_off: list[Int64] = []  # chunks that found no memory beside the other threads' batches
    batches = _batches(lengths_N, order_N, budget, encoder.concurrency)
    workers = min(encoder.concurrency, len(batches))
    if workers <= 1:
        for chosen in batches:
            on_encoded(int(spans.count_N[encode(chosen)].sum()))
        return vectors_ND
    with ThreadPoolExecutor(workers, thread_name_prefix="encode", initializer=encoder.prepare_thread) as pool:
        for chosen in pool.map(partial(encode, alone=False), batches):
            on_encoded(int(spans.count_N[chosen].sum()))
    for chosen in put_off:
        encode(chosen)
    return vectors_ND


def _batches(lengths_N: Int64, order_N: Int64, budget: BatchBudget, workers: int) -> list[Int64]:
    """Full batches, then smaller ones: no worker waits for another's last batch for long."""
    batches: list[Int64] = []
    at, left = 0, int(lengths_N.sum())
    while at < len(order_N):
        tokens = min(budget.tokens, max(left // workers, budget.tokens // SMALLEST_BATCH))
        chosen = order_N[at : at + max(1, tokens // int(lengths_N[order_N[at]]))]
        batches.append(chosen)
        at += len(chosen)
        left -= int(lengths_N[chosen].sum())
    return batches


def out_of_memory(error: Exception) -> bool:
    """Whether a batch failed because it was too large."""
    # On the CPU torch's allocator and oneDNN raise a plain RuntimeError. The latter's may mean another fault: then the
    # batch is halved down to one sequence in vain, and the error comes out after all.
    texts = ("can't allocate memory", "could not create a primitive", "could not create a memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in texts)
