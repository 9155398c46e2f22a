"""Find an encoder and say what it is, without loading it: hashes of all that decides a vector.

A source (a folder in Hugging Face layout, or a hub name) enters, its identity leaves. Raises EncoderError.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from robert_pipeline.config import EncoderSource, fingerprint
from robert_pipeline.errors import EncoderError
from robert_pipeline.storage.encoders.learned import LEARNED_FILE

if TYPE_CHECKING:
    from robert_pipeline.core.pooling import Pooled

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
VOCABULARY_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
POOLING_FILE = "1_Pooling/config.json"
_FLAGS = tuple(
    f"pooling_mode_{mode}"
    for mode in ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderIdentity:
    """What an encoder is, found without loading it."""

    folder: Path
    fingerprint: str
    pooling: "Pooled"
    precision: str
    dimension: int


def identify_encoder(source: EncoderSource) -> EncoderIdentity:
    """Hash what decides a vector: configuration, weights, tokenizer, pooling, precision. Raises EncoderError."""
    folder = _find(source)
    config = _read_json(folder / "config.json")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise EncoderError(
            f"encoder {folder} has no *.safetensors weights",
            fix="Convert it with transformers' save_pretrained; pickled weights are never loaded",
        )
    if not any((folder / name).is_file() for name in VOCABULARY_FILES):
        # transformers would make up a tokenizer that knows no word.
        raise EncoderError(
            f"encoder {folder} has no tokenizer (tokenizer.json or a vocabulary)",
            fix="Put the checkpoint's own tokenizer files beside its weights",
        )
    pooling = _pooling(source, folder)
    precision = _precision(source)
    tokenizer = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    return EncoderIdentity(
        folder=folder,
        fingerprint=fingerprint(
            "encoder/1",
            {
                "config": _sha256(folder / "config.json"),
                "weights": [_sha256(path) for path in weights],
                "tokenizer": [f"{path.name} {_sha256(path)}" for path in tokenizer],
                "pooling": pooling,
                "precision": precision,
            },
        ),
        pooling=pooling,
        precision=precision,
        dimension=_dimension(folder, config),
    )


def _find(source: EncoderSource) -> Path:
    folder = Path(source.name).expanduser()
    if folder.is_dir():
        if source.revision is not None:
            raise EncoderError(
                f"encoder {source.name} is a folder, but encoder.revision is '{source.revision}'",
                fix="Leave the revision out; it names one of several versions on the Hugging Face hub",
            )
        return folder.absolute()
    if folder.exists() or source.name.startswith(("/", ".", "~")):
        raise EncoderError(
            f"encoder {source.name} is not a folder",
            fix="Give the folder that holds its config.json, *.safetensors and tokenizer, or a hub name",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    patterns = [
        "config.json",
        "*.safetensors",
        "*.safetensors.index.json",
        POOLING_FILE,
        *TOKENIZER_FILES,
        LEARNED_FILE,
    ]
    try:
        return Path(snapshot_download(source.name, revision=source.revision, allow_patterns=patterns))
    except LocalEntryNotFoundError as error:
        raise EncoderError(
            f"encoder '{source.name}' is no folder, the Hugging Face hub cannot be reached, and no copy of it was "
            "downloaded before",
            fix="Check the spelling and the network (HF_HUB_OFFLINE=1 forbids it), or give a folder with config.json, "
            "*.safetensors and a tokenizer",
        ) from error
    except (OSError, ValueError, HFValidationError) as error:
        raise EncoderError(
            f"encoder '{source.name}' is neither a folder nor to be had from the Hugging Face hub: "
            f"{type(error).__name__}",
            fix="Check the spelling, or give a folder with config.json, *.safetensors and a tokenizer",
        ) from error


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise EncoderError(
            f"encoder {path.parent} has no {path.name}", fix="Give a folder in Hugging Face layout"
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise EncoderError(f"{path} is not JSON", fix="Restore the checkpoint") from error
    if not isinstance(content, dict):
        raise EncoderError(f"{path} is not a JSON object", fix="Restore the checkpoint")
    return content


def _dimension(folder: Path, config: dict[str, object]) -> int:
    for name in ("hidden_size", "dim", "d_model"):
        if isinstance(width := config.get(name), int):
            return width
    raise EncoderError(f"{folder / 'config.json'} has no 'hidden_size'", fix="Give a BERT-family checkpoint")


def _pooling(source: EncoderSource, folder: Path) -> "Pooled":
    if source.pooling != "auto":
        return source.pooling
    if (folder / POOLING_FILE).is_file():
        stated = _read_json(folder / POOLING_FILE)
        modes = [key.removeprefix("pooling_mode_") for key, value in stated.items() if value is True and key in _FLAGS]
        modes = [str(stated["pooling_mode"])] if stated.get("pooling_mode") else modes
        if modes in (["cls_token"], ["cls"]):
            return "cls"
        if modes not in (["mean_tokens"], ["mean"]):
            raise EncoderError(
                f"encoder {folder} was trained with pooling '{' + '.join(modes) or 'none'}', which is not offered",
                fix="Choose --pooling mean, cls or pooler, or another encoder",
            )
    return "mean"


def _precision(source: EncoderSource) -> str:
    if source.precision != "auto":
        return source.precision
    import torch

    from robert_pipeline.core.encoder import fast_precision

    return fast_precision(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> EncoderError:
    return EncoderError(f"{path} cannot be read: {error.strerror}", fix="Restore the checkpoint, or its permissions")
