"""Trained heads on disk: `head.json` beside safetensors files. Never pickle.

A TrainedHead enters and leaves, and the keys of the texts it has learned from, so that it is never judged on them.
head.json names the weights by their SHA-256 and carries the fingerprint of all that decides a label; whatever does not
agree with itself raises ModelError. head.json is written last, so a reader finds the old head or the new one, whole.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields, replace
from typing import TypeVar, cast

import numpy as np
import safetensors
import safetensors.numpy
import safetensors.torch
from torch import Tensor

from robert_pipeline.config import Chunking, EncoderSource, HeadConfig, Plain
from robert_pipeline.core.evidence import method
from robert_pipeline.core.examples import Integers
from robert_pipeline.core.fusion import Fusion, make_fusion, view_bytes, views_from
from robert_pipeline.core.head import Head
from robert_pipeline.core.model import Calibration, Thresholds, TrainedHead, weight_bytes
from robert_pipeline.core.origin import VectorOrigin
from robert_pipeline.core.weights import WeightShape, head_from
from robert_pipeline.errors import ConfigError, ModelError, RobertError
from robert_pipeline.storage.files import Files

HEAD_FILE = "head.json"
FORMAT = "robert head"
FORMAT_VERSION = 1
KEYS = "text_keys"
INSIDE = "./"
"""Begins the name of an encoder that lies in the head's folder."""
WORDS_METHOD = "; times its weight, plus the weighted shares of the chunk's words in the linear views"
MAX_HEAD_FILE_BYTES = 64 << 20

_RETRAIN = "Train or import the head again"
_BROKEN = (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError, safetensors.SafetensorError)

T = TypeVar("T")


def save_head(model_dir: str, head: TrainedHead, *, learned_keys: Integers | None = None) -> None:
    """Put a head in place of the one in `model_dir`, if any. Raises StoreError where it cannot be written.

    `learned_keys` are the keys (`core.split.text_keys`) of the texts that it has learned from, held-out ones among
    them; None where nobody knows.
    """
    files = Files(model_dir)
    earlier = _files_named_in(files)
    named = {"weights": (f"head-{head.fingerprint}.safetensors", weight_bytes(head.module))}
    if head.fusion is not None:
        named["words"] = (f"words-{head.fingerprint}.safetensors", view_bytes(head.fusion.views))
    if learned_keys is not None:
        keys = safetensors.numpy.save({KEYS: np.unique(learned_keys)})
        named["learned"] = (f"learned-{head.fingerprint}.safetensors", keys)
    for name, content in named.values():
        files.write_bytes(name, content)
    places = {
        kind: {"file": name, "sha256": hashlib.sha256(content).hexdigest()} for kind, (name, content) in named.items()
    }
    files.write_bytes(HEAD_FILE, _to_json(head, places, files))
    # Only what the head before has named: anything else is somebody's, or of a training that ends at this moment.
    for name in earlier - {name for name, _ in named.values()}:
        files.delete(name)


def _files_named_in(files: Files) -> set[str]:
    """The files beside head.json that it names; none where it is not there, or not one of ours."""
    try:
        content = _read_head_file(files)
        parts = [cast(dict[str, str] | None, content[part]) for part in ("weights", "words", "learned")]
        names = {part["file"] for part in parts if part is not None}
        return {name for name in names if "/" not in name and "\\" not in name}
    except (FileNotFoundError, RobertError, *_BROKEN):
        return set()


def _to_json(head: TrainedHead, places: Mapping[str, Mapping[str, str]], files: Files) -> bytes:
    fusion = head.fusion
    content = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "fingerprint": head.fingerprint,
        "labels": head.labels,
        "dimension": head.dimension,
        "config": asdict(head.config),
        "weights": places["weights"],
        "words": fusion
        and {
            **places["words"],
            "head_weight": fusion.head_weight,
            "view_weights": {view.view: w for view, w in zip(fusion.views, fusion.view_weights, strict=True)},
        },
        "learned": places.get("learned"),
        "encoder": {**asdict(_beside(head.origin.encoder, files)), "fingerprint": head.origin.encoder_fingerprint},
        "chunking": {**asdict(head.origin.chunking), "fingerprint": head.origin.chunking_fingerprint},
        "calibration": asdict(head.calibration),
        "thresholds": asdict(head.thresholds),
        "evidence": method(head.config) + (WORDS_METHOD if fusion else ""),
        "notes": dict(head.notes),
    }
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _beside(encoder: EncoderSource, files: Files) -> EncoderSource:
    """The encoder by its place in the head's folder, if it lies there: the folder may be moved as a whole."""
    inside = f"{files.full_path('').rstrip('/')}/"
    if encoder.name.startswith(inside):
        return replace(encoder, name=INSIDE + encoder.name.removeprefix(inside))
    return encoder


def _found(encoder: EncoderSource, files: Files) -> EncoderSource:
    """The encoder by its own name again."""
    if encoder.name.startswith(INSIDE):
        return replace(encoder, name=files.full_path(encoder.name.removeprefix(INSIDE)))
    return encoder


def has_head(model_dir: str) -> bool:
    """Whether there is a head in `model_dir`, whole or not."""
    return Files(model_dir).exists(HEAD_FILE)


def load_head(model_dir: str) -> TrainedHead:
    """The head in `model_dir`, on the CPU, ready to score. Raises ModelError where it is missing or damaged."""
    return _made_of_head_file(model_dir, _from_json)


def load_learned_keys(model_dir: str) -> Integers | None:
    """The keys of the texts that the head in `model_dir` has learned from, sorted; None where nobody knows."""
    return _made_of_head_file(model_dir, _learned_keys)


def _made_of_head_file(model_dir: str, make: Callable[[Mapping[str, object], Files, str], T]) -> T:
    files = Files(model_dir)
    place = files.describe(HEAD_FILE)
    with _damage_at(place):
        content = _read_head_file(files)
        try:
            return make(content, files, place)
        except FileNotFoundError as error:
            # A new head may have been put in place, and the files of the old one removed, since head.json was read.
            if (newer := _read_head_file(files)) == content:
                raise ModelError(
                    f"{files.describe(str(error))}, which {HEAD_FILE} names, is missing", fix=_RETRAIN
                ) from error
            return make(newer, files, place)


@contextlib.contextmanager
def _damage_at(place: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ModelError(f"{place} is damaged: {error.problem}", fix=_RETRAIN) from error
    except RobertError:
        raise
    except _BROKEN as error:
        raise ModelError(f"{place} is damaged: {_first_line(error)}", fix=_RETRAIN) from error


def _read_head_file(files: Files) -> dict[str, object]:
    place = files.describe(HEAD_FILE)
    if not files.exists(HEAD_FILE):
        raise ModelError(f"there is no trained head at {place}", fix="Run `robert train`, or give its folder")
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
    return content


def _from_json(content: Mapping[str, object], files: Files, place: str) -> TrainedHead:
    labels = content["labels"]
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError("labels are not a list of text")
    config = _value(HeadConfig, content["config"])
    encoder = cast(dict[str, object], content["encoder"])
    chunking = cast(dict[str, object], content["chunking"])
    origin = VectorOrigin(
        encoder=_found(_value(EncoderSource, {k: v for k, v in encoder.items() if k != "fingerprint"}), files),
        encoder_fingerprint=str(encoder["fingerprint"]),
        chunking=_value(Chunking, {k: v for k, v in chunking.items() if k != "fingerprint"}),
    )
    if origin.chunking_fingerprint != chunking["fingerprint"]:
        raise ValueError("the fingerprint of its chunking does not fit its values")
    dimension = int(cast(int, content["dimension"]))
    weights = cast(dict[str, str], content["weights"])
    raw = _read_named(files, weights["file"], weights["sha256"])
    head = TrainedHead(
        module=_load_module(raw, config, dimension, len(labels), f"{place} ({weights['file']})"),
        config=config,
        labels=tuple(labels),
        dimension=dimension,
        origin=origin,
        calibration=_value(Calibration, content["calibration"]),
        thresholds=_value(Thresholds, content["thresholds"]),
        weights_sha256=weights["sha256"],
        fusion=_fusion(cast(dict[str, object] | None, content["words"]), files),
        notes=tuple(cast(dict[str, Plain], content["notes"]).items()),
    )
    if head.fingerprint != content["fingerprint"]:
        raise ValueError(f"its content has fingerprint {head.fingerprint}, it says {content['fingerprint']}")
    return head


def _fusion(described: dict[str, object] | None, files: Files) -> Fusion | None:
    if described is None:
        return None
    views = views_from(_read_named(files, str(described["file"]), str(described["sha256"])))
    weights = cast(dict[str, float], described["view_weights"])
    if set(weights) != {view.view for view in views}:
        raise ValueError("its weights are not those of its views")
    return make_fusion(views, (float(cast(float, described["head_weight"])), *(weights[v.view] for v in views)))


def _learned_keys(content: Mapping[str, object], files: Files, _place: str) -> Integers | None:
    place = cast(dict[str, str] | None, content["learned"])
    if place is None:
        return None
    keys: Integers = safetensors.numpy.load(_read_named(files, place["file"], place["sha256"]))[KEYS]
    return keys


def _value(kind: type[T], given: object) -> T:
    """A dataclass from JSON; every field must be there and no other. JSON has no tuples, so lists become tuples."""
    names = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(given, dict) or set(given) != names:
        raise ValueError(f"{kind.__name__} does not have the fields {', '.join(sorted(names))}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


def _read_named(files: Files, name: str, sha256: str) -> bytes:
    if "/" in name or "\\" in name:
        raise ValueError(f"file '{name}' is not beside it")
    try:
        raw = files.read_bytes(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(name) from error
    found = hashlib.sha256(raw).hexdigest()
    if found != sha256:
        raise ModelError(
            f"{files.describe(name)} is damaged: its SHA-256 is {found[:12]}…, {HEAD_FILE} says {sha256[:12]}…",
            fix=_RETRAIN,
        )
    return raw


def _load_module(raw: bytes, config: HeadConfig, dimension: int, label_count: int, place: str) -> Head:
    shape = WeightShape(config=config, dimension=dimension, label_count=label_count)
    return head_from(safetensors.torch.load(raw), shape, place=place)


def read_weights_file(path: str) -> dict[str, Tensor]:
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
