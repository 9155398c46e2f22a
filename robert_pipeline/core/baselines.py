"""The heads RoBERT is held against, on the same shards: first chunk only, mean of chunks, ToBERT.

Axes as in `robert_pipeline.core.head`. Same contract: flat vectors and lengths in, logits out, shares that add up.
"""

import math

import torch
from torch import Tensor, nn

from robert_pipeline.config import HeadConfig
from robert_pipeline.core.head import Head


class MeanHead(Head):
    """The mean of a document's chunk vectors, classified."""

    def __init__(self, config: HeadConfig, *, dimension: int, logit_count: int) -> None:
        super().__init__(config, vector_size=dimension, logit_count=logit_count)

    def read(self, vectors_ND: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Means (B, D), and the chunk vectors themselves."""
        states_ND = vectors_ND.float()
        return document_means(states_ND, lengths_B), states_ND

    def shares(self, values_NP: Tensor, lengths_B: Tensor) -> Tensor:
        """x_t / L: exact, the mean is a sum."""
        return values_NP[:, 0] / lengths_B.repeat_interleave(lengths_B)

    def input_layers(self) -> list[tuple[Tensor, Tensor]]:
        """The first linear map; a mean passes scaling through."""
        first = self.dense if self.dense is not None else self.out
        return [(first.weight, first.bias)]


class FirstChunkHead(MeanHead):
    """The first chunk alone, classified: what a model that truncates would see."""

    def read(self, vectors_ND: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """First chunks (B, D), and the chunk vectors themselves."""
        states_ND = vectors_ND.float()
        return states_ND[lengths_B.cumsum(0) - lengths_B], states_ND

    def shares(self, values_NP: Tensor, lengths_B: Tensor) -> Tensor:
        """All of it is the first chunk's."""
        firsts_B = lengths_B.cumsum(0) - lengths_B
        shares_N = torch.zeros_like(values_NP[:, 0])
        shares_N[firsts_B] = values_NP[firsts_B, 0]
        return shares_N


class TobertHead(Head):
    """ToBERT: a transformer over chunk vectors with positions, the mean of its outputs classified.

    Pappagari et al. 2019, section 3.3. Positions are sinusoids (Vaswani et al. 2017, section 3.5), so that a document
    may have any number of chunks; chunk vectors are projected to `hidden` first.
    """

    def __init__(self, config: HeadConfig, *, dimension: int, logit_count: int) -> None:
        super().__init__(config, vector_size=config.hidden, logit_count=logit_count)
        self.project = nn.Linear(dimension, config.hidden)
        block = nn.TransformerEncoderLayer(
            config.hidden,
            config.attention_heads,
            dim_feedforward=4 * config.hidden,
            dropout=config.dropout,
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(
            block, config.layers, nn.LayerNorm(config.hidden), enable_nested_tensor=False
        )

    def read(self, vectors_ND: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Means (B, H) of the outputs, and every chunk's output, which has seen its neighbours through attention.

        Documents are padded by groups of like length, so that memory is that of the chunks and not of the longest.
        """
        inputs_NH = self.project(vectors_ND.float())
        starts_B = lengths_B.cumsum(0) - lengths_B
        rows: list[Tensor] = []
        outputs: list[Tensor] = []
        for group in length_groups(lengths_B):
            lengths_G = lengths_B[group]
            steps_L = torch.arange(int(lengths_G.max()), device=lengths_B.device)
            real_GL = steps_L < lengths_G[:, None]
            rows_GL = starts_B[group][:, None] + torch.where(real_GL, steps_L, 0)
            inputs_GLH = inputs_NH[rows_GL] + sinusoids(len(steps_L), inputs_NH.shape[1]).to(inputs_NH)
            outputs.append(self.blocks(inputs_GLH, src_key_padding_mask=~real_GL)[real_GL])
            rows.append(rows_GL[real_GL])
        states_NH = torch.cat(outputs)[torch.cat(rows).argsort()]
        return document_means(states_NH, lengths_B), states_NH

    def shares(self, values_NP: Tensor, lengths_B: Tensor) -> Tensor:
        """z_t / L of the contextual outputs: they add up, but z_t holds what attention brought from other chunks."""
        return values_NP[:, 0] / lengths_B.repeat_interleave(lengths_B)

    def input_layers(self) -> list[tuple[Tensor, Tensor]]:
        """The projection."""
        return [(self.project.weight, self.project.bias)]


def document_means(states_NS: Tensor, lengths_B: Tensor) -> Tensor:
    """Mean of the rows of each document (B, S); every document has at least one."""
    document_N = torch.repeat_interleave(lengths_B)
    sums_BS = states_NS.new_zeros(len(lengths_B), states_NS.shape[1]).index_add(0, document_N, states_NS)
    return sums_BS / lengths_B[:, None]


def length_groups(lengths_B: Tensor, *, cells: int = 1 << 15, pairs: int = 1 << 22) -> list[Tensor]:
    """Document indices, longest first, in groups of at most `cells` padded chunks and `pairs` pairs of them.

    One document may exceed both. No document is shorter than half the longest of its group, so that at most half of a
    group is padding.
    """
    order_B = torch.argsort(lengths_B, descending=True, stable=True)
    shortness_B = -lengths_B[order_B]
    groups, first = [], 0
    while first < len(order_B):
        longest = -int(shortness_B[first])
        long_enough = int(torch.searchsorted(shortness_B, -((longest + 1) // 2), right=True))
        last = min(long_enough, first + max(1, min(cells // longest, pairs // longest**2)))
        groups.append(order_B[first:last])
        first = last
    return groups


def sinusoids(length: int, width: int) -> Tensor:
    """Positions (length, width), float32: sine on even columns, cosine on odd ones."""
    frequencies = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(length)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=2).reshape(length, width)
