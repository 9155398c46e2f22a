"""The classifier over chunk vectors: flat vectors and lengths in, logits out, and the states that explain them.

Every head builds one vector a document, classifies it with an (optionally one-hidden-layer) linear map, and can say
what each chunk added. Axes: N all chunks in document order, B documents, L chunks, D embedding, H hidden, S the
document vector, U dense units, K logits. Never pads a recurrent batch, never sees a file.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from robert_pipeline.config import Plain
from robert_pipeline.core.pack import plan_pack
from robert_pipeline.errors import ConfigError

HeadKind = Literal["robert", "mean", "first-chunk", "tobert"]
Output = Literal["auto", "binary", "multiclass", "multilabel"]

HEAD_KINDS: tuple[HeadKind, ...] = ("robert", "mean", "first-chunk", "tobert")
OUTPUTS: tuple[Output, ...] = ("auto", "binary", "multiclass", "multilabel")


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """Which head. The defaults are RoBERT's: one unidirectional LSTM layer of 100, its last state, a linear map.

    `output='auto'` is one logit for two labels and a softmax for more. `dense_units=30` is the ReLU layer of
    Pappagari et al. 2019, section 3.2. For 'tobert', `hidden` is the transformer's width, `layers` its blocks and
    `attention_heads` must divide `hidden`. `dropout` acts on the document vector, and between layers.
    """

    kind: HeadKind = "robert"
    output: Output = "auto"
    hidden: int = 100
    layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0
    dense_units: int | None = None
    attention_heads: int = 4

    def __post_init__(self) -> None:
        if self.kind not in HEAD_KINDS:
            raise ConfigError(f"head.kind is '{self.kind}'", fix=f"Give one of {', '.join(HEAD_KINDS)}")
        if self.output not in OUTPUTS:
            raise ConfigError(f"head.output is '{self.output}'", fix=f"Give one of {', '.join(OUTPUTS)}")
        for name in ("hidden", "layers", "attention_heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"head.{name} is {getattr(self, name)}", fix="Give at least 1")
        if self.dense_units is not None and self.dense_units < 1:
            raise ConfigError(f"head.dense_units is {self.dense_units}", fix="Give at least 1, or leave it out")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"head.dropout is {self.dropout}", fix="Give at least 0 and less than 1")
        if self.kind == "tobert" and self.hidden % (2 * self.attention_heads):
            raise ConfigError(
                f"head.hidden is {self.hidden} with {self.attention_heads} attention heads",
                fix="Give a multiple of twice the attention heads",
            )
        if self.bidirectional and self.kind != "robert":
            raise ConfigError(f"head.bidirectional is set for kind '{self.kind}'", fix="Only 'robert' recurs")

    def resolved(self, label_count: int) -> "HeadConfig":
        """The same head with `output` decided. Raises ConfigError where labels and output do not fit."""
        if label_count < 2 and self.output != "multilabel":
            raise ConfigError(f"a head needs at least 2 labels, there is {label_count}", fix="Give more labels")
        if self.output == "binary" and label_count != 2:
            raise ConfigError(
                f"head.output is 'binary' but there are {label_count} labels", fix="Use 'multiclass' or 'auto'"
            )
        if self.output == "auto":
            return replace(self, output="binary" if label_count == 2 else "multiclass")
        return self

    def values(self) -> dict[str, Plain]:
        """Every field by name, for fingerprints and files."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


class Head(nn.Module):
    """What all heads share: a classifier over one vector a document. Subclasses make that vector."""

    def __init__(self, config: HeadConfig, *, vector_size: int, logit_count: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        units = config.dense_units
        self.dense = nn.Linear(vector_size, units) if units is not None else None
        self.out = nn.Linear(units if units is not None else vector_size, logit_count)

    def forward(self, vectors_ND: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits of each document: float32 of (B, K), documents in the order given."""
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

    def shares(self, values_N: Tensor, lengths_B: Tensor) -> Tensor:
        """Turn <w, state> of every chunk into what the chunk added to <w, document vector>; adds up by document.

        `values_N` has one column per part of the state that `parts` names (N,) or (N, parts).
        """
        raise NotImplementedError

    @property
    def parts(self) -> int:
        """Into how many equal parts the state falls that are shared out differently (two for two directions)."""
        return 1

    def input_layers(self) -> list[tuple[Tensor, Tensor]]:
        """(weight, bias) of every linear map that reads chunk vectors."""
        raise NotImplementedError

    @torch.no_grad()
    def fold_scaling(self, mean_D: Tensor, scale_D: Tensor) -> None:
        """Make this head, trained on (x - mean) * scale, read x itself: W x' + b = (W s) x + (b - W s m)."""
        for weight, bias in self.input_layers():
            weight.mul_(scale_D)
            bias.sub_(weight @ mean_D)


class RobertHead(Head):
    """RoBERT: an LSTM over chunk vectors, the last hidden state of each document classified.

    Pappagari et al. 2019, "Hierarchical Transformers for Long Document Classification", section 3.2. Parameter names
    are those of the model it comes from (`lstm.*`, `out.*`), so its state_dict loads as it is.
    """

    def __init__(self, config: HeadConfig, *, dimension: int, logit_count: int) -> None:
        directions = 2 if config.bidirectional else 1
        super().__init__(config, vector_size=config.hidden * directions, logit_count=logit_count)
        self.lstm = nn.LSTM(
            dimension,
            config.hidden,
            num_layers=config.layers,
            bidirectional=config.bidirectional,
            dropout=config.dropout if config.layers > 1 else 0.0,
        )

    @property
    def parts(self) -> int:
        """One per direction."""
        return 2 if self.lstm.bidirectional else 1

    def read(self, vectors_ND: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """The last layer's final hidden states, forward then backward, and its hidden state at every chunk."""
        plan = plan_pack(lengths_B)
        packed_states, (last_XBH, _) = self.lstm(plan.pack(vectors_ND))
        # nn.LSTM orders h_n layer by layer, within a layer forward then backward.
        documents_BS = torch.cat([last_XBH[-2], last_XBH[-1]], dim=1) if self.lstm.bidirectional else last_XBH[-1]
        return documents_BS, plan.unpack(packed_states.data)

    def forward(self, vectors_ND: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits (B, K). Only the last states are used, so nothing is unpacked."""
        _, (last_XBH, _) = self.lstm(plan_pack(lengths_B).pack(vectors_ND))
        documents_BS = torch.cat([last_XBH[-2], last_XBH[-1]], dim=1) if self.lstm.bidirectional else last_XBH[-1]
        return self.classify(documents_BS)

    def shares(self, values_N: Tensor, lengths_B: Tensor) -> Tensor:
        """h_t - h_(t-1) with h_0 = 0 forward; h_t - h_(t+1) with h_(L+1) = 0 backward."""
        if values_N.ndim == 1:
            return _steps_forward(values_N, lengths_B)
        return _steps_forward(values_N[:, 0], lengths_B) + _steps_backward(values_N[:, 1], lengths_B)

    def input_layers(self) -> list[tuple[Tensor, Tensor]]:
        """The first layer's input maps, one per direction."""
        names = ["l0", "l0_reverse"] if self.lstm.bidirectional else ["l0"]
        return [(getattr(self.lstm, f"weight_ih_{n}"), getattr(self.lstm, f"bias_ih_{n}")) for n in names]


def _steps_forward(values_N: Tensor, lengths_B: Tensor) -> Tensor:
    firsts_B = lengths_B.cumsum(0) - lengths_B
    before_N = torch.zeros_like(values_N)
    before_N[1:] = values_N[:-1]
    before_N[firsts_B] = 0
    return values_N - before_N


def _steps_backward(values_N: Tensor, lengths_B: Tensor) -> Tensor:
    lasts_B = lengths_B.cumsum(0) - 1
    after_N = torch.zeros_like(values_N)
    after_N[:-1] = values_N[1:]
    after_N[lasts_B] = 0
    return values_N - after_N


def build_head(config: HeadConfig, *, dimension: int, label_count: int) -> Head:
    """A head with fresh weights from torch's global generator, for vectors of `dimension` values."""
    from robert_pipeline.core import baselines

    config = config.resolved(label_count)
    logit_count = 1 if config.output == "binary" else label_count
    kinds: dict[HeadKind, type[Head]] = {
        "robert": RobertHead,
        "mean": baselines.MeanHead,
        "first-chunk": baselines.FirstChunkHead,
        "tobert": baselines.TobertHead,
    }
    return kinds[config.kind](config, dimension=dimension, logit_count=logit_count)  # type: ignore[call-arg]
