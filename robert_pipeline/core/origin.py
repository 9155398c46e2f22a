"""Which encoder and chunking made vectors: what a head was trained on, what a plan embeds with."""

from dataclasses import dataclass

from robert_pipeline.config import Chunking, EncoderSource


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorOrigin:
    """Which encoder and chunking made the vectors a head was trained on. `encoder` is where to find it again."""

    encoder: EncoderSource
    encoder_fingerprint: str
    chunking: Chunking

    @property
    def chunking_fingerprint(self) -> str:
        """Identity of the chunking."""
        return self.chunking.fingerprint
