"""A head by its configuration: the one place that knows every kind."""

from robert_pipeline.config import HeadConfig, HeadKind
from robert_pipeline.core.baselines import FirstChunkHead, MeanHead, TobertHead
from robert_pipeline.core.head import Head
from robert_pipeline.core.robert import RobertHead

Kind = type[RobertHead] | type[MeanHead] | type[TobertHead]

KINDS: dict[HeadKind, Kind] = {
    "robert": RobertHead,
    "mean": MeanHead,
    "first-chunk": FirstChunkHead,
    "tobert": TobertHead,
}


def build_head(config: HeadConfig, *, dimension: int, label_count: int) -> Head:
    """A head with fresh weights from torch's global generator, for vectors of `dimension` values.

    Raises ConfigError where `label_count` does not fit the output.
    """
    config = config.resolved(label_count)
    return KINDS[config.kind](config, dimension=dimension, logit_count=logit_count(config, label_count))


def logit_count(config: HeadConfig, label_count: int) -> int:
    """One for a binary head, else one a label. `config` is resolved."""
    return 1 if config.output == "binary" else label_count
