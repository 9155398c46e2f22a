"""Make a head of weights that were trained elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass

from robert_pipeline.config import Settings
from robert_pipeline.core.model import TrainedHead, default_thresholds, no_calibration, weights_sha256
from robert_pipeline.core.origin import VectorOrigin
from robert_pipeline.core.weights import head_from, shape_of
from robert_pipeline.errors import ModelError
from robert_pipeline.storage.encoders import identify_encoder
from robert_pipeline.storage.heads import read_weights_file, save_head


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportHeadReport:
    """The head, and how its encoder's output becomes one vector a chunk."""

    head: TrainedHead
    model: str
    pooling: str


def import_head(settings: Settings, weights: str, labels: Sequence[str]) -> ImportHeadReport:
    """Make a head of a safetensors file with `lstm.*` and `out.*` and save it in `settings.model`.

    `labels` are in the order of the logits; of a single logit, first the label it speaks against. Encoder and chunking
    are what the weights were trained on; nothing can tell whether they are, but vectors of another size are refused.
    The head is not calibrated. Raises ModelError, ConfigError (equal or empty labels) or EncoderError.
    """
    state = read_weights_file(weights)
    shape = shape_of(state, output=settings.head.output, place=weights)
    if len(labels) != shape.label_count:
        raise ModelError(
            f"{weights} tells {shape.label_count} labels apart, {len(labels)} are named",
            fix=f"Give --label {shape.label_count} times, in the order of the logits",
        )
    encoder = identify_encoder(settings.encoder)
    if encoder.dimension != shape.dimension:
        raise ModelError(
            f"{weights} reads vectors of {shape.dimension} values, encoder '{settings.encoder.name}' makes "
            f"{encoder.dimension}",
            fix="Name the encoder that it was trained on with --encoder",
        )
    module = head_from(state, shape, place=weights)
    head = TrainedHead(
        module=module,
        config=shape.config,
        labels=tuple(labels),
        dimension=shape.dimension,
        origin=VectorOrigin(
            encoder=settings.encoder, encoder_fingerprint=encoder.fingerprint, chunking=settings.chunking
        ),
        calibration=no_calibration(module.out.out_features),
        thresholds=default_thresholds(len(labels)),
        weights_sha256=weights_sha256(module),
        notes=(("imported_from", weights.rpartition("/")[2]),),
    )
    save_head(settings.model, head)
    return ImportHeadReport(head=head, model=settings.model, pooling=encoder.pooling)
