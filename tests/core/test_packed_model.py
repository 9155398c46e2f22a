"""Packed without padding is the same model: hidden states, gradients, and families that cannot."""

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import compiled

from robert_pipeline.core import packed_model
from robert_pipeline.core.encoder import Encoder
from robert_pipeline.core.packed_model import (
    PackedModel,
    PaddedModel,
    agrees,
    first_position,
    prepack_linears,
)
from robert_pipeline.core.token_batch import TokenBatch
from robert_pipeline.native.attention import packed_attention

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 3_000,
}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def kernel():
    return compiled(packed_attention)


def model(kind="Bert", dtype=torch.bfloat16, **others):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **others})
    return getattr(transformers, f"{kind}Model")(config).to(dtype).eval()


def sequences(*lengths):
    random = np.random.default_rng(1)
    return [random.integers(10, 3_000, n) for n in lengths]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_a_batch_keeps_its_sequences_apart(lengths):
    """Chunks would be cut at the wrong tokens."""
    parts = sequences(*lengths)
    batch = TokenBatch.of(parts)
    assert batch.lengths_B.tolist() == lengths
    assert batch.positions().tolist() == [position for length in lengths for position in range(length)]
    for part, start in zip(parts, batch.starts, strict=False):
        assert batch.token_ids[start : start + len(part)].tolist() == part.tolist()


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "DistilBert", "Electra", "ModernBert"])
def test_every_encoder_gives_its_own_vectors(kernel, kind):
    """A family whose positions or attention are other than BERT's would get vectors of no meaning."""
    names = {"DistilBert": {"dim": 64, "n_layers": 2, "n_heads": 2, "hidden_dim": 128}}.get(kind, {})
    tokens = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
    plain = model(kind, torch.float32, **names, **(tokens if kind == "ModernBert" else {}))
    batch = TokenBatch.of(sequences(90, 3, 41))
    encoder = Encoder(
        model(kind, **names, **(tokens if kind == "ModernBert" else {})),
        pooling="mean",
        pad_id=1,
        device=CPU,
        kernel=kernel,
    )
    assert ("without padding" in encoder.way) == (kind != "ModernBert"), encoder.way
    ours = torch.from_numpy(encoder(batch))
    for vector, sequence in zip(ours, sequences(90, 3, 41), strict=True):
        with torch.inference_mode():
            theirs = plain(input_ids=torch.from_numpy(sequence)[None]).last_hidden_state[0].mean(0)
        assert torch.cosine_similarity(vector, theirs, dim=0) > 0.999


def reference_varlen(q_NAE, k_NAE, v_NAE, starts_q, starts_k, _longest_q, _longest_k, *, scale, window_size):
    """torch's variable-length attention as its documentation has it: (left, right) neighbours, -1 for all."""
    assert starts_q.tolist() == starts_k.tolist()
    parts = []
    for first, last in zip(starts_q[:-1].tolist(), starts_q[1:].tolist(), strict=True):
        at = torch.arange(last - first)
        ahead = at[None] - at[:, None]
        left, right = (len(at) if n < 0 else n for n in window_size)
        q, k, v = (x[first:last].transpose(0, 1).float() for x in (q_NAE, k_NAE, v_NAE))
        seen = (ahead >= -left) & (ahead <= right)
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale)
        parts.append(out.transpose(0, 1).to(q_NAE.dtype))
    return torch.cat(parts)


@pytest.mark.parametrize("kind", ["Bert", "ModernBert"])
def test_a_gpu_s_attention_gives_the_model_s_own_hidden_states(monkeypatch, kind):
    """On a GPU a model with windows would see one token more or less, or make a mask of all tokens by all tokens."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", reference_varlen)
    seen = []

    def spy(module, query, key, value, attention_mask, **others):
        if others.get("packing") is not None:
            seen.append((attention_mask, others.get("sliding_window")))
        return attention(module, query, key, value, attention_mask, **others)

    attention = packed_model._attention
    monkeypatch.setattr(packed_model, "_attention", spy)
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    others = {"local_attention": 32, "num_hidden_layers": 4, **tokens} if kind == "ModernBert" else {}
    shared = model(kind, **others)
    packed = PackedModel(shared, None, first_position=0, has_no_masks=kind == "ModernBert")
    assert agrees(packed, PaddedModel(shared, pad_id=0))
    assert {mask for mask, _ in seen} == {None}
    assert len({window for _, window in seen}) == (2 if kind == "ModernBert" else 1)


@given(st.lists(st.integers(1, 70), min_size=1, max_size=5))
@settings(max_examples=10)
def test_packed_hidden_states_are_the_padded_ones(kernel, lengths):
    """Vectors would depend on how a batch is laid out."""
    shared = model()
    packed, padded = PackedModel(shared, kernel, first_position=0), PaddedModel(shared, pad_id=0)
    batch = TokenBatch.of(sequences(*lengths))
    with torch.inference_mode():
        assert torch.cosine_similarity(packed(batch).float(), padded(batch).float(), dim=1).min() > 0.999


def test_gradients_reach_the_weights_as_in_the_plain_model(kernel):
    """Fine-tuning would learn something else than the loss asks for."""
    batch = TokenBatch.of(sequences(50, 7, 33))
    plain, packed = model(dtype=torch.float32), PackedModel(model(), kernel, first_position=0)
    for hidden in (packed(batch), PaddedModel(plain, pad_id=0)(batch)):
        hidden.float().square().mean().backward()
    for (name, ours), theirs in zip(packed.model.named_parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None and theirs.grad.norm() > 1e-4:
            cosine = torch.cosine_similarity(ours.grad.float().flatten(), theirs.grad.flatten(), dim=0)
            assert cosine > 0.99, name


class ByNumber(transformers.BertModel):
    """Looks its masks up by the number of the layer, not by its kind."""

    def forward(self, input_ids, attention_mask=None, position_ids=None, **others):
        if isinstance(attention_mask, dict):
            attention_mask = attention_mask[0]
        return super().forward(input_ids, attention_mask=attention_mask, position_ids=position_ids, **others)


@pytest.mark.parametrize("made_of", [transformers.BertModel, ByNumber])
def test_a_model_that_takes_no_masks_by_kind_is_packed_without(kernel, made_of):
    """It would be padded, or not run at all, for the sake of models that do."""
    config = transformers.BertConfig(**SIZES, layer_types=["full_attention"] * SIZES["num_hidden_layers"])
    made = made_of(config).to(torch.bfloat16).eval()
    assert "without padding" in Encoder(made, pooling="mean", pad_id=0, device=CPU, kernel=kernel).way


def test_a_model_that_does_not_agree_is_run_padded(kernel):
    """A model whose attention the kernel does not compute would give wrong vectors without a word."""
    heads_of_16 = model(num_attention_heads=4)
    packed = PackedModel(heads_of_16, kernel, first_position=0)
    assert not agrees(packed, PaddedModel(heads_of_16, pad_id=0))
    assert "padded" in Encoder(model(num_attention_heads=4), pooling="mean", pad_id=0, device=CPU, kernel=kernel).way

    class Shifted(PackedModel):
        def __call__(self, batch):
            return super().__call__(batch).roll(1, dims=0)

    shared = model()
    assert agrees(PackedModel(shared, kernel, first_position=0), PaddedModel(shared, pad_id=0))
    assert not agrees(Shifted(shared, kernel, first_position=0), PaddedModel(shared, pad_id=0))


def test_without_a_kernel_the_encoder_is_padded():
    """A machine without a compiler could not embed."""
    encoder = Encoder(model(), pooling="mean", pad_id=0, device=CPU)
    assert "padded" in encoder.way
    assert np.isfinite(encoder(TokenBatch.of(sequences(9, 4)))).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prepacked_weights_compute_the_same(dtype):
    """Vectors would change with the layout of the weights, or with the GELU computed beside them."""
    batch = TokenBatch.of(sequences(30, 30))
    ours = model(dtype=dtype)
    before = PaddedModel(ours, pad_id=0)(batch).float()
    if not prepack_linears(ours, batch_tokens=64):
        pytest.skip("this torch has no prepacked linear maps")
    after = PaddedModel(ours, pad_id=0)(batch).float()
    assert torch.cosine_similarity(before, after, dim=1).min() > (0.999999 if dtype == torch.float32 else 0.999)


def test_positions_count_from_where_the_family_counts():
    """RoBERTa's vectors would be those of a text that begins in the middle."""
    assert first_position(model("Bert")) == 0
    assert first_position(model("Roberta", pad_token_id=1)) == 2


@given(st.lists(st.integers(1, 90), min_size=1, max_size=9), st.sampled_from([1, 7, 256]))
def test_a_filled_batch_has_its_sequences_first_and_a_round_number_of_tokens(lengths, multiple):
    """Filling would change what is embedded, or leave as many shapes as before."""
    plain = TokenBatch.of([np.arange(1, n + 1) for n in lengths])
    filled = plain.filled(-(-len(plain.token_ids) // multiple) * multiple, filler_tokens=32)
    assert len(filled.token_ids) % multiple == 0
    assert len(filled.token_ids) - len(plain.token_ids) < multiple
    assert filled.starts[-1] == len(filled.token_ids)
    assert (filled.lengths_B > 0).all()
    assert filled.lengths_B.max() == max(lengths)
    assert np.array_equal(filled.starts[: len(plain.starts)], plain.starts)
    assert np.array_equal(filled.token_ids[: len(plain.token_ids)], plain.token_ids)


def test_fillers_count_as_padding(kernel):
    """A run would hide what it computes for nothing."""
    made = model()
    packed = PackedModel(made, kernel, first_position=0)
    batch = TokenBatch.of([np.arange(10, 210), np.arange(10, 90)])
    assert packed.computed_tokens(batch) == len(batch.filled(512, filler_tokens=32).token_ids) == 512
    assert packed.computed_tokens(TokenBatch.of([np.arange(256)])) == 256
