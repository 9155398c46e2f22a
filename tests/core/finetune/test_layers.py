"""Exchanged parts of a model in training compute what torch's own compute, and stay the model's parameters."""

import copy

import pytest
import torch
from transformers import BertConfig, BertModel

from robert_pipeline.core.finetune.layers import quicken
from robert_pipeline.storage.encoders.load import training_kernels


@pytest.fixture(scope="module")
def kernels():
    found = training_kernels()
    if found.elementwise is None:
        pytest.skip("this machine has no AVX512-BF16, or no compiler")
    return found


def model(dtype=torch.bfloat16, **others):
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    made = BertModel(BertConfig(**{**sizes, "vocab_size": 500, **others}), add_pooling_layer=False)
    for name, values in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(values, 0.0, 0.2)
    return made.to(dtype).train()


def gradients(made):
    ids = torch.arange(3 * 40).reshape(3, 40) % 500
    hidden = made(input_ids=ids).last_hidden_state
    target = torch.linspace(-1, 1, hidden.numel()).reshape(hidden.shape)
    named = dict(made.named_parameters())
    found = torch.autograd.grad((hidden.float() * target).sum(), list(named.values()))
    return hidden.float(), {name: gradient.float() for name, gradient in zip(named, found, strict=True)}


def test_hidden_states_and_gradients_are_those_of_torch(kernels):
    """A model would be trained towards something else."""
    theirs = model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    ours = copy.deepcopy(theirs)
    quicken(ours, kernels)
    before, expected = gradients(theirs)
    after, found = gradients(ours)
    exact = model(torch.float32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    exact.load_state_dict(theirs.state_dict())
    _, exactly = gradients(exact)
    assert torch.cosine_similarity(before, after, dim=2).min() > 0.999
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        if exactly[name].norm() < 1e-3:
            continue  # of keys' biases, which change nothing
        ours_off, theirs_off = ((g - exactly[name]).norm() for g in (gradient, expected[name]))
        assert ours_off <= 2 * theirs_off + 0.01 * exactly[name].norm(), name


def test_parameters_stay_the_model_s_own(kernels):
    """A checkpoint would not be written as it was read."""
    made = model()
    before = {name: p.data_ptr() for name, p in made.named_parameters()}
    quicken(made, kernels)
    assert {name: p.data_ptr() for name, p in made.named_parameters()} == before
    assert made.state_dict().keys() == model().state_dict().keys()


def test_dropout_drops_in_training_only_and_its_gradient_with_it(kernels):
    """Labels would be drawn by chance, or what was dropped would be trained."""
    parts = torch.nn.Sequential(torch.nn.Dropout(0.25))
    quicken(parts, kernels)
    x = torch.ones(50, 64, dtype=torch.bfloat16, requires_grad=True)
    out = parts(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(gradient == 0, out == 0)
    assert 0.2 < (out == 0).float().mean() < 0.3
    assert not torch.equal(parts(x), out)
    assert torch.equal(parts.eval()(x), x)


def test_what_the_kernels_do_not_compute_is_left_to_torch(kernels):
    """A model of odd sizes, or one in float32, could not be trained at all."""
    odd = torch.nn.Sequential(torch.nn.Linear(40, 20), torch.nn.Dropout(0.5))
    quicken(odd, kernels)
    assert odd(torch.ones(3, 40)).shape == (3, 20)
    narrow = odd.to(torch.bfloat16)(torch.ones(3, 40, dtype=torch.bfloat16))
    assert narrow.shape == (3, 20)
