"""A checkpoint as transformers' model and tokenizer, checked: safetensors only, and no code that comes with it.

What transformers would pass over in silence (missing or foreign weights, a made-up tokenizer) raises EncoderError.
"""

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robert_pipeline.errors import EncoderError, first_line
from robert_pipeline.storage.encoders.identity import EncoderIdentity

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from robert_pipeline.core.tokenize import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Checkpoint:
    """A model on the CPU and its tokenizer."""

    identity: EncoderIdentity
    model: "PreTrainedModel"
    tokenizer: "Tokenizer"
    pad_id: int
    max_chunk_tokens: int
    """Longest chunk the model takes, special tokens not counted."""


def load_checkpoint(identity: EncoderIdentity) -> Checkpoint:
    """Load model (in the identity's precision) and tokenizer. Raises EncoderError."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from robert_pipeline.core.tokenize import Tokenizer

    try:
        with quiet_transformers():
            model, report = AutoModel.from_pretrained(
                identity.folder,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=getattr(torch, identity.precision),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # to name the weight below
                local_files_only=True,
            )
            loaded = AutoTokenizer.from_pretrained(identity.folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # a broken checkpoint makes transformers and safetensors raise of every kind
        raise EncoderError(
            f"encoder {identity.folder} cannot be loaded: {first_line(error)}",
            fix="Give a BERT-family checkpoint that is whole",
        ) from error
    _check_model(identity, model)
    _check_weights(identity, report)
    if not getattr(loaded, "is_fast", False):
        raise EncoderError(
            f"encoder {identity.folder} has no fast tokenizer (tokenizer.json)",
            fix="Save it once with AutoTokenizer.from_pretrained(...).save_pretrained(...)",
        )
    # Not `vocab_size`, which leaves added tokens out.
    words, rows = max(loaded.get_vocab().values()) + 1, int(model.get_input_embeddings().num_embeddings)
    if words > rows:
        raise EncoderError(
            f"encoder {identity.folder} has a tokenizer of {words} tokens, its model knows {rows}",
            fix="Put the checkpoint's own tokenizer files beside its weights",
        )
    pad_id = int(loaded.pad_token_id or 0)
    tokenizer = Tokenizer(loaded.backend_tokenizer, pad_id=pad_id)
    return Checkpoint(
        identity=identity,
        model=model,
        tokenizer=tokenizer,
        pad_id=pad_id,
        max_chunk_tokens=_max_sequence_tokens(model, int(loaded.model_max_length)) - len(tokenizer.frame),
    )


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no warnings of what is checked here anyway."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _check_model(identity: EncoderIdentity, model: "PreTrainedModel") -> None:
    if getattr(model.config, "is_encoder_decoder", False):
        raise EncoderError(
            f"encoder {identity.folder} is a '{model.config.model_type}' model, an encoder with a decoder",
            fix="Give a BERT-family checkpoint",
        )
    if identity.pooling == "pooler" and getattr(model, "pooler", None) is None:
        raise EncoderError(f"encoder {identity.folder} has no pooler", fix="Use --pooling mean or cls")


def _check_weights(identity: EncoderIdentity, report: "Mapping[str, Collection[Any]]") -> None:
    # Weights that the checkpoint lacks are filled with random numbers: a vector of noise, without a word.
    if report["mismatched_keys"]:
        name, found, wanted = sorted(report["mismatched_keys"])[0]
        raise EncoderError(
            f"encoder {identity.folder} has weight '{name}' of shape {tuple(found)}, its config.json says "
            f"{tuple(wanted)}",
            fix="Restore the checkpoint: weights and config.json are of different models",
        )
    missing = report["missing_keys"]
    lacking = [key for key in missing if identity.pooling == "pooler" or not key.startswith("pooler.")]
    if lacking:
        raise EncoderError(
            f"encoder {identity.folder} lacks weights, '{sorted(lacking)[0]}' first of {len(lacking)}",
            fix="Give a whole checkpoint; a model without a trained pooler needs pooling 'mean' or 'cls'",
        )


def _max_sequence_tokens(model: "PreTrainedModel", tokenizer_limit: int) -> int:
    positions = int(getattr(model.config, "max_position_embeddings", tokenizer_limit))
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            positions -= int(module.padding_idx) + 1  # RoBERTa and its kin count positions from the padding id
    return min(positions, tokenizer_limit)
