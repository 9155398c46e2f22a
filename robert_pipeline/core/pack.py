"""Ragged documents to PyTorch's PackedSequence: flat chunk vectors and lengths in, one gather, no padding.

Axes: N all chunks of the batch in document order, B documents, D embedding. Never pads, never copies a vector twice.
"""

from dataclasses import dataclass

import torch
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
