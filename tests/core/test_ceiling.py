"""The ceiling: which products it counts, and that it is measured."""

import pytest
import torch
from transformers import BertConfig, BertModel

from robert_pipeline.core.ceiling import ceiling_tokens_per_second, linear_flops, linear_shapes

CPU = torch.device("cpu")


def test_every_product_that_a_token_meets_is_counted():
    """The ceiling would be another model's; the pooler sees one token of a chunk."""
    with torch.device("meta"):
        shapes = linear_shapes(BertModel(BertConfig()))
    assert shapes == ((768, 768, 48), (768, 3072, 12), (3072, 768, 12))
    assert linear_flops(shapes) == 12 * 2 * (4 * 768 * 768 + 2 * 768 * 3072)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_more_layers_take_longer(dtype):
    """The ceiling would not be measured, or not of this model."""
    threads = torch.get_num_threads()
    rates = [
        ceiling_tokens_per_second(
            ((64, 64, count),), device=CPU, dtype=dtype, batch_tokens=256, threads=2, seconds=0.02
        )
        for count in (1, 1000)
    ]
    assert 0 < rates[1] < rates[0]
    assert torch.get_num_threads() == threads


def test_a_model_without_products_has_no_ceiling():
    """A division by nothing would end the run."""
    assert ceiling_tokens_per_second((), device=CPU, dtype=torch.float32, batch_tokens=1, threads=1) == 0
