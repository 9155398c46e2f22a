"""Fused layers are the model's own, and only models of BERT's kind get them."""

from functools import partial

import numpy as np
import pytest
import torch
import transformers
from kernels import compiled

from robert_pipeline.core.encoder import Encoder
from robert_pipeline.core.layer_parts import CpuParts, CudaParts
from robert_pipeline.core.packed_layers import fuse_layers
from robert_pipeline.core.packed_model import PackedModel, first_position
from robert_pipeline.core.token_batch import TokenBatch
from robert_pipeline.native.attention import packed_attention
from robert_pipeline.native.elementwise import packed_elementwise

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 3_000,
}


@pytest.fixture(scope="module")
def kernels():
    return {"kernel": compiled(packed_attention), "elementwise": compiled(packed_elementwise)}


def model(kind="Bert", **others):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **others})
    made = getattr(transformers, f"{kind}Model")(config)
    for name, values in made.named_parameters():
        if name.endswith("LayerNorm.weight") or name.endswith("bias"):
            torch.nn.init.normal_(values, 0.5, 0.2)  # as they come, weights of 1 and biases of 0 hide a mistake
    return made.to(torch.bfloat16).eval()


def batch(lengths=(90, 1, 41)):
    random = np.random.default_rng(1)
    return TokenBatch.of([random.integers(10, 3_000, n) for n in lengths])


def cpu_parts(kernels):
    return CpuParts(kernels["elementwise"], batch_tokens=256)


PARTS = {"of a CPU": cpu_parts, "of a GPU": lambda _: CudaParts(is_compiled=False)}
"""A GPU's parts are computed on the CPU here, where torch's product with GELU has the exact form."""


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("kind", ["Bert", "Roberta", "Electra"])
def test_fused_layers_give_the_model_s_own_hidden_states(kernels, kind, parts):
    """Vectors would be another model's: a layer's parts in another order, or weights of another part."""
    made = model(kind)
    packed = PackedModel(made, kernels["kernel"], first_position=first_position(made))
    with torch.inference_mode():
        before = packed(batch()).float()
        assert fuse_layers(packed, [PARTS[parts](kernels)])
        after = packed(batch()).float()
    assert torch.cosine_similarity(before, after, dim=1).min() > 0.9995


def test_parts_are_compiled_once_for_batches_of_every_size(kernels, monkeypatch):
    """Every new size of batch would be compiled for seconds, and after some of them none any more."""
    if " " in torch.__file__:  # from such a path torch compiles nothing for a CPU, but finds out what it would
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    made = model()
    packed = PackedModel(made, kernels["kernel"], first_position=0)
    torch.compiler.reset()
    with torch.inference_mode():
        assert fuse_layers(packed, [CudaParts(is_compiled=True)])
        with torch.compiler.set_stance("fail_on_recompile"):
            for lengths in ((90, 1, 41), (300, 17), (255,) * 9):
                packed(batch(lengths))


@pytest.mark.parametrize("parts", PARTS)
def test_only_first_tokens_are_those_of_the_whole(kernels, parts):
    """Vectors of models that are pooled by their first token would be wrong."""
    made = model()
    packed = PackedModel(made, kernels["kernel"], first_position=0)
    with torch.inference_mode():
        before = packed(batch()).float()
        assert fuse_layers(packed, [PARTS[parts](kernels)], only_firsts=True)
        after = packed(batch()).float()
    firsts = torch.from_numpy(batch().starts[:-1])
    assert torch.cosine_similarity(before[firsts], after[firsts], dim=1).min() > 0.9995
    assert after.abs().sum(1).count_nonzero() == len(firsts)


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_every_pooling_gives_the_vectors_of_the_plain_model(kernels, pooling):
    """A fast way would be taken for a pooling that needs more than it computes."""
    cpu = torch.device("cpu")
    plain = Encoder(model(), pooling=pooling, pad_id=0, device=cpu)(batch())
    fused = Encoder(model(), pooling=pooling, pad_id=0, device=cpu, **kernels)(batch())
    assert torch.cosine_similarity(torch.from_numpy(plain), torch.from_numpy(fused), dim=1).min() > 0.999


@pytest.mark.parametrize(
    ("kind", "others"),
    [
        ("Bert", {"hidden_act": "relu"}),
        ("DistilBert", {"dim": 64, "n_layers": 2, "n_heads": 2, "hidden_dim": 128}),
    ],
    ids=["another activation", "another family"],
)
def test_other_models_keep_their_layers(kernels, kind, others):
    """A model of another kind would be computed as if it were BERT."""
    made = model(kind, **others)
    packed = PackedModel(made, kernels["kernel"], first_position=0)
    layers = getattr(made, "encoder", None)
    assert fuse_layers(packed, [cpu_parts(kernels)]) is None
    assert getattr(made, "encoder", None) is layers


class Wrong:
    """The kernels, but one of them computes something else."""

    def __init__(self, right, name):
        self.add_normalize, self.gelu = right.add_normalize, right.gelu
        setattr(self, name, lambda x, *_, **__: x.mul_(-40))


class Tanh(CudaParts):
    """GELU in the form that cuBLASLt computes."""

    def linear_gelu(self, linear):
        return lambda x_ND: torch.nn.functional.gelu(linear(x_ND), approximate="tanh")


def test_gelu_in_tanh_form_agrees(kernels):
    """No GPU would ever be given the fused layers."""
    packed = PackedModel(model(), kernels["kernel"], first_position=0)
    assert fuse_layers(packed, [Tanh(is_compiled=False)]) is not None


class NoMemory(CudaParts):
    """There is none left."""

    def linear(self, linear):
        raise torch.OutOfMemoryError(f"for {linear}")


def test_a_kind_that_cannot_be_made_is_passed_over(kernels):
    """A model that would run without fused layers would not run at all."""
    made = model()
    packed = PackedModel(made, kernels["kernel"], first_position=0)
    layers = made.encoder
    assert fuse_layers(packed, [NoMemory(is_compiled=False)]) is None
    assert made.encoder is layers


@pytest.mark.parametrize("name", ["add_normalize", "gelu"])
def test_layers_that_do_not_agree_are_given_back(kernels, name):
    """A kernel that computes something else on some machine would give wrong vectors without a word."""
    made = model()
    packed = PackedModel(made, kernels["kernel"], first_position=0)
    layers = made.encoder
    assert fuse_layers(packed, [CpuParts(Wrong(kernels["elementwise"], name), batch_tokens=256)]) is None
    assert made.encoder is layers


def test_the_next_kind_of_parts_is_taken_where_one_fails(kernels):
    """A GPU without a C compiler would be left with the slow layers."""
    wrong = CpuParts(Wrong(kernels["elementwise"], "gelu"), batch_tokens=256)
    plain = CudaParts(is_compiled=False)
    assert fuse_layers(PackedModel(model(), kernels["kernel"], first_position=0), [wrong, plain]) is plain


def test_the_encoder_says_which_way_it_takes(kernels):
    """Nobody could tell why an encoder is slow."""
    cpu = torch.device("cpu")
    assert "fused layers" in Encoder(model(), pooling="mean", pad_id=0, device=cpu, **kernels).way
    assert "fused" not in Encoder(model(), pooling="mean", pad_id=0, device=cpu, kernel=kernels["kernel"]).way
