"""Trained heads on disk: `head.json` beside one safetensors file. Never pickle.

A TrainedHead enters and leaves. head.json names the weights by their SHA-256 and carries the fingerprint of all that
decides a label; whatever does not agree with itself raises ModelError. head.json is written last, so a reader finds
the old head or the new one, whole.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import TypeVar, cast

import safetensors
import safetensors.torch
import torch

from robert_pipeline.config import Chunking, EncoderSource, Plain
from robert_pipeline.core.evidence import method
from robert_pipeline.core.head import Head, HeadConfig, build_head
from robert_pipeline.core.model import Calibration, Thresholds, TrainedHead, VectorOrigin, weight_bytes
from robert_pipeline.errors import ConfigError, ModelError, RobertError
from robert_pipeline.storage.files import Files

HEAD_FILE = "head.json"
FORMAT = "robert head"
FORMAT_VERSION = 1
MAX_HEAD_FILE_BYTES = 64 << 20

_RETRAIN = "Train or import the head again"

T = TypeVar("T")


def save_head(model_dir: str, head: TrainedHead) -> None:
    """Put a head in place of the one in `model_dir`, if any. Raises StoreError where it cannot be written."""
    files = Files(model_dir)
    weights = weight_bytes(head.module)
    name = f"head-{head.fingerprint}.safetensors"
    files.write_bytes(name, weights)
    files.write_bytes(HEAD_FILE, _to_json(head, name))
    for entry in files.list():
        if entry.path.startswith("head-") and entry.path.endswith(".safetensors") and entry.path != name:
            files.delete(entry.path)


def _to_json(head: TrainedHead, weights_file: str) -> bytes:
    content = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "fingerprint": head.fingerprint,
        "labels": head.labels,
        "dimension": head.dimension,
        "config": asdict(head.config),
        "weights": {"file": weights_file, "sha256": head.weights_sha256},
        "encoder": {**asdict(head.origin.encoder), "fingerprint": head.origin.encoder_fingerprint},
        "chunking": {**asdict(head.origin.chunking), "fingerprint": head.origin.chunking_fingerprint},
        "calibration": asdict(head.calibration),
        "thresholds": asdict(head.thresholds),
        "evidence": method(head.config),
        "notes": dict(head.notes),
    }
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def has_head(model_dir: str) -> bool:
    """Whether there is a head in `model_dir`, whole or not."""
    return Files(model_dir).exists(HEAD_FILE)


def load_head(model_dir: str) -> TrainedHead:
    """The head in `model_dir`, on the CPU, ready to score. Raises ModelError where it is missing or damaged."""
    files = Files(model_dir)
    place = files.describe(HEAD_FILE)
    if not files.exists(HEAD_FILE):
        raise ModelError(f"there is no trained head at {place}", fix="Run `robert train`, or give its folder")
    try:
        if files.entry(HEAD_FILE).size_bytes > MAX_HEAD_FILE_BYTES:
            raise ValueError("larger than any head")
        content = json.loads(files.read_bytes(HEAD_FILE))
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ModelError(f"{place} is not a head of robert_pipeline", fix=_RETRAIN)
        if content.get("version") != FORMAT_VERSION:
            raise ModelError(
                f"{place} has format version {content.get('version')!r}, this program reads {FORMAT_VERSION}",
                fix="Use the program that wrote it, or train again",
            )
        head = _from_json(content, files, place)
    except ConfigError as error:
        raise ModelError(f"{place} is damaged: {error.problem}", fix=_RETRAIN) from error
    except RobertError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise ModelError(f"{place} is damaged: {_first_line(error)}", fix=_RETRAIN) from error
    if head.fingerprint != content["fingerprint"]:
        raise ModelError(
            f"{place} is damaged: its content has fingerprint {head.fingerprint}, it says {content['fingerprint']}",
            fix=_RETRAIN,
        )
    return head


def _from_json(content: Mapping[str, object], files: Files, place: str) -> TrainedHead:
    labels = content["labels"]
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError("labels are not a list of text")
    config = _value(HeadConfig, content["config"])
    encoder = cast(dict[str, object], content["encoder"])
    chunking = cast(dict[str, object], content["chunking"])
    origin = VectorOrigin(
        encoder=_value(EncoderSource, {k: v for k, v in encoder.items() if k != "fingerprint"}),
        encoder_fingerprint=str(encoder["fingerprint"]),
        chunking=_value(Chunking, {k: v for k, v in chunking.items() if k != "fingerprint"}),
    )
    if origin.chunking_fingerprint != chunking["fingerprint"]:
        raise ValueError("the fingerprint of its chunking does not fit its values")
    dimension = int(cast(int, content["dimension"]))
    weights = cast(dict[str, str], content["weights"])
    raw = _read_weights(files, weights["file"], weights["sha256"])
    return TrainedHead(
        module=_load_module(raw, config, dimension, len(labels), f"{place} ({weights['file']})"),
        config=config,
        labels=tuple(labels),
        dimension=dimension,
        origin=origin,
        calibration=_value(Calibration, content["calibration"]),
        thresholds=_value(Thresholds, content["thresholds"]),
        weights_sha256=weights["sha256"],
        notes=tuple(cast(dict[str, Plain], content["notes"]).items()),
    )


def _value(kind: type[T], given: object) -> T:
    """A dataclass from JSON; every field must be there and no other. JSON has no tuples, so lists become tuples."""
    names = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(given, dict) or set(given) != names:
        raise ValueError(f"{kind.__name__} does not have the fields {', '.join(sorted(names))}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


def _read_weights(files: Files, name: str, sha256: str) -> bytes:
    if "/" in name or "\\" in name:
        raise ValueError(f"weights file '{name}' is not beside it")
    raw = files.read_bytes(name)
    found = hashlib.sha256(raw).hexdigest()
    if found != sha256:
        raise ModelError(
            f"{files.describe(name)} is damaged: its SHA-256 is {found[:12]}…, {HEAD_FILE} says {sha256[:12]}…",
            fix=_RETRAIN,
        )
    return raw


def _load_module(raw: bytes, config: HeadConfig, dimension: int, label_count: int, place: str) -> Head:
    try:
        state = safetensors.torch.load(raw)
        with torch.random.fork_rng(devices=[]):
            module = build_head(config, dimension=dimension, label_count=label_count)
        module.load_state_dict(state, strict=True)
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise ModelError(f"weights of {place} do not fit its sizes: {_first_line(error)}", fix=_RETRAIN) from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in module.state_dict().values()):
        raise ModelError(f"weights of {place} hold NaN or infinity", fix=_RETRAIN)
    return module.eval()


def read_weights_file(path: str) -> dict[str, torch.Tensor]:
    """Tensors of any safetensors file. Raises ModelError for anything else; pickled weights are never opened."""
    folder, _, name = path.rpartition("/")
    files = Files(folder or ".")
    try:
        return dict(safetensors.torch.load(files.read_bytes(name)))
    except FileNotFoundError as error:
        raise ModelError(f"weights {path} do not exist", fix="Give a safetensors file") from error
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"{path} is not a safetensors file: {_first_line(error)}",
            fix="Convert it where you trust it: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__)[:200]
