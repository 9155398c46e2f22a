"""Find, identify and load an encoder: a folder in Hugging Face layout, or a hub name.

A source enters; its identity (hashes of what decides a vector) or the loaded model leaves. Reads safetensors only and
never runs code that comes with a checkpoint.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robert_pipeline.config import Chunking, EncoderSource, fingerprint
from robert_pipeline.errors import ConfigError, EncoderError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from robert_pipeline.core.encoder import Encoder
    from robert_pipeline.core.pooling import Pooled
    from robert_pipeline.core.tokenize import Tokenizer
    from robert_pipeline.native.attention import PackedAttention

log = logging.getLogger(__name__)

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


def load_encoder(source: EncoderSource) -> LoadedEncoder:
    """Load model and tokenizer onto the CUDA device where there is one, else the CPU. Raises EncoderError."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from robert_pipeline.core.encoder import Encoder
    from robert_pipeline.core.tokenize import Tokenizer

    identity = identify_encoder(source)
    try:
        with _quiet_transformers():
            model, report = AutoModel.from_pretrained(
                identity.folder,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=getattr(torch, identity.precision),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # to name the weight below
                local_files_only=True,
            )
            loaded = AutoTokenizer.from_pretrained(identity.folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # a broken checkpoint makes transformers and safetensors raise of every kind
        raise EncoderError(
            f"encoder {identity.folder} cannot be loaded: {first_line(error)}",
            fix="Give a BERT-family checkpoint that is whole",
        ) from error
    _check_model(identity, model)
    _check_weights(identity, report)
    if not getattr(loaded, "is_fast", False):
        raise EncoderError(
            f"encoder {identity.folder} has no fast tokenizer (tokenizer.json)",
            fix="Save it once with AutoTokenizer.from_pretrained(...).save_pretrained(...)",
        )
    words, rows = int(loaded.vocab_size), int(model.get_input_embeddings().num_embeddings)
    if words > rows:
        raise EncoderError(
            f"encoder {identity.folder} has a tokenizer of {words} tokens, its model knows {rows}",
            fix="Put the checkpoint's own tokenizer files beside its weights",
        )
    pad_id = int(loaded.pad_token_id or 0)
    tokenizer = Tokenizer(loaded.backend_tokenizer, pad_id=pad_id)
    return LoadedEncoder(
        identity=identity,
        encoder=Encoder(
            model,
            pooling=identity.pooling,
            pad_id=pad_id,
            device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
            kernel=_attention_kernel(),
        ),
        tokenizer=tokenizer,
        max_chunk_tokens=_max_sequence_tokens(model, int(loaded.model_max_length)) - len(tokenizer.frame),
    )


def _attention_kernel() -> "PackedAttention | None":
    from robert_pipeline.native.attention import packed_attention
    from robert_pipeline.native.build import NativeUnavailable

    try:
        return packed_attention()
    except NativeUnavailable as reason:
        log.info("no compiled attention: %s", reason)
        return None


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
    from huggingface_hub.errors import HFValidationError

    patterns = ["config.json", "*.safetensors", "*.safetensors.index.json", POOLING_FILE, *TOKENIZER_FILES]
    try:
        return Path(snapshot_download(source.name, revision=source.revision, allow_patterns=patterns))
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


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _check_model(identity: EncoderIdentity, model: "PreTrainedModel") -> None:
    if getattr(model.config, "is_encoder_decoder", False):
        raise EncoderError(
            f"encoder {identity.folder} is a '{model.config.model_type}' model, an encoder with a decoder",
            fix="Give a BERT-family checkpoint",
        )
    if identity.pooling == "pooler" and getattr(model, "pooler", None) is None:
        raise EncoderError(f"encoder {identity.folder} has no pooler", fix="Use --pooling mean or cls")


def _check_weights(identity: EncoderIdentity, report: "Mapping[str, Collection[Any]]") -> None:
    # Weights that the checkpoint lacks are filled with random numbers: a vector of noise, without a word.
    if report["mismatched_keys"]:
        name, found, wanted = sorted(report["mismatched_keys"])[0]
        raise EncoderError(
            f"encoder {identity.folder} has weight '{name}' of shape {tuple(found)}, its config.json says "
            f"{tuple(wanted)}",
            fix="Restore the checkpoint: weights and config.json are of different models",
        )
    missing = report["missing_keys"]
    lacking = [key for key in missing if identity.pooling == "pooler" or not key.startswith("pooler.")]
    if lacking:
        raise EncoderError(
            f"encoder {identity.folder} lacks weights, '{sorted(lacking)[0]}' first of {len(lacking)}",
            fix="Give a whole checkpoint; a model without a trained pooler needs pooling 'mean' or 'cls'",
        )


def _max_sequence_tokens(model: "PreTrainedModel", tokenizer_limit: int) -> int:
    positions = int(getattr(model.config, "max_position_embeddings", tokenizer_limit))
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            positions -= int(module.padding_idx) + 1  # RoBERTa and its kin count positions from the padding id
    return min(positions, tokenizer_limit)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> EncoderError:
    return EncoderError(f"{path} cannot be read: {error.strerror}", fix="Restore the checkpoint, or its permissions")
