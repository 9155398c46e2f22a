"""Make a head's probabilities right for labelled documents that it has not learned from."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robert_pipeline.config import Settings
from robert_pipeline.core.calibrate import MIN_DOCUMENTS
from robert_pipeline.core.model import TrainedHead
from robert_pipeline.core.recipe import finish_head
from robert_pipeline.core.targets import targets_for
from robert_pipeline.errors import TrainingError
from robert_pipeline.runs.labelled import head_logits, read_training_set
from robert_pipeline.runs.plan import Plan
from robert_pipeline.runs.score import load_head_for
from robert_pipeline.storage.heads import load_learned_keys, save_head
from robert_pipeline.telemetry.watch import observed


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrateReport:
    """The head as it is now, and what it was calibrated on."""

    head: TrainedHead
    model: str
    documents: int
    learned_documents: int
    """Labelled documents left out, because the head has learned from them."""
    accuracy: float


@observed("calibrate")
def calibrate(settings: Settings, planned: Plan) -> CalibrateReport:
    """Calibrate the head in `settings.model` on the labelled documents of the planned partitions, and save it.

    Review thresholds are chosen for `settings.training.target_precision`, or lifted where there is none. Documents
    that the head has learned from are left out; these here count as learned from after this. Where nobody knows what
    it has learned from, nobody does afterwards. Raises TrainingError where too few are left, or one has a label that
    the head does not know.
    """
    head = load_head_for(planned, model=settings.model)
    known = load_learned_keys(settings.model)
    keys = np.empty(0, np.int64) if known is None else known
    with tempfile.TemporaryDirectory(prefix="robert-calibrate-") as folder:
        data = read_training_set(settings, planned, Path(folder) / "vectors.arrow")
        multilabel = head.config.output == "multilabel"
        separator = settings.training.label_separator
        targets = targets_for(head.labels, data.labelled, multilabel=multilabel, separator=separator)
        fresh = np.flatnonzero(~np.isin(data.text_key_B, keys))
        if len(fresh) < MIN_DOCUMENTS:
            raise TrainingError(
                f"of {len(data)} labelled documents the head was trained or calibrated on all but {len(fresh)}; "
                f"{MIN_DOCUMENTS} others are needed",
                fix="Name partitions that it has not seen with --partition",
            )
        logits_BK = head_logits(head, data, fresh)
        head, accuracy = finish_head(head, logits_BK, targets.values[fresh], settings.training.target_precision)
        learned = None if known is None else np.concatenate([known, data.text_key_B[fresh]])
    save_head(settings.model, head, learned_keys=learned)
    return CalibrateReport(
        head=head,
        model=settings.model,
        documents=len(fresh),
        learned_documents=len(data) - len(fresh),
        accuracy=accuracy,
    )
