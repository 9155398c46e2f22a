"""Tokenised texts in, chunk vectors out, in document order.

Chunks of nearly equal length are batched by a token budget, a window of chunks after the other.
Opens no file; the encoder is an argument. Axes: B documents, N chunks, D embedding.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from robert_pipeline.core.chunk import Int64
from robert_pipeline.core.framing import Frame
from robert_pipeline.core.reading import ReadTexts
from robert_pipeline.core.threads import in_order
from robert_pipeline.core.token_batch import TokenBatch

log = logging.getLogger(__name__)

OnEncoded = Callable[[int], None]

WINDOW_CHUNKS = 1 << 14
"""Vectors held at once. A block of common documents has fewer chunks."""
SMALLEST_BATCH = 4
"""The last batches are at least this part of a full one: smaller ones are slower than the waiting they save."""


class ChunkEncoder(Protocol):
    """What `embed_texts` needs of an encoder; `robert_pipeline.core.encoder.Encoder` is one."""

    dimension: int
    concurrency: int
    computed_at_once: int
    pads: bool

    def threads(self) -> AbstractContextManager[Executor]:
        """`concurrency` threads that may call the encoder at the same time."""
        ...

    def __call__(self, batch: TokenBatch) -> NDArray[np.float32]:
        """Vectors (B, D) of the sequences of a batch.

        Of `concurrency` batches it computes `computed_at_once` at the same time; with `pads`, each as a rectangle as
        wide as its longest sequence.
        """
        ...


@dataclass(kw_only=True, slots=True)
class BatchBudget:
    """Tokens of one encoder batch, padding included. Halved when memory runs out, and remembered from then on."""

    tokens: int
    give_back: Callable[[], None] = lambda: None
    """Called when memory has run out, before the next try: what this process has free, others may need."""

    def fits(self, lengths: Int64, *, pads: bool) -> bool:
        """Whether sequences of these lengths, longest first, may be one batch. A single one always may."""
        return len(lengths) <= 1 or computed_tokens(lengths, pads=pads) <= self.tokens


def computed_tokens(lengths: Int64, *, pads: bool) -> int:
    """Of sequences of these lengths, longest first, in one batch."""
    return int(lengths[0]) * len(lengths) if pads else int(lengths.sum())


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedChunks:
    """Consecutive chunks of texts and their vectors, in text order."""

    texts: ReadTexts
    chunk_N: Int64
    """Which of the texts' chunks these are."""
    vectors_ND: NDArray[np.float32] = field(repr=False)


def embed_texts(
    read: ReadTexts,
    *,
    frame: Frame,
    encoder: ChunkEncoder,
    budget: BatchBudget,
    window_chunks: int = WINDOW_CHUNKS,
    on_encoded: OnEncoded = lambda _tokens: None,
) -> Iterator[EmbeddedChunks]:
    """Embed every chunk of every text, `window_chunks` at a time; at least one window, be it empty.

    `frame` is that of the tokenizer that the texts were read with; `on_encoded` is told the useful tokens of each batch
    as it is done. A text without tokens has no chunk. Vectors are float32 (N, D) whatever the encoder computes in.
    """
    for first in range(0, max(1, len(read.spans)), window_chunks):
        chunk_N = np.arange(first, min(first + window_chunks, len(read.spans)))
        vectors_ND = _encode(read, chunk_N, frame, encoder, budget, on_encoded)
        yield EmbeddedChunks(texts=read, chunk_N=chunk_N, vectors_ND=vectors_ND)


def _encode(
    read: ReadTexts,
    chunk_N: Int64,
    frame: Frame,
    encoder: ChunkEncoder,
    budget: BatchBudget,
    on_encoded: OnEncoded,
) -> NDArray[np.float32]:
    vectors_ND = np.empty((len(chunk_N), encoder.dimension), np.float32)
    count_N = read.spans.count_N[chunk_N]
    lengths_N = count_N + len(frame)
    first_N = read.first_tokens(chunk_N)
    # Longest first: batches of nearly equal length pad little, and memory runs out at once or never.
    order_N = np.argsort(-lengths_N, kind="stable")

    # Not recursive: a function that names itself lives, with all that it holds, until Python looks for cycles.
    def encode(chosen: Int64, *, alone: bool = True) -> Int64:
        """Encode these chunks in one batch, or in as many as memory asks for."""
        waiting = [chosen]
        while waiting:
            part = waiting.pop()
            half = len(part) // 2
            if not budget.fits(lengths_N[part], pads=encoder.pads):
                waiting += [part[half:], part[:half]]
                continue
            try:
                vectors_ND[part] = encoder(frame.batch(read.token_ids, first_N[part], count_N[part]))
                continue
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or (alone and len(part) == 1):
                    raise
            budget.give_back()  # not before: the error held what the batch had computed
            if len(part) == 1:
                put_off.append(part)
                continue
            budget.tokens = min(budget.tokens, computed_tokens(lengths_N[part[:half]], pads=encoder.pads))
            log.warning("out of memory: batches of %d tokens from here on", budget.tokens)
            waiting += [part[half:], part[:half]]
        return chosen

    put_off: list[Int64] = []  # chunks that found no memory beside the other threads' batches
    batches = _batches(lengths_N[order_N], order_N, budget, encoder)
    if min(encoder.concurrency, len(batches)) <= 1:
        for chosen in batches:
            on_encoded(int(count_N[encode(chosen)].sum()))
        return vectors_ND
    with encoder.threads() as threads, in_order(threads, partial(encode, alone=False), batches) as done:
        for chosen in done:
            on_encoded(int(count_N[chosen].sum()))
    for chosen in put_off:
        encode(chosen)
    return vectors_ND


def _batches(lengths_N: Int64, chunk_N: Int64, budget: BatchBudget, encoder: ChunkEncoder) -> list[Int64]:
    """Full batches of chunks, longest first, then smaller ones: none is waited for alone for long."""
    batches: list[Int64] = []
    ends_N = np.cumsum(lengths_N)
    at = 0
    while at < len(chunk_N):
        before = int(ends_N[at] - lengths_N[at])
        left = int(ends_N[-1]) - before
        tokens = min(budget.tokens, max(left // encoder.computed_at_once, budget.tokens // SMALLEST_BATCH))
        if encoder.pads:
            end = at + tokens // int(lengths_N[at])
        else:
            end = int(np.searchsorted(ends_N, before + tokens, side="right"))
        end = max(at + 1, end)
        batches.append(chunk_N[at:end])
        at = end
    return batches


def out_of_memory(error: Exception) -> bool:
    """Whether a batch failed because it was too large."""
    # On the CPU torch's allocator and oneDNN raise a plain RuntimeError. The latter's may mean another fault: then the
    # batch is halved down to one sequence in vain, and the error comes out after all.
    texts = ("can't allocate memory", "could not create a primitive", "could not create a memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in texts)
