"""Write a fine-tuned encoder: safetensors and a tokenizer in Hugging Face layout, so that any tool can load it."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from robert_pipeline.core.split import Integers
from robert_pipeline.errors import StoreError
from robert_pipeline.storage.encoders.checkpoint import quiet_transformers
from robert_pipeline.storage.encoders.identity import POOLING_FILE, TOKENIZER_FILES, EncoderIdentity
from robert_pipeline.storage.encoders.learned import save_learned

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def save_encoder(
    folder: Path,
    model: "PreTrainedModel",
    weights: Mapping[str, torch.Tensor],
    *,
    source: EncoderIdentity,
    learned_keys: Integers,
) -> None:
    """Write `model` with float32 `weights` (by parameter name; the others stay) and `source`'s tokenizer into `folder`.

    The pooling is written down as sentence-transformers does, so that the folder is used as it was trained, and the
    keys of the texts that it has learned from. Raises StoreError where it cannot be written.
    """
    state = {name: weights.get(name, tensor).float() for name, tensor in model.state_dict().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with quiet_transformers():
            model.config.dtype = torch.float32
            model.save_pretrained(folder, state_dict=state)
        for name in TOKENIZER_FILES:
            if (source.folder / name).is_file():
                shutil.copyfile(source.folder / name, folder / name)
        if source.pooling != "pooler":  # which sentence-transformers has no word for
            place = folder / POOLING_FILE
            place.parent.mkdir(exist_ok=True)
            place.write_text(json.dumps(_pooling(source), indent=2) + "\n", encoding="utf-8")
        save_learned(folder, learned_keys)
    except OSError as error:
        raise StoreError(
            f"cannot write encoder {folder}: {error.strerror or error}", fix="Free space or fix the permissions"
        ) from error


def _pooling(source: EncoderIdentity) -> dict[str, object]:
    return {
        "word_embedding_dimension": source.dimension,
        "pooling_mode_cls_token": source.pooling == "cls",
        "pooling_mode_mean_tokens": source.pooling == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
