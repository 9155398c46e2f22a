"""Token ids of several sequences, one after the other, and the way to a device and back.

Axes: N tokens of all sequences, B sequences.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenBatch:
    """Token ids of several sequences with their special tokens, one after the other."""

    token_ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    """(B + 1,): sequence b is token_ids[starts[b] : starts[b + 1]]."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths_B(self) -> NDArray[np.int64]:  # noqa: N802
        """Tokens of each sequence, special tokens included."""
        return np.diff(self.starts)

    @classmethod
    def of(cls, sequences: Sequence[NDArray[np.integer[Any]]]) -> "TokenBatch":
        """Pack separate sequences."""
        lengths = [len(sequence) for sequence in sequences]
        return cls(
            token_ids=np.concatenate([np.empty(0, np.int64), *sequences]).astype(np.int64),
            starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        )

    def filled(self, tokens: int, *, filler_tokens: int, sequences: int = 0) -> "TokenBatch":
        """So many tokens: behind the batch's own come sequences of id 0, each of at most `filler_tokens`.

        None is longer than what the batch holds: a model may know no more positions. Empty ones behind them make
        `sequences` of them all.
        """
        own, length = len(self.token_ids), min(filler_tokens, int(self.lengths_B.max()))
        fillers = max(-(-(tokens - own) // length), sequences - len(self))
        ends = np.minimum(own + length * np.arange(1, fillers + 1), tokens)
        return TokenBatch(
            token_ids=np.concatenate([self.token_ids, np.zeros(tokens - own, np.int64)]),
            starts=np.concatenate([self.starts, ends]),
        )

    def positions(self) -> NDArray[np.int64]:
        """Position of each token in its sequence, from 0 (N,)."""
        return np.arange(len(self.token_ids)) - np.repeat(self.starts[:-1], self.lengths_B)


def first_tokens(starts: Tensor, tokens: int) -> Tensor:
    """Place of each sequence's first token (B,); of an empty one behind all others, that of the last token."""
    return starts[:-1].clamp(max=tokens - 1)


def on_device(values: NDArray[np.generic], device: torch.device) -> Tensor:
    """The values there, without waiting for what the device is doing."""
    return torch.from_numpy(values) if device.type == "cpu" else pinned(values).to(device, non_blocking=True)


def pinned(values: NDArray[np.generic]) -> Tensor:
    """A copy in memory that a GPU copies from without being waited for."""
    return torch.from_numpy(values).pin_memory()


class FromDevice:
    """Values on their way from a device, once it has computed them. To be made in the thread that queued the work."""

    def __init__(self, values: Tensor) -> None:
        self._values, self._event = values, None
        if values.device.type != "cpu":
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            # One that is waited for asleep: the processor's cores have texts to read.
            self._event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._event.record()

    def wait(self) -> NDArray[Any]:
        """The values; other threads may use the device meanwhile."""
        if self._event is not None:
            self._event.synchronize()
        return self._values.numpy()
