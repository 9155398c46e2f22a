"""On a GPU: the fast way is taken and right, batches do not meet, nothing waits in the loop, memory may run out."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import transformers

from robert_pipeline.config import Chunking
from robert_pipeline.core.chunk import cut
from robert_pipeline.core.cuda_graphs import Graphs, Shape
from robert_pipeline.core.embed import BatchBudget, embed_texts
from robert_pipeline.core.encoder import Encoder
from robert_pipeline.core.framing import Frame
from robert_pipeline.core.reading import ReadTexts
from robert_pipeline.core.token_batch import TokenBatch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CUDA = torch.device("cuda")
SIZES = {"num_hidden_layers": 3, "vocab_size": 5_000}
WIDTHS = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}
KINDS = {
    "Bert": WIDTHS,
    "Roberta": WIDTHS,
    "Electra": {**WIDTHS, "embedding_size": 256},
    "DistilBert": {"dim": 256, "n_heads": 4, "hidden_dim": 1024, "n_layers": 3, "vocab_size": 5_000},
    "ModernBert": WIDTHS,
}


def model(kind):
    torch.manual_seed(0)
    sizes = KINDS[kind] if kind == "DistilBert" else {**SIZES, **KINDS[kind]}
    config = getattr(transformers, f"{kind}Config")(**sizes, pad_token_id=0 if kind != "Roberta" else 1)
    made = getattr(transformers, f"{kind}Model")(config)
    for name, values in made.named_parameters():
        if name.endswith(("LayerNorm.weight", "bias")):
            torch.nn.init.normal_(values, 0.5, 0.2)  # as they come, weights of 1 and biases of 0 hide a mistake
    return made


def encoder(kind="Bert", *, precision=torch.bfloat16, pooling="mean"):
    return Encoder(model(kind).to(precision), pooling=pooling, pad_id=0, device=CUDA)


def sequences(lengths, seed=1):
    random = np.random.default_rng(seed)
    return [random.integers(10, 5_000, n) for n in lengths]


def cosines(a, b):
    return torch.cosine_similarity(torch.from_numpy(a), torch.from_numpy(b), dim=1)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_the_plain_model_in_float32(kind, pooling):
    """Some family would be computed as if it were another."""
    batch = TokenBatch.of(sequences((202, 3, 411, 202, 90)))
    ours = encoder(kind, pooling=pooling)
    assert "packed without padding" in ours.way
    first, again, by_graph = ours(batch), ours(batch), ours(batch)  # captured when a shape is met again
    assert "CUDA graphs" in ours.way
    assert min(cosines(first, again).min(), cosines(first, by_graph).min()) > 0.9999
    plain = encoder(kind, precision=torch.float32, pooling=pooling)
    assert "padded" in plain.way
    assert cosines(by_graph, plain(batch)).min() > 0.999


def test_bert_s_layers_are_fused():
    """The fast way would be given up in silence."""
    assert "fused layers, compiled" in encoder().way


def test_a_vector_does_not_depend_on_its_batch():
    """A document would get another vector beside other documents."""
    ours, own = encoder(), sequences((202, 57, 411))
    for _ in range(3):  # by a graph from then on
        ours(TokenBatch.of(own))
    alone = np.concatenate([ours(TokenBatch.of([sequence])) for sequence in own])
    beside = ours(TokenBatch.of([*own, *sequences((202,) * 60, seed=2)]))[:3]
    assert cosines(alone, beside).min() > 0.9999


def test_no_batch_is_waited_for_while_the_next_one_is_queued():
    """The GPU would have nothing to do between two batches."""
    ours, batch = encoder(), TokenBatch.of(sequences((202, 57, 411)))
    for _ in range(3):
        ours(batch)
    torch.cuda.set_sync_debug_mode("error")  # raises where torch waits for the device; an event's own wait is ours
    try:
        ours(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_that_runs_out_halves_the_batch():
    """A batch too large for the card would end the run."""
    ours, chunks = encoder(), 2_000
    ids = np.concatenate(sequences((200,) * chunks)).astype(np.int32)
    counts_B = np.array([len(ids)])
    spans = cut(counts_B, Chunking(chunk_tokens=200, overlap_tokens=0))
    read = ReadTexts(
        spans=spans, char_start_N=spans.start_N, char_end_N=spans.start_N, token_counts_B=counts_B, token_ids=ids
    )
    frame = Frame(prefix_ids=np.array([2], np.int32), suffix_ids=np.array([3], np.int32))

    def vectors(budget):
        return next(embed_texts(read, frame=frame, encoder=ours, budget=budget)).vectors_ND

    expected = vectors(BatchBudget(tokens=20_000))
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + (300 << 20)) / total)
    try:
        budget = BatchBudget(tokens=404_000)
        found = vectors(budget)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert budget.tokens < 404_000
    assert cosines(found, expected).min() > 0.9999
    for _ in range(3):  # graphs that had to go can come back
        vectors(BatchBudget(tokens=20_000))
    assert "CUDA graphs" in ours.way


def test_graphs_of_several_shapes_share_memory_and_keep_their_vectors():
    """One graph would write into what another one's batch has not been read from yet."""
    ours, batches = encoder(), [TokenBatch.of(sequences((202,) * n, seed=n)) for n in (3, 60, 130)]
    expected = [ours(batch) for batch in batches]
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(ours, batches * 8))
    for number, vectors in enumerate(found):
        assert cosines(vectors, expected[number % 3]).min() > 0.9999


def test_what_cannot_be_captured_is_computed_without_a_graph():
    """A model that waits for one of its values would end the run, or leave the thread in another stream."""

    def compute(inputs, _shape):
        return inputs[0] * float(inputs[0].sum())  # waits

    graphs = Graphs(compute, CUDA, agree=torch.equal)
    shape = Shape(tokens=4, sequences=1, longest=4)
    own = torch.cuda.current_stream()
    for _ in range(4):
        made = graphs([torch.arange(4.0).pin_memory()], shape)
        assert made.tolist() == [0, 6, 12, 18]
    assert not graphs.is_possible
    assert torch.cuda.current_stream() == own
    assert torch.randn(1, device=CUDA).isfinite().all()  # random numbers are in no capture any more
