"""What every head is: flat chunk vectors and lengths in, logits out, and the states that explain them.

A head builds one vector a document, classifies it with an (optionally one-hidden-layer) linear map, and can say what
each chunk added. Axes: N all chunks in document order, B documents, L chunks, D embedding, H hidden, S the document
vector, P parts of it, U dense units, K logits. Never sees a file, a label or a probability.
"""

import torch
from torch import Tensor, nn

from robert_pipeline.config import HeadConfig


class Head(nn.Module):
    """A classifier over one vector a document. Subclasses make that vector."""

    parts = 1
    """Equal parts of the document vector that chunks share in differently: two for two directions."""

    def __init__(self, config: HeadConfig, *, vector_size: int, logit_count: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        units = config.dense_units
        self.dense = nn.Linear(vector_size, units) if units is not None else None
        self.out = nn.Linear(units if units is not None else vector_size, logit_count)

    def forward(self, vectors_ND: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits of each document: float32 of (B, K), documents in the order given.

        Every document has at least one chunk; `lengths_B` (int64) adds up to N. Documents do not touch each other.
        """
        documents_BS, _ = self.read(vectors_ND, lengths_B)
        return self.classify(documents_BS)

    def classify(self, documents_BS: Tensor) -> Tensor:
        """Document vectors to logits (B, K)."""
        features = self.dropout(documents_BS)
        if self.dense is not None:
            features = self.dropout(torch.relu(self.dense(features)))
        logits_BK: Tensor = self.out(features)
        return logits_BK

    def read(self, vectors_ND: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Document vectors (B, S), and the state each chunk left behind (N, S), chunks in the order given."""
        raise NotImplementedError

    def shares(self, values_NP: Tensor, lengths_B: Tensor) -> Tensor:
        """What each chunk (N,) added to <w, document vector>, given <w, its state> by part; adds up by document."""
        raise NotImplementedError

    def input_layers(self) -> list[tuple[Tensor, Tensor]]:
        """(weight, bias) of every linear map that reads chunk vectors."""
        raise NotImplementedError

    @torch.no_grad()
    def fold_scaling(self, mean_D: Tensor, scale_D: Tensor) -> None:
        """Make this head, trained on (x - mean) * scale, read x itself: W x' + b = (W s) x + (b - W s m)."""
        for weight, bias in self.input_layers():
            weight.mul_(scale_D)
            bias.sub_(weight @ mean_D)
