"""Batches are filled up to few shapes, on any machine; what graphs compute of them is in test_encoder_cuda.py."""

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from kernels import compiled

from robert_pipeline.core.cuda_graphs import LEAST_TOKENS, TOKENS_STEP, filled, filled_vectors, shape_of
from robert_pipeline.core.encoder import Encoder
from robert_pipeline.core.packed_model import PackedModel, first_position
from robert_pipeline.core.pooling import pool
from robert_pipeline.core.token_batch import TokenBatch, first_tokens
from robert_pipeline.native.attention import packed_attention

LENGTHS = st.lists(st.integers(1, 510), min_size=1, max_size=200)


def batch_of(lengths):
    return TokenBatch.of([np.arange(1, n + 1) for n in lengths])


def ids_and_starts(batch):
    shape = shape_of(batch)
    values = filled(batch, shape)
    assert values.dtype == np.int32
    return shape, values[: shape.tokens], values[shape.tokens :]


@given(LENGTHS)
def test_a_filled_batch_is_the_batch_and_nothing_that_is_longer(lengths):
    """A chunk would get another's tokens, or a filler would be cut by the kernel and read what nobody wrote."""
    batch = batch_of(lengths)
    shape, ids, starts = ids_and_starts(batch)
    own = len(batch.token_ids)
    assert np.array_equal(ids[:own], batch.token_ids)
    assert (ids[own:] == 0).all()
    assert np.array_equal(starts[: len(batch.starts)], batch.starts)
    assert starts[-1] == shape.tokens
    assert len(starts) == shape.sequences + 1
    assert np.diff(starts).min() >= 0
    assert np.diff(starts).max() <= max(lengths) <= shape.longest


@given(LENGTHS)
def test_little_fills_a_batch_up(lengths):
    """A GPU would compute for nothing, or have no memory for a batch that has been halved."""
    tokens = shape_of(batch_of(lengths)).tokens
    assert tokens < sum(lengths) + TOKENS_STEP
    assert tokens <= max(LEAST_TOKENS, 2 * sum(lengths))


def test_there_are_few_shapes():
    """Nearly every batch would be captured anew."""
    batches = [batch_of([202] * whole + [part] * 3) for whole in range(1, 325) for part in (52, 127, 202)]
    assert len({shape_of(batch) for batch in batches}) <= 20


def test_sequences_that_fill_up_change_no_vector():
    """An empty sequence behind the last token would be read from outside of the batch."""
    batch = batch_of([3, 1, 2])
    hidden = torch.randn(6, 4)
    plain, more = torch.tensor([0, 3, 4, 6]), torch.tensor([0, 3, 4, 6, 6, 6], dtype=torch.int32)
    assert first_tokens(more, 6).tolist() == [0, 3, 4, 5, 5]
    for pooling in ("mean", "cls"):
        expected = pool(hidden, plain, pooling, None)
        assert torch.equal(pool(hidden, more, pooling, None)[: len(batch)], expected)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize(("kind", "positions"), [("Bert", 40), ("Roberta", 42)])
def test_a_filled_batch_gets_the_model_s_own_vectors(kind, positions, pooling):
    """Fillers would ask a model for positions that it does not have, which ends a GPU's process."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=600,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=positions,
        pad_token_id=1,
    )
    made = getattr(transformers, f"{kind}Model")(config).to(torch.bfloat16).eval()
    random = np.random.default_rng(0)
    batch = TokenBatch.of([random.integers(10, 600, n) for n in (40, 3, 25)])
    plain = Encoder(made, pooling=pooling, pad_id=1, device=torch.device("cpu"))(batch)
    packed = PackedModel(made, compiled(packed_attention), first_position=first_position(made))
    states = packed.states
    packed.states = lambda ids, places, starts, longest: states(ids, places, starts.long(), longest)  # as the CPU reads
    shape, ids, starts = ids_and_starts(batch)
    with torch.inference_mode():
        values = torch.from_numpy(np.concatenate([ids, starts]))
        vectors = filled_vectors(packed, pooling, values, shape)[: len(batch)]
    assert torch.cosine_similarity(vectors, torch.from_numpy(plain), dim=1).min() > 0.999
