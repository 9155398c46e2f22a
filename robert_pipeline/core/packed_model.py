"""Run a transformers model over sequences that lie one after the other, without padding between them.

The model's code stays transformers': its attention is exchanged through AttentionInterface for one that keeps sequences
apart, and its positions are given. Whether a model can run so is found by trying (`agrees`), never assumed.

Axes: N tokens of all sequences, B sequences, A heads, E values of a head, D hidden.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from robert_pipeline.core.token_batch import TokenBatch, on_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION_NAME = "robert_packed"
TRIAL_LENGTHS = (131, 7, 200, 64, 1, 180)
SHAPE_TOKENS, FILLER_TOKENS = 256, 32
MIN_COSINE = 0.999
"""Between a token's vector packed and padded; bfloat16 alone keeps 0.9999."""


class AttentionKernel(Protocol):
    """Softmax attention within each of several packed sequences, with its gradient; see robert_pipeline.native."""

    def forward(
        self, q_NAE: Tensor, k_NAE: Tensor, v_NAE: Tensor, starts: Tensor, scale: float, *, with_sums: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Output (N, A, E), and what `backward` needs."""
        ...

    def backward(
        self,
        q_NAE: Tensor,
        k_NAE: Tensor,
        v_NAE: Tensor,
        out_NAE: Tensor,
        sums_AN: Tensor,
        grad_NAE: Tensor,
        starts: Tensor,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of q, k and v."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Packing:
    """What the attention needs to know of a batch; travels through the model's keyword arguments."""

    starts: Tensor
    longest: int
    kernel: AttentionKernel | None
    """None: the device's own variable-length attention (CUDA)."""


class TokenStates(Protocol):
    """A model's hidden states, by one way of computing them."""

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Of every token (N, D)."""
        ...

    def computed_tokens(self, batch: TokenBatch) -> int:
        """Tokens that are computed for a batch: its own, and what is put between or behind them."""
        ...


def token_states(model: "PreTrainedModel", *, pad_id: int, kernel: "AttentionKernel | None") -> tuple[TokenStates, str]:
    """The fastest way to this model's hidden states (N, D) on its device, and its name. Differentiable.

    Packed where the model computes in bfloat16, an attention for it is at hand, and trial sequences agree; else padded.
    """
    padded = PaddedModel(model, pad_id=pad_id)
    device, precision = model.device.type, str(model.dtype).removeprefix("torch.")
    if precision == "bfloat16" and (device == "cuda" or kernel is not None):
        for has_no_masks in (True, False) if _layer_kinds(model) else (False,):
            packed = PackedModel(
                model,
                kernel if device == "cpu" else None,
                first_position=first_position(model),
                has_no_masks=has_no_masks,
            )
            if agrees(packed, padded):
                return packed, f"{precision}, packed without padding"
    return padded, f"{precision}, padded"


class PackedModel:
    """A model prepared for packed batches. Also answers padded ones.

    A model whose layers are of several kinds (ModernBERT: some see a window) makes a mask of every token by every
    other, gigabytes that are never read, unless it is told that there is none for any kind: `has_no_masks`.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        kernel: AttentionKernel | None,
        *,
        first_position: int,
        has_no_masks: bool = False,
    ) -> None:
        register_attention()
        model.set_attn_implementation(ATTENTION_NAME)
        self.model = model
        self.kernel = kernel
        self.first_position = first_position
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self._masks = {"attention_mask": dict.fromkeys(_layer_kinds(model))} if has_no_masks else {}

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Hidden states of every token (N, D), in the model's dtype, on its device."""
        device, tokens = self.model.device, len(batch.token_ids)
        if device.type == "cpu":
            # oneDNN compiles and keeps a product for each number of rows that it meets: few and round numbers.
            batch = batch.filled(self.computed_tokens(batch), filler_tokens=FILLER_TOKENS)
        starts = batch.starts if device.type == "cpu" else batch.starts.astype(np.int32)
        positions_N = on_device(batch.positions(), device) if self._takes_positions else None
        longest = int(batch.lengths_B.max())
        return self.states(on_device(batch.token_ids, device), positions_N, on_device(starts, device), longest)[:tokens]

    def states(self, ids_N: Tensor, positions_N: Tensor | None, starts: Tensor, longest: int) -> Tensor:
        """Hidden states (N, D) of a batch that is on the device.

        Positions in their sequences are None only where the model takes none; `longest` is the most tokens of a
        sequence.
        """
        positions = {}
        if self._takes_positions and positions_N is not None:
            positions["position_ids"] = positions_N[None] + self.first_position
        packing = Packing(starts=starts, longest=longest, kernel=self.kernel)
        output = self.model(input_ids=ids_N[None], packing=packing, **positions, **self._masks)
        hidden_ND: Tensor = output.last_hidden_state[0]
        return hidden_ND

    def computed_tokens(self, batch: TokenBatch) -> int:
        """The batch's, rounded up on a CPU."""
        multiple = SHAPE_TOKENS if self.model.device.type == "cpu" else 1
        return -(-len(batch.token_ids) // multiple) * multiple


def _layer_kinds(model: "PreTrainedModel") -> tuple[str, ...]:
    return tuple(getattr(model.config, "layer_types", None) or ())


def first_position(model: "PreTrainedModel") -> int:
    """Position of a sequence's first token: RoBERTa and its kin count from the padding id on."""
    for name, module in model.named_modules():
        padding_id = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and isinstance(padding_id, int):
            return padding_id + 1
    return 0


def agrees(packed: PackedModel, padded: "PaddedModel") -> bool:
    """Whether the packed model gives every token the vector that the padded one gives it."""
    with torch.inference_mode():
        theirs_ND = padded(_trial(packed)).float()
    return tried(packed, like=theirs_ND) is not None


def tried(packed: PackedModel, *, like: Tensor | None = None, only_firsts: bool = False) -> Tensor | None:
    """Vectors of trial sequences; None where the model fails at them, or gives a token another vector than `like`.

    With `only_firsts` the first token of each sequence is looked at.
    """
    try:
        trial = _trial(packed)
        with torch.inference_mode():
            ours_ND = packed(trial).float()
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, NotImplementedError):
        return None  # models of many kinds refuse in many ways
    looked_at = trial.starts[:-1] if only_firsts else slice(None)
    if like is not None and not torch.cosine_similarity(ours_ND[looked_at], like[looked_at], dim=1).min() >= MIN_COSINE:
        return None
    return ours_ND


def _trial(packed: PackedModel) -> TokenBatch:
    """Made-up sequences of several lengths, together longer than most models read at once."""
    vocabulary = int(packed.model.config.vocab_size)
    random = np.random.default_rng(0)
    longest = int(getattr(packed.model.config, "max_position_embeddings", 0)) or max(TRIAL_LENGTHS)
    lengths = [min(longest - packed.first_position, n) for n in TRIAL_LENGTHS]
    return TokenBatch.of([random.integers(min(1000, vocabulary // 2), vocabulary, n) for n in lengths])


class PaddedModel:
    """The plain way, for every model and device: a rectangle of tokens and a mask where it has holes."""

    def __init__(self, model: "PreTrainedModel", *, pad_id: int) -> None:
        self.model = model
        self._pad_id = pad_id

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Hidden states of every token (N, D), padding taken out."""
        device = self.model.device
        lengths_B = batch.lengths_B
        real_BT = np.arange(int(lengths_B.max())) < lengths_B[:, None]
        ids_BT = np.full(real_BT.shape, self._pad_id, np.int64)
        ids_BT[real_BT] = batch.token_ids
        if real_BT.all():  # most batches: equally long chunks need no mask
            hidden_BTD = self.model(input_ids=on_device(ids_BT, device)).last_hidden_state
            flat_ND: Tensor = hidden_BTD.flatten(0, 1)
            return flat_ND
        mask_BT = on_device(real_BT, device)
        hidden_BTD = self.model(input_ids=on_device(ids_BT, device), attention_mask=mask_BT).last_hidden_state
        kept_ND: Tensor = hidden_BTD.flatten(0, 1)[on_device(np.flatnonzero(real_BT), device)]
        return kept_ND

    def computed_tokens(self, batch: TokenBatch) -> int:
        """The rectangle's."""
        return int(batch.lengths_B.max()) * len(batch)


def register_attention() -> None:
    """Make the packed attention known to transformers; again is nothing."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, _attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, sdpa_mask)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    packing: Packing | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """In transformers' form: (1, A, N, E) in, (1, N, A, E) out. Dropout on attention weights is not offered packed."""
    if packing is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    q_NAE, k_NAE, v_NAE = (x[0].transpose(0, 1) for x in (query, key, value))
    scale = float(q_NAE.shape[2] ** -0.5 if scaling is None else scaling)
    return attend(q_NAE, k_NAE, v_NAE, packing, scale=scale, window=others.get("sliding_window"))[None], None


def attend(
    q_NAE: Tensor, k_NAE: Tensor, v_NAE: Tensor, packing: Packing, *, scale: float, window: int | None = None
) -> Tensor:
    """Softmax attention within each packed sequence (N, A, E); differentiable.

    `window`: how many tokens to each side a token sees, itself included. Raises NotImplementedError for one where a
    kernel computes.
    """
    kernel = packing.kernel
    if kernel is None:
        return _cuda_attention(q_NAE, k_NAE, v_NAE, packing, scale, window)
    if window is not None:
        raise NotImplementedError("a sliding window")
    if torch.is_grad_enabled() and q_NAE.requires_grad:
        return _with_gradient(q_NAE, k_NAE, v_NAE, packing.starts, scale, kernel)
    out_NAE, _ = kernel.forward(q_NAE, k_NAE, v_NAE, packing.starts, scale, with_sums=False)
    return out_NAE


def _cuda_attention(
    q_NAE: Tensor, k_NAE: Tensor, v_NAE: Tensor, packing: Packing, scale: float, window: int | None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    out_NAE = varlen_attn(
        q_NAE,
        k_NAE,
        v_NAE,
        packing.starts,
        packing.starts,
        packing.longest,
        packing.longest,
        scale=scale,
        # transformers' window counts the token itself.
        window_size=(-1, -1) if window is None else (window - 1, window - 1),
    )
    assert isinstance(out_NAE, Tensor)  # noqa: S101 - a tuple only where more is asked for
    return out_NAE


class _KernelAttention(torch.autograd.Function):
    """The kernel with its gradient."""

    @staticmethod
    def forward(
        ctx: Any, q_NAE: Tensor, k_NAE: Tensor, v_NAE: Tensor, starts: Tensor, scale: float, kernel: AttentionKernel
    ) -> Tensor:
        out_NAE, sums_AN = kernel.forward(q_NAE, k_NAE, v_NAE, starts, scale, with_sums=True)
        ctx.save_for_backward(q_NAE, k_NAE, v_NAE, out_NAE, sums_AN, starts)
        ctx.scale, ctx.kernel = scale, kernel
        return out_NAE

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        q_NAE, k_NAE, v_NAE, out_NAE, sums_AN, starts = ctx.saved_tensors
        found = ctx.kernel.backward(q_NAE, k_NAE, v_NAE, out_NAE, sums_AN, grads[0], starts, ctx.scale)
        return (*found, None, None, None)


_with_gradient: Callable[..., Tensor] = _KernelAttention.apply


class PrepackedLinear(nn.Module):
    """A linear map whose weights oneDNN has arranged once, with the activation that follows in the same pass."""

    def __init__(self, linear: nn.Linear, *, activation: str, batch_tokens: int) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), batch_tokens)
        self.bias = None if linear.bias is None else linear.bias.detach()
        self._activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Linear, then the activation."""
        algorithm = "none" if self._activation == "gelu" else ""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self._activation, [], algorithm)
        return out


def prepack_linears(model: nn.Module, *, batch_tokens: int) -> bool:
    """Exchange a CPU model's linear maps for prepacked ones, for inference only; False where torch cannot.

    A GELU right behind a linear map (BERT's `intermediate`) is computed with it.
    """
    if not all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")):
        return False
    for module in list(model.modules()):
        dense = getattr(module, "dense", None)
        if type(dense) is nn.Linear and type(getattr(module, "intermediate_act_fn", None)).__name__ == "GELUActivation":
            module.dense = PrepackedLinear(dense, activation="gelu", batch_tokens=batch_tokens)
            module.intermediate_act_fn = nn.Identity()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, PrepackedLinear(child, activation="none", batch_tokens=batch_tokens))
    return True
