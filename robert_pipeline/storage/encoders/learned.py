"""Which texts an encoder was fine-tuned on, kept beside its weights: nothing made with it is to be judged on these.

Keys of texts (`core.split.text_keys`) enter and leave. An encoder that says nothing has learned from none of ours.
"""

from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from robert_pipeline.core.split import Integers
from robert_pipeline.errors import EncoderError

LEARNED_FILE = "learned/text_keys.safetensors"
"""In a folder of its own: beside the weights, tools would take it for some of them."""
_KEYS = "text_keys"


def save_learned(folder: Path, keys: Integers) -> None:
    """Write the keys into the encoder's folder. Raises OSError."""
    place = folder / LEARNED_FILE
    place.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file({_KEYS: np.unique(keys)}, place)


def load_learned(folder: Path) -> Integers:
    """Keys of all texts that the encoder in `folder` has learned from, sorted. Raises EncoderError for damage."""
    place = folder / LEARNED_FILE
    if not place.is_file():
        return np.empty(0, np.int64)
    try:
        keys: Integers = safetensors.numpy.load(place.read_bytes())[_KEYS]
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise EncoderError(
            f"{place} cannot be read: {type(error).__name__}",
            fix="Restore it from where the encoder came from, or fine-tune again",
        ) from error
    return keys
