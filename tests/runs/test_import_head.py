"""Weights that were trained elsewhere become a head that labels as they did."""

from dataclasses import replace

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from robert_pipeline.config import HeadConfig
from robert_pipeline.errors import ConfigError, ModelError
from robert_pipeline.runs.import_head import import_head
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.score import load_head_for
from robert_pipeline.storage.heads import has_head, load_head, load_learned_keys
from tests.heads import documents, flat
from tests.projects import LEARN

DIMENSION = 32


class Origin(nn.Module):
    """The model that the weights come from: padded, packed, the last hidden state classified."""

    def __init__(self, logits, dimension=DIMENSION):
        super().__init__()
        self.lstm = nn.LSTM(dimension, 100, num_layers=1, bidirectional=False)
        self.out = nn.Linear(100, logits)

    def forward(self, texts):
        padded = pad_sequence(texts, batch_first=True, padding_value=-91).transpose(0, 1)
        packed = pack_padded_sequence(padded, [len(text) for text in texts], enforce_sorted=False)
        _, (last, _) = self.lstm(packed)
        return self.out(last.view(-1, 100))


def origin(place, logits=2, dimension=DIMENSION):
    torch.manual_seed(logits)
    model = Origin(logits, dimension).eval()
    safetensors.torch.save_file(model.state_dict(), place)
    return model


@pytest.mark.parametrize("logits", [1, 2, 5])
def test_imported_weights_give_the_origin_s_logits(project, tmp_path, logits):
    """Whoever trained the model elsewhere would get other labels here."""
    model = origin(tmp_path / "w.safetensors", logits)
    settings = replace(project, model=str(tmp_path / "model"))
    labels = [f"l{n}" for n in range(max(2, logits))]
    report = import_head(settings, str(tmp_path / "w.safetensors"), labels)
    head = load_head_for(plan(settings, partitions=[LEARN], run_id="r"), model=settings.model)
    assert (head.fingerprint, head.labels) == (report.head.fingerprint, tuple(labels))
    texts = documents([3, 1, 40, 2, 2], dimension=DIMENSION)
    with torch.inference_mode():
        assert torch.allclose(head.module(*flat(texts)), model(texts), atol=1e-5)
    assert load_learned_keys(settings.model) is None
    assert head.calibration.method == "none"


@pytest.mark.parametrize(
    ("logits", "dimension", "labels", "output", "error", "named"),
    [
        (2, DIMENSION, ["a", "b", "c"], "auto", ModelError, "tells 2 labels apart, 3 are named"),
        (1, DIMENSION, ["a"], "auto", ModelError, "tells 2 labels apart, 1 are named"),
        (2, DIMENSION, ["a", "a"], "auto", ConfigError, "labels must be different"),
        (2, 768, ["a", "b"], "auto", ModelError, "reads vectors of 768 values, encoder .* makes 32"),
        (2, DIMENSION, ["a", "b"], "binary", ModelError, "has 2 logits, head.output is 'binary'"),
    ],
)
def test_what_does_not_fit_is_named_and_no_head_is_made(
    project, tmp_path, logits, dimension, labels, output, error, named
):
    """Weights for other vectors or other labels would give labels that mean nothing."""
    origin(tmp_path / "w.safetensors", logits, dimension)
    settings = replace(project, model=str(tmp_path / "model"), head=HeadConfig(output=output))
    with pytest.raises(error, match=named):
        import_head(settings, str(tmp_path / "w.safetensors"), labels)
    assert not has_head(settings.model)


def test_weights_with_nan_are_refused(project, tmp_path):
    """Every document would get the label whose logit is not a number."""
    state = origin(tmp_path / "w.safetensors").state_dict()
    state["out.bias"][0] = float("nan")
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="hold NaN or infinity"):
        import_head(replace(project, model=str(tmp_path / "m")), str(tmp_path / "w.safetensors"), ["a", "b"])


def test_the_head_that_was_there_can_still_be_loaded_after_a_refusal(project, tmp_path):
    """A mistyped file name would cost the head that labels."""
    with pytest.raises(ModelError, match="do not exist"):
        import_head(project, str(tmp_path / "no.safetensors"), ["a", "b"])
    assert load_head(project.model).labels == ("business", "sport")
