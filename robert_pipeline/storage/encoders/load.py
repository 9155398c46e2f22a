"""An encoder ready to run, on the fastest device of this machine."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from robert_pipeline.config import Chunking, EncoderSource
from robert_pipeline.errors import ConfigError
from robert_pipeline.native.allocator import bound_primitive_cache, keep_freed_memory, share_freed_memory
from robert_pipeline.storage.encoders.checkpoint import load_checkpoint
from robert_pipeline.storage.encoders.identity import EncoderIdentity, identify_encoder

if TYPE_CHECKING:
    from robert_pipeline.core.encoder import Encoder
    from robert_pipeline.core.finetune.layers import TrainingKernels
    from robert_pipeline.core.tokenize import Tokenizer
    from robert_pipeline.native.attention import PackedAttention
    from robert_pipeline.native.elementwise import PackedElementwise

log = logging.getLogger(__name__)

Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedEncoder:
    """An encoder ready to run, with its tokenizer."""

    identity: EncoderIdentity
    encoder: "Encoder"
    tokenizer: "Tokenizer"
    max_chunk_tokens: int
    """Longest chunk the model takes, special tokens not counted."""

    def check_fits(self, chunking: Chunking) -> None:
        """Raise ConfigError where chunks are longer than the model reads."""
        if chunking.chunk_tokens > self.max_chunk_tokens:
            raise ConfigError(
                f"chunking.chunk_tokens is {chunking.chunk_tokens}, but encoder {self.identity.folder} reads at most "
                f"{self.max_chunk_tokens} beside its {len(self.tokenizer.frame)} special tokens",
                fix=f"Give --chunk-tokens {self.max_chunk_tokens} or less",
            )


def load_encoder(source: EncoderSource) -> LoadedEncoder:
    """Load model and tokenizer onto the CUDA device where there is one, else the CPU. Raises EncoderError."""
    import torch

    from robert_pipeline.core.encoder import Encoder
    from robert_pipeline.core.threads import switch_often

    checkpoint = load_checkpoint(identify_encoder(source))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        switch_often()
    keep_freed_memory()
    share_freed_memory()
    bound_primitive_cache()
    return LoadedEncoder(
        identity=checkpoint.identity,
        encoder=Encoder(
            checkpoint.model,
            pooling=checkpoint.identity.pooling,
            pad_id=checkpoint.pad_id,
            device=device,
            kernel=attention_kernel(),
            elementwise=_elementwise(),
        ),
        tokenizer=checkpoint.tokenizer,
        max_chunk_tokens=checkpoint.max_chunk_tokens,
    )


def attention_kernel() -> "PackedAttention | None":
    """The compiled attention, None where there can be none here."""
    from robert_pipeline.native.attention import packed_attention

    return _compiled(packed_attention, "attention")


def training_kernels() -> "TrainingKernels":
    """What is compiled for training here."""
    from robert_pipeline.core.finetune.layers import TrainingKernels
    from robert_pipeline.native.gradients import linear_gradients

    return TrainingKernels(linear_gradients=_compiled(linear_gradients, "gradients"), elementwise=_elementwise())


def _elementwise() -> "PackedElementwise | None":
    from robert_pipeline.native.elementwise import packed_elementwise

    return _compiled(packed_elementwise, "elementwise operations")


def _compiled(make: Callable[[], Made], what: str) -> Made | None:
    from robert_pipeline.native.build import NativeUnavailable

    try:
        return make()
    except NativeUnavailable as reason:
        log.info("no compiled %s: %s", what, reason)
        return None
