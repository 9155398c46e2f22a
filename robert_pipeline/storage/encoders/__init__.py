"""Encoders at rest: found, identified, loaded, and written after fine-tuning. Safetensors only."""

from robert_pipeline.storage.encoders.identity import EncoderIdentity, identify_encoder
from robert_pipeline.storage.encoders.load import LoadedEncoder, load_encoder

__all__ = ["EncoderIdentity", "LoadedEncoder", "identify_encoder", "load_encoder"]
