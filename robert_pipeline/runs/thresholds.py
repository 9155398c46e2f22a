"""Let a head decide differently, without training it: new thresholds for its probabilities."""

from collections.abc import Mapping
from dataclasses import dataclass

from robert_pipeline.core.model import TrainedHead
from robert_pipeline.storage.heads import load_head, load_learned_keys, save_head


@dataclass(frozen=True, kw_only=True, slots=True)
class ThresholdsReport:
    """The head as it was and as it is now."""

    before: TrainedHead
    head: TrainedHead


def set_thresholds(
    model: str, *, decision: Mapping[str, float] | None = None, review: Mapping[str, float] | None = None
) -> ThresholdsReport:
    """Change thresholds of the head in folder `model`; labels that are not named keep theirs.

    `decision` is the probability from which on a label is given, `review` the one below which it is withheld (see
    `core.model.Thresholds`). The head gets a new fingerprint, so scoring with it starts anew; nothing is embedded
    again. Raises ConfigError for an unknown label or a value outside 0..1.
    """
    before = load_head(model)
    head = before.with_thresholds(decision=decision, review=review)
    if head.fingerprint != before.fingerprint:
        save_head(model, head, learned_keys=load_learned_keys(model))
    return ThresholdsReport(before=before, head=head)
