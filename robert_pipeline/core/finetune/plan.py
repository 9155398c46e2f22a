"""Which chunks a step of fine-tuning sees. Token counts enter, steps of chunks leave; the same seed, the same steps.

Axes: B documents, N chunks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from robert_pipeline.core.chunk import ChunkSpans

Int64 = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """Chunks of one optimiser step, as rows of the ChunkSpans, and their weights; a document's weights sum to 1."""

    chunks: Int64
    weights: NDArray[np.float32]


def epoch_steps(
    spans: ChunkSpans,
    documents: Int64,
    *,
    epoch: int,
    chunks_per_document: int,
    step_tokens: int,
    special_tokens: int,
    seed: int,
) -> list[Step]:
    """The steps of one epoch over `documents`, chunks in random order, each step of about `step_tokens` tokens.

    Of a long document the next `chunks_per_document` chunks of a random order are drawn: none again before all have
    been. The epoch is cut into steps of even size, so that no step is left with a few tokens.
    """
    chunks, weights = _drawn(spans, documents, chunks_per_document, epoch, np.random.default_rng([seed, 0]))
    order = np.random.default_rng([seed, 1 + epoch]).permutation(len(chunks))
    chunks, weights = chunks[order], weights[order]
    ends = np.cumsum(spans.count_N[chunks] + special_tokens)
    count = max(1, round(int(ends[-1]) / step_tokens))
    edges = [0, *(np.searchsorted(ends, np.arange(1, count) * ends[-1] / count) + 1), len(chunks)]
    return [
        Step(chunks=chunks[first:last], weights=weights[first:last]) for first, last in pairwise(edges) if last > first
    ]


def _drawn(
    spans: ChunkSpans, documents: Int64, most: int, epoch: int, random: np.random.Generator
) -> tuple[Int64, NDArray[np.float32]]:
    """Up to `most` chunks of each document, without repeats, and their weights. `random` starts alike each epoch."""
    lengths = spans.lengths_B[documents]
    first = (np.cumsum(spans.lengths_B) - spans.lengths_B)[documents]
    every = np.repeat(first, lengths) + np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    # The place of each chunk in an order of its document's chunks by one random number each.
    document = np.repeat(np.arange(len(documents)), lengths)
    order = np.lexsort((random.random(len(every)), document))
    place = np.arange(len(every)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    kept = order[(place - epoch * most) % np.repeat(lengths, lengths) < most]
    drawn = np.minimum(lengths, most)
    return every[kept], (1.0 / drawn[document[kept]]).astype(np.float32)


def batches(step: Step, spans: ChunkSpans, *, batch_tokens: int, special_tokens: int, workers: int) -> list[Step]:
    """Cut a step into batches of at most `batch_tokens` tokens (or one chunk), a multiple of `workers` if there are
    enough chunks, with nearly equal tokens: workers wait for the slowest.
    """
    tokens = spans.count_N[step.chunks] + special_tokens
    count = -(-int(tokens.sum()) // batch_tokens)
    count = min(len(step.chunks), -(-count // workers) * workers)
    while True:
        bins = _spread(tokens, count)
        if count == len(step.chunks) or max(int(tokens[chosen].sum()) for chosen in bins) <= batch_tokens:
            return [Step(chunks=step.chunks[chosen], weights=step.weights[chosen]) for chosen in bins]
        count = min(len(step.chunks), count + workers)


def _spread(tokens: Int64, count: int) -> list[Int64]:
    """Largest first, each into the emptiest of `count` bins."""
    bins: list[list[int]] = [[] for _ in range(count)]
    held = [0] * count
    for chunk in np.argsort(-tokens, kind="stable").tolist():
        emptiest = held.index(min(held))
        bins[emptiest].append(chunk)
        held[emptiest] += int(tokens[chunk])
    return [np.array(chosen, np.int64) for chosen in bins if chosen]


def evaluation_batches(
    spans: ChunkSpans, documents: Int64, *, batch_tokens: int, special_tokens: int, most_chunks: int
) -> Iterator[tuple[Int64, Int64]]:
    """All chunks of `documents` (of a longer one, `most_chunks` at even distances) in batches of like length.

    Gives chunk rows, and for each its place in `documents`.
    """
    firsts = (np.cumsum(spans.lengths_B) - spans.lengths_B)[documents]
    rows: list[Int64] = []
    owners: list[Int64] = []
    for place, (first, length) in enumerate(zip(firsts.tolist(), spans.lengths_B[documents].tolist(), strict=True)):
        chosen = (
            np.arange(length) if length <= most_chunks else np.linspace(0, length - 1, most_chunks).round().astype(int)
        )
        rows.append(first + chosen)
        owners.append(np.full(len(chosen), place))
    chunks, owner = np.concatenate(rows), np.concatenate(owners)
    tokens = spans.count_N[chunks] + special_tokens
    order = np.argsort(-tokens, kind="stable")
    at = 0
    while at < len(order):
        chosen = order[at : at + max(1, batch_tokens // int(tokens[order[at]]))]
        yield chunks[chosen], owner[chosen]
        at += len(chosen)
