"""Ragged documents to PyTorch's PackedSequence: flat chunk vectors and lengths in, one gather, no padding.

Axes: N all chunks of the batch in document order, B documents, D embedding. Never pads, never copies a vector twice.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


@dataclass(frozen=True, kw_only=True, slots=True)
class PackPlan:
    """Where every chunk goes. `position_N[n]` is the packed row of flat chunk n; `source_N` its inverse."""

    position_N: Tensor
    source_N: Tensor
    batch_sizes_L: Tensor
    order_B: Tensor
    rank_B: Tensor

    def pack(self, vectors_ND: Tensor) -> PackedSequence:
        """Gather flat vectors into packed order, as float32."""
        packed_ND = vectors_ND.index_select(0, self.source_N).float()
        return PackedSequence(packed_ND, self.batch_sizes_L, self.order_B, self.rank_B)

    def unpack(self, packed_NH: Tensor) -> Tensor:
        """Gather packed rows back into flat document order."""
        return packed_NH.index_select(0, self.position_N)


def plan_pack(lengths_B: Tensor) -> PackPlan:
    """Lay out documents of `lengths_B` chunks (int64, each at least 1) longest first, step by step.

    The packed row of chunk t of the document of rank r is offset[t] + r, where offset[t] counts the rows of all
    earlier steps: the layout that torch.nn.utils.rnn.pack_padded_sequence gives, without the padded tensor.
    Raises ValueError for a document without chunks.
    """
    if lengths_B.numel() == 0 or int(lengths_B.min()) < 1:
        raise ValueError("every document needs at least one chunk")
    order_B = torch.argsort(lengths_B, descending=True, stable=True)
    rank_B = torch.empty_like(order_B)
    rank_B[order_B] = torch.arange(len(order_B), device=lengths_B.device)
    # Documents still running at step t: all of them less those that ended at or before t.
    ended_L = torch.bincount(lengths_B).cumsum(0)
    batch_sizes_L = len(lengths_B) - ended_L[:-1]
    offsets_L = batch_sizes_L.cumsum(0) - batch_sizes_L
    step_N = chunk_positions(lengths_B)
    position_N = offsets_L[step_N] + rank_B.repeat_interleave(lengths_B)
    source_N = torch.empty_like(position_N)
    source_N[position_N] = torch.arange(len(position_N), device=lengths_B.device)
    # PackedSequence wants batch sizes on the CPU whatever the device of the data.
    return PackPlan(
        position_N=position_N,
        source_N=source_N,
        batch_sizes_L=batch_sizes_L.cpu(),
        order_B=order_B,
        rank_B=rank_B,
    )


def chunk_positions(lengths_B: Tensor) -> Tensor:
    """Position of every chunk in its document, from 0: (2, 3) gives 0 1 0 1 2."""
    starts_B = lengths_B.cumsum(0) - lengths_B
    total = int(lengths_B.sum())
    return torch.arange(total, device=lengths_B.device) - starts_B.repeat_interleave(lengths_B)


class _Writable:
    """Shows an array's memory to numpy as writable, and keeps it alive."""

    def __init__(self, array: NDArray[np.floating]) -> None:
        self._array = array
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


def borrow(array: NDArray[np.floating]) -> Tensor:
    """A tensor over the same memory, which the caller only reads: torch has no read-only tensors and warns."""
    return torch.from_numpy(array if array.flags.writeable else np.asarray(_Writable(array)))


def finite_documents(vectors_ND: NDArray[np.floating], lengths_B: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which documents have neither NaN nor infinity in any vector (B,)."""
    # A sum is not finite if any value is not; where it is not, look closely, for a large sum may overflow.
    sums_N = borrow(vectors_ND).sum(1, dtype=torch.float32).numpy()
    suspects = np.flatnonzero(~np.isfinite(sums_N))
    bad = suspects[~np.isfinite(vectors_ND[suspects]).all(axis=1)]
    finite_B = np.ones(len(lengths_B), bool)
    finite_B[np.searchsorted(np.cumsum(lengths_B), bad, side="right")] = False
    return finite_B
