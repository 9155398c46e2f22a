"""The state of a fine-tuning between two steps, on disk: what a run that was killed goes on from.

One safetensors file and a JSON file that names it by its SHA-256, which is written last: a reader finds the old state
or the new one, whole. Never pickle.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

import safetensors
import safetensors.torch
import torch

from robert_pipeline.core.finetune.loop import Evaluation, TrainingState
from robert_pipeline.storage.files import Files

STATE_FILE = "state.json"
_KINDS = ("weights", "moments", "best_weights")


def save_state(files: Files, state: TrainingState, *, run: str) -> None:
    """Put a state in place of the one before. `run` is the identity of what is trained on what, and how."""
    tensors = {
        f"{kind}/{name}": tensor.contiguous() for kind in _KINDS for name, tensor in getattr(state, kind).items()
    }
    content = safetensors.torch.save(tensors)
    name = f"state-{state.step:08d}.safetensors"
    files.write_bytes(name, content)
    described = {
        "run": run,
        "step": state.step,
        "steps": state.steps,
        "seconds": state.seconds,
        "tokens": state.tokens,
        "batch_tokens": state.batch_tokens,
        "history": [asdict(evaluation) for evaluation in state.history],
        "file": name,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    files.write_bytes(STATE_FILE, (json.dumps(described, indent=2) + "\n").encode())
    for entry in files.list():
        if entry.path.startswith("state-") and entry.path != name:
            files.delete(entry.path)


def load_state(files: Files, *, run: str) -> TrainingState | None:
    """The state to go on from; None where there is none, it is of another run, or it is damaged."""
    if not files.exists(STATE_FILE):
        return None
    try:
        described = json.loads(files.read_bytes(STATE_FILE))
        content = files.read_bytes(described["file"])
        if described["run"] != run or hashlib.sha256(content).hexdigest() != described["sha256"]:
            return None
        tensors = safetensors.torch.load(content)
        return TrainingState(
            step=int(described["step"]),
            steps=described["steps"],
            seconds=float(described["seconds"]),
            tokens=int(described["tokens"]),
            **{kind: _of(kind, tensors) for kind in _KINDS},
            history=tuple(Evaluation(**values) for values in described["history"]),
            batch_tokens=described["batch_tokens"],
        )
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError):
        return None  # to begin again is right where there is nothing to go on from


def _of(kind: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(f"{kind}/"): tensor for name, tensor in tensors.items() if name.startswith(f"{kind}/")}
