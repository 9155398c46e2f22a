"""Documents to learn from or to judge by: their chunk vectors, wherever they lie, and their targets.

Axes: N chunks, B documents, D embedding, K labels. Gives one batch of vectors at a time, never more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robert_pipeline.core.head import Head
from robert_pipeline.core.pack import borrow

Integers = NDArray[np.int64]
TargetValues = NDArray[np.int64] | NDArray[np.bool_]
"""The class of each document (B,), or for multi-label heads a mask (B, K)."""


class DocumentVectors(Protocol):
    """Chunk vectors of numbered documents, wherever they are."""

    @property
    def lengths_B(self) -> Integers:  # noqa: N802
        """Chunks of every document."""
        ...

    @property
    def dimension(self) -> int:
        """Values in a vector."""
        ...

    def gather(self, documents: Integers) -> NDArray[np.floating]:
        """Vectors of these documents, one after the other: (sum of their lengths, D)."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class InMemoryVectors:
    """DocumentVectors over one array: small sets, tests, benchmarks."""

    vectors_ND: NDArray[np.floating]
    lengths_B: Integers

    @property
    def dimension(self) -> int:
        """Values in a vector."""
        return int(self.vectors_ND.shape[1])

    def gather(self, documents: Integers) -> NDArray[np.floating]:
        """Vectors of these documents, one after the other."""
        ends_B = np.cumsum(self.lengths_B)
        lengths = self.lengths_B[documents]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        rows: NDArray[np.floating] = self.vectors_ND[np.repeat(ends_B[documents] - lengths, lengths) + within]
        return rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """Some documents of a DocumentVectors with their targets."""

    vectors: DocumentVectors
    documents: Integers
    targets: TargetValues

    @property
    def lengths_B(self) -> Integers:  # noqa: N802
        """Chunks of every document."""
        lengths_B: Integers = self.vectors.lengths_B[self.documents]
        return lengths_B


def batches(lengths_B: Integers, *, max_documents: int, max_chunks: int) -> Iterator[tuple[int, int]]:
    """[first, last) of batches of at most so many documents and chunks, or of one document, in order."""
    ends_B = np.cumsum(lengths_B)
    first = 0
    while first < len(lengths_B):
        before = ends_B[first - 1] if first else 0
        fitting = int(np.searchsorted(ends_B, before + max_chunks, side="right"))
        last = max(first + 1, min(fitting, first + max_documents))
        yield first, last
        first = last


def input_scaling(examples: Examples, *, max_chunks: int = 16384) -> tuple[Tensor, Tensor]:
    """Mean and 1 / standard deviation of every vector component over the documents' chunks, batch by batch."""
    count = 0
    sums_D = np.zeros(examples.vectors.dimension)
    squares_D = np.zeros(examples.vectors.dimension)
    for first, last in batches(examples.lengths_B, max_documents=2048, max_chunks=max_chunks):
        vectors_ND = examples.vectors.gather(examples.documents[first:last]).astype(np.float32)
        count += len(vectors_ND)
        sums_D += vectors_ND.sum(axis=0, dtype=np.float64)
        squares_D += np.square(vectors_ND).sum(axis=0, dtype=np.float64)
    mean_D = sums_D / count
    with np.errstate(invalid="ignore"):  # infinite vectors; the loss will tell
        deviation_D = np.sqrt(np.maximum(squares_D / count - mean_D**2, 0))
    # A component that never changes says nothing: leave it as it is.
    floor = 1e-3 * float(deviation_D.max())
    scale_D = np.where(deviation_D > floor, 1 / np.maximum(deviation_D, 1e-30), 1.0)
    return torch.from_numpy(mean_D).float(), torch.from_numpy(scale_D).float()


@torch.inference_mode()
def logits(
    module: Head, vectors: DocumentVectors, documents: Integers, *, max_chunks: int = 16384
) -> NDArray[np.float64]:
    """Logits (B, K), float64, of these documents; a batch of vectors in memory at a time."""
    module.eval()
    lengths_B = vectors.lengths_B[documents]
    parts: list[NDArray[np.float64]] = []
    for first, last in batches(lengths_B, max_documents=2048, max_chunks=max_chunks):
        vectors_ND = borrow(vectors.gather(documents[first:last]))
        parts.append(module(vectors_ND, torch.from_numpy(lengths_B[first:last])).double().numpy())
    return np.concatenate(parts) if parts else np.empty((0, module.out.out_features))
