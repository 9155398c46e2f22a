"""One BERT-family model as a function from token ids to one vector a chunk.

Axes: N tokens of a batch, B chunks, D embedding. Never loads weights; `robert_pipeline.storage.encoders` does.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robert_pipeline.core.ceiling import ceiling_tokens_per_second, linear_shapes
from robert_pipeline.core.cuda_graphs import GraphedVectors
from robert_pipeline.core.layer_parts import CpuParts, CudaParts, Elementwise, LayerParts
from robert_pipeline.core.packed_layers import fuse_layers
from robert_pipeline.core.packed_model import (
    AttentionKernel,
    PackedModel,
    TokenStates,
    prepack_linears,
    token_states,
)
from robert_pipeline.core.pooling import Pooled, pool
from robert_pipeline.core.token_batch import FromDevice, TokenBatch, on_device
from robert_pipeline.types import EncoderUse

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CPU_BATCH_TOKENS = 2048
"""Enough for full speed of the matrix products, few enough for the activations to stay in a core's cache."""
CUDA_BATCH_TOKENS = 65_536
CUDA_BATCHES = 2
"""Batches under way at once on a GPU: one computes while the next is copied there and the last one's vectors back."""


def fast_precision(device: torch.device) -> Literal["float32", "bfloat16"]:
    """The faster of the two on this machine: bfloat16 on CUDA and on CPUs that multiply it in hardware.

    These have AMX tiles or AVX512-BF16; elsewhere bfloat16 is emulated and slower than float32.
    """
    if device.type == "cuda" or torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported():
        return "bfloat16"
    return "float32"


class _Vectors:
    """One vector a sequence, operation by operation."""

    way = ""

    def __init__(self, hidden: TokenStates, pooling: Pooled, model: "PreTrainedModel") -> None:
        self._hidden, self._pooling, self._model = hidden, pooling, model
        self.computed_tokens = hidden.computed_tokens

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Vectors (B, D), float32, on the model's device."""
        starts = on_device(batch.starts, self._model.device)
        return pool(self._hidden(batch), starts, self._pooling, self._model).float()


class Encoder:
    """A model in inference mode on one device. Chunks in a batch do not see one another.

    Takes the fastest way that gives this model's own vectors: packed without padding where an attention for it is at
    hand and agrees with the plain way on trial sequences, else padded. `way` says which, for people.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        *,
        pooling: Pooled,
        pad_id: int,
        device: torch.device,
        kernel: AttentionKernel | None = None,
        elementwise: Elementwise | None = None,
    ) -> None:
        self._shapes = linear_shapes(model)
        self._model = model.to(device).eval()  # type: ignore[arg-type]  # transformers annotates `to` for its own types
        self.device = device
        self.dimension = int(model.config.hidden_size)
        hidden, self._way = token_states(self._model, pad_id=pad_id, kernel=kernel)
        self.batch_tokens = CUDA_BATCH_TOKENS if device.type == "cuda" else CPU_BATCH_TOKENS
        """Tokens of a batch that the device is fastest with."""
        if isinstance(hidden, PackedModel):
            kinds = _layer_parts(device, elementwise, self.batch_tokens)
            if (parts := fuse_layers(hidden, kinds, only_firsts=pooling != "mean")) is not None:
                self._way += f", {parts.way}"
        self._vectors: _Vectors | GraphedVectors
        if device.type == "cuda" and isinstance(hidden, PackedModel):
            self._vectors = GraphedVectors(hidden, pooling)
        else:
            self._vectors = _Vectors(hidden, pooling, self._model)
        if device.type == "cpu" and prepack_linears(self._model, batch_tokens=self.batch_tokens):
            self._way += ", prepacked weights"
        self.pads = not isinstance(hidden, PackedModel)
        """Whether a batch is computed as a rectangle."""
        self.computed_at_once = 1 if device.type == "cuda" else torch.get_num_threads()
        """Batches that the device works on at the same time."""
        self.concurrency = CUDA_BATCHES if device.type == "cuda" else self.computed_at_once
        """Batches to hand in at the same time, each in one of `threads`."""
        self._threads: ThreadPoolExecutor | None = None
        if device.type == "cpu":
            self._threads = ThreadPoolExecutor(
                self.concurrency, "encode", initializer=self._take_one_core, initargs=(self.computed_at_once,)
            )
        # Two batches that are queued at once on a GPU end at once too, and it has nothing to do until the next one.
        self._queueing = threading.Lock() if device.type == "cuda" else contextlib.nullcontext()
        self._counting = threading.Lock()
        self._use = EncoderUse()
        self._blocks, self._since = 0, 0.0
        if device.type == "cuda":
            _ = self.ceiling_tokens_per_second  # now: later, batches of several units share the device

    @property
    def way(self) -> str:
        """How it computes here, for people."""
        return ", ".join(filter(None, [self._way, self._vectors.way]))

    @contextlib.contextmanager
    def threads(self) -> Iterator[Executor]:
        """Threads to call the encoder in.

        On a CPU they stay, and all callers share them: new ones would be given other arenas of the C library, each of
        which keeps the memory of a batch. On a GPU every caller has its own: of those that embed at once, none waits
        for all batches of another.
        """
        if self._threads is not None:
            yield self._threads
            return
        with ThreadPoolExecutor(self.concurrency, "encode") as threads:
            yield threads

    @staticmethod
    def _take_one_core(at_once: int) -> None:
        # One batch a core beats one batch over all cores: no waiting for one another at every operation.
        torch.get_num_threads()  # a thread's first call takes the number that was last set in any thread
        torch.set_num_threads(1)
        # And so would every thread that starts later, the next encoder's among them.
        others = threading.Thread(target=torch.set_num_threads, args=(at_once,))
        others.start()
        others.join()

    def __call__(self, batch: TokenBatch) -> NDArray[np.float32]:
        """Vectors (B, D), float32, of sequences with their special tokens; each has at least one token.

        Raises torch.OutOfMemoryError, MemoryError or RuntimeError where the batch does not fit in memory.
        """
        with self._queueing, torch.inference_mode():
            coming = FromDevice(self._vectors(batch))
        vectors = coming.wait()
        tokens = len(batch.token_ids)
        with self._counting:
            self._use += EncoderUse(encoded_tokens=tokens, computed_tokens=self._vectors.computed_tokens(batch))
        return vectors

    @contextlib.contextmanager
    def counting(self, clock: Callable[[], float]) -> Iterator[Callable[[], EncoderUse]]:
        """Count what is computed in the block; the function takes what was, and what the machine's ceiling allows.

        `clock` gives seconds. Where blocks overlap, the first to take has what all have computed until then: only the
        sum over them says something.
        """
        with self._counting:
            if not self._blocks:
                self._since = clock()
            self._blocks += 1
        try:
            yield partial(self._take_use, clock)
        finally:
            with self._counting:
                self._blocks -= 1

    def _take_use(self, clock: Callable[[], float]) -> EncoderUse:
        with self._counting:
            now = clock()
            use, seconds = self._use, now - self._since
            self._use, self._since = EncoderUse(), now
        return use + EncoderUse(ceiling_tokens=seconds * self.ceiling_tokens_per_second)

    @cached_property
    def ceiling_tokens_per_second(self) -> float:
        """Tokens a second that the matrix products alone would do here, measured once, in a fraction of a second."""
        return ceiling_tokens_per_second(
            self._shapes,
            device=self.device,
            dtype=getattr(torch, fast_precision(self.device)),
            batch_tokens=self.batch_tokens,
            threads=self.concurrency,
        )


def _layer_parts(device: torch.device, elementwise: Elementwise | None, batch_tokens: int) -> tuple[LayerParts, ...]:
    """What layers may be made of here, the fastest first."""
    if device.type == "cuda":
        return CudaParts(is_compiled=True), CudaParts(is_compiled=False)
    return () if elementwise is None else (CpuParts(elementwise, batch_tokens=batch_tokens),)
