"""RoBERT: recurrence over the vectors of a document's chunks.

Axes as in `robert_pipeline.core.head`; X counts layers times directions, the way nn.LSTM orders its final states.
Never pads: documents are read as one PackedSequence.
"""

import torch
from torch import Tensor, nn

from robert_pipeline.config import HeadConfig
from robert_pipeline.core.head import Head
from robert_pipeline.core.pack import PackPlan, plan_pack
from robert_pipeline.core.recurrence import can_run, run_lstm


class RobertHead(Head):
    """An LSTM over chunk vectors, the last hidden state of each document classified.

    Pappagari et al. 2019, "Hierarchical Transformers for Long Document Classification", section 3.2. Parameter names
    are those of the model it comes from (`lstm.*`, `out.*`), so its state_dict loads as it is.
    """

    def __init__(self, config: HeadConfig, *, dimension: int, logit_count: int) -> None:
        directions = 2 if config.bidirectional else 1
        super().__init__(config, vector_size=config.hidden * directions, logit_count=logit_count)
        self.parts = directions
        self.lstm = nn.LSTM(
            dimension,
            config.hidden,
            num_layers=config.layers,
            bidirectional=config.bidirectional,
            dropout=config.dropout if config.layers > 1 else 0.0,
        )

    def forward(self, vectors_ND: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits (B, K), from the last states alone: nothing is unpacked."""
        documents_BS, _ = self._run(vectors_ND, plan_pack(lengths_B))
        return self.classify(documents_BS)

    def read(self, vectors_ND: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """The last layer's final hidden states, forward then backward, and its hidden state at every chunk."""
        plan = plan_pack(lengths_B)
        documents_BS, packed_NS = self._run(vectors_ND, plan)
        return documents_BS, plan.unpack(packed_NS)

    def _run(self, vectors_ND: Tensor, plan: PackPlan) -> tuple[Tensor, Tensor]:
        """Final states in document order, all states in packed order."""
        packed = plan.pack(vectors_ND)
        if can_run(self.lstm, packed.data):
            states_NS, last_BS = run_lstm(self.lstm, packed)
            return last_BS[plan.rank_B], states_NS
        states, (last_XBH, _) = self.lstm(packed)
        # nn.LSTM orders its final states layer by layer, within a layer forward then backward.
        documents_BS = torch.cat([last_XBH[-2], last_XBH[-1]], dim=1) if self.parts == 2 else last_XBH[-1]
        return documents_BS, states.data

    def shares(self, values_NP: Tensor, lengths_B: Tensor) -> Tensor:
        """h_t - h_(t-1) with h_0 = 0 forward; h_t - h_(t+1) with h_(L+1) = 0 backward."""
        shares_N = _steps_forward(values_NP[:, 0], lengths_B)
        return shares_N if self.parts == 1 else shares_N + _steps_backward(values_NP[:, 1], lengths_B)

    def input_layers(self) -> list[tuple[Tensor, Tensor]]:
        """The first layer's input maps, one per direction."""
        names = ["l0", "l0_reverse"][: self.parts]
        return [(getattr(self.lstm, f"weight_ih_{n}"), getattr(self.lstm, f"bias_ih_{n}")) for n in names]


def _steps_forward(values_N: Tensor, lengths_B: Tensor) -> Tensor:
    before_N = values_N.roll(1)
    before_N[lengths_B.cumsum(0) - lengths_B] = 0
    return values_N - before_N


def _steps_backward(values_N: Tensor, lengths_B: Tensor) -> Tensor:
    after_N = values_N.roll(-1)
    after_N[lengths_B.cumsum(0) - 1] = 0
    return values_N - after_N
