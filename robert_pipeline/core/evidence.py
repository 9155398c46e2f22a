"""Why a label: what every chunk added to the logit of the chosen class, from the states of one forward pass.

Every head makes its document vector as a sum over chunks (`Head.shares`), and the classifier after it is linear, or
linear once the active units of its ReLU layer are fixed. So for class k with weights W_k (with a dense layer: the
gradient W_k diag(active) W_dense), the contributions of the chunks sum to the logit less the bias. For RoBERT with one
linear layer that is W_k · (h_t - h_(t-1)). What the numbers mean differs by head and is stated by `method`.

Axes: N chunks, B documents, S document vector, U dense units.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from robert_pipeline.config import HeadConfig
from robert_pipeline.core.head import Head


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Contributions of all chunks (N,), float64, to each document's chosen logit; they sum to `logit_B - bias_B`."""

    contributions_N: Tensor
    logit_B: Tensor
    bias_B: Tensor


def method(config: HeadConfig) -> str:
    """What a contribution is for this head, in one sentence. By document they sum to the logit less the bias."""
    if config.kind == "mean":
        text = "share of the mean: W_k x_t / L"
    elif config.kind == "first-chunk":
        text = "all of it is the first chunk's"
    elif config.kind == "tobert":
        text = "share of the mean of contextual outputs, W_k z_t / L, each of which attended to all chunks"
    elif config.bidirectional:
        text = "change of both directions' hidden states, W_f (f_t - f_(t-1)) + W_b (b_t - b_(t+1))"
    else:
        text = "change of the hidden state, W_k (h_t - h_(t-1))"
    if config.dense_units is not None:
        text += ", W_k being the gradient through the ReLU units that are active for the whole document"
    return text


def explain(head: Head, states_NS: Tensor, documents_BS: Tensor, lengths_B: Tensor, class_B: Tensor) -> Evidence:
    """Contributions to logit `class_B` of each document, given what `head.read` returned."""
    weights_BS, bias_B = _chosen_weights(head, documents_BS, class_B)
    # Unrounded from here on: what is subtracted chunk by chunk must add up over thousands of chunks.
    values_NP = _values(states_NS, weights_BS.repeat_interleave(lengths_B, dim=0), head.parts).double()
    return Evidence(
        contributions_N=head.shares(values_NP, lengths_B),
        logit_B=torch.linalg.vecdot(documents_BS, weights_BS) + bias_B,
        bias_B=bias_B,
    )


def _values(states_NS: Tensor, weights_NS: Tensor, parts: int) -> Tensor:
    """<weights, state> of every chunk, part by part (N, parts)."""
    values_NP: Tensor = torch.linalg.vecdot(
        states_NS.view(len(states_NS), parts, -1), weights_NS.view(len(weights_NS), parts, -1)
    )
    return values_NP


def _chosen_weights(head: Head, documents_BS: Tensor, class_B: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and bias of the linear map that gives the chosen logit at this very document vector."""
    if head.dense is None:
        return head.out.weight[class_B], head.out.bias[class_B]
    before_BU = head.dense(documents_BS)
    active_BU = (before_BU > 0).to(before_BU)
    chosen_BU = head.out.weight[class_B] * active_BU
    return chosen_BU @ head.dense.weight, head.out.bias[class_B] + chosen_BU @ head.dense.bias
