"""The encoder against a plain forward pass of transformers."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from transformers import AutoModel

from robert_pipeline.core.encoder import Encoder, fast_precision
from robert_pipeline.core.token_batch import TokenBatch
from robert_pipeline.errors import EncoderError
from robert_pipeline.types import EncoderUse


def framed(loaded, texts):
    """Each text's token ids between the special tokens."""
    tokenized = loaded.tokenizer(texts)
    return [
        np.concatenate([loaded.tokenizer.frame.prefix_ids, ids, loaded.tokenizer.frame.suffix_ids])
        for ids in np.split(tokenized.token_ids, tokenized.first_token_B[1:])
    ]


@pytest.fixture(scope="module")
def sequences(minilm, articles):
    """Sequences of unequal length from real articles."""
    return [ids[: 60 + 20 * index] for index, ids in enumerate(framed(minilm, articles[:6]))]


@pytest.fixture(scope="module")
def plain(minilm_folder):
    """MiniLM as transformers loads it, nothing of ours around it."""
    return AutoModel.from_pretrained(minilm_folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("pooling", ["cls", "mean", "pooler"])
def test_vectors_are_those_of_a_plain_forward_pass(plain, sequences, pooling):
    """The vectors would not be the encoder's: padding, mask or pooling would be wrong."""
    ours = Encoder(plain, pooling=pooling, pad_id=0, device=torch.device("cpu"))(TokenBatch.of(sequences))
    for vector, sequence in zip(ours, sequences, strict=True):
        with torch.inference_mode():
            output = plain(input_ids=torch.tensor(sequence[None].astype(np.int64)))
        expected = {
            "cls": output.last_hidden_state[0, 0],
            "mean": output.last_hidden_state[0].mean(0),
            "pooler": output.pooler_output[0],
        }[pooling]
        np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)


def test_padding_may_be_any_token(plain, sequences):
    """A checkpoint whose padding id is not 0 would give other vectors for batched chunks."""
    cpu = torch.device("cpu")
    one = Encoder(plain, pooling="mean", pad_id=0, device=cpu)(TokenBatch.of(sequences))
    other = Encoder(plain, pooling="mean", pad_id=2_000, device=cpu)(TokenBatch.of(sequences))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_equally_long_chunks_need_no_mask(minilm, sequences):
    """The path without a mask, which most chunks take, would give other vectors."""
    equal = [sequence[:60] for sequence in sequences]
    alone = np.concatenate([minilm.encoder(TokenBatch.of([sequence])) for sequence in equal])
    np.testing.assert_allclose(minilm.encoder(TokenBatch.of(equal)), alone, atol=1e-5)
    beside_a_shorter = minilm.encoder(TokenBatch.of([*equal, equal[0][:9]]))[:-1]
    np.testing.assert_allclose(beside_a_shorter, alone, atol=1e-5)


def test_vectors_are_float32_whatever_the_precision(tiny, tiny_folder):
    """Shards would be written with values of an unexpected dtype."""
    model = AutoModel.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    batch = TokenBatch.of(framed(tiny, ["one", "two words"]))
    vectors = Encoder(model, pooling="mean", pad_id=0, device=torch.device("cpu"))(batch)
    assert (vectors.dtype, vectors.shape) == (np.float32, (2, 32))


def test_what_was_computed_is_counted_once_and_padding_told_apart(tiny_folder):
    """A run would report another speed, hide its padding, or count a batch for two units."""
    model = AutoModel.from_pretrained(tiny_folder, dtype=torch.float32)
    encoder = Encoder(model, pooling="mean", pad_id=0, device=torch.device("cpu"))
    times = iter([1.0, 3.0, 4.0])
    with encoder.counting(lambda: next(times)) as take_use:
        for lengths in ((5, 3), (4, 4)):
            encoder(TokenBatch.of([np.arange(100, 100 + n) for n in lengths]))
        use, more = take_use(), take_use()
    assert (use.encoded_tokens, use.computed_tokens) == (16, 18)
    assert use.padding_share == pytest.approx(2 / 18)
    assert use.ceiling_tokens == pytest.approx(2 * encoder.ceiling_tokens_per_second)
    assert 0 < use.ceiling_share < 1
    assert (more.encoded_tokens, more.ceiling_tokens) == (0, pytest.approx(use.ceiling_tokens / 2))
    assert (EncoderUse().padding_share, EncoderUse().ceiling_share) == (0, 0)


def test_seconds_of_units_that_overlap_are_counted_once(tiny_folder):
    """The share of the ceiling would be a third of what it is where three units are embedded at once, or twice it."""
    model = AutoModel.from_pretrained(tiny_folder, dtype=torch.float32)
    encoder = Encoder(model, pooling="mean", pad_id=0, device=torch.device("cpu"))
    now = 0.0
    found = []
    with encoder.counting(lambda: now) as take_long:
        now = 50.0
        with encoder.counting(lambda: now) as take_short:
            now = 60.0
            found.append(take_short())
        now = 100.0
        found.append(take_long())
    now = 500.0
    with encoder.counting(lambda: now) as take_later:
        now = 510.0
        found.append(take_later())
    seconds = [use.ceiling_tokens / encoder.ceiling_tokens_per_second for use in found]
    assert seconds == pytest.approx([60, 40, 10])


def test_a_model_without_pooler_is_refused(tiny, tiny_folder):
    """Pooling 'pooler' on a model that has none would fail without naming the cause."""
    model = AutoModel.from_pretrained(tiny_folder, add_pooling_layer=False)
    encoder = Encoder(model, pooling="pooler", pad_id=0, device=torch.device("cpu"))
    with pytest.raises(EncoderError, match="no pooler"):
        encoder(TokenBatch.of(framed(tiny, ["one"])))


def test_the_automatic_precision_is_one_of_two():
    """A machine of another kind would ask torch for a precision the encoder does not know."""
    assert fast_precision(torch.device("cpu")) in ("float32", "bfloat16")
    assert fast_precision(torch.device("cuda")) == "bfloat16"


def test_encoding_leaves_other_threads_their_cores(tiny_folder):
    """What comes after, the next encoder among it, would run on one core."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    both = threading.Barrier(2, timeout=20)

    def cores(_):
        both.wait()
        return torch.get_num_threads()

    try:
        model = AutoModel.from_pretrained(tiny_folder, dtype=torch.float32)
        encoder = Encoder(model, pooling="mean", pad_id=0, device=torch.device("cpu"))
        with encoder.threads() as threads:
            assert list(threads.map(cores, range(4))) == [1] * 4
            with ThreadPoolExecutor(1) as beside:
                assert beside.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(before)
