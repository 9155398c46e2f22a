"""Work on packed batches as CUDA graphs: all kernels of a batch are started by one call, where Python would need
hundreds, each of them waiting for the other threads of the process.

A graph computes one shape. Batches are filled up to one of few: tokens in steps (below the first to a power of two),
sequences to a power of two.

Axes: N tokens, B sequences, D hidden.
"""

import gc
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robert_pipeline.core.packed_model import MIN_COSINE, PackedModel
from robert_pipeline.core.pooling import Pooled, pool
from robert_pipeline.core.token_batch import TokenBatch, pinned

log = logging.getLogger(__name__)

Made = TypeVar("Made")

TOKENS_STEP = 8192
LEAST_TOKENS = 256
LEAST_SEQUENCES = 128
LONGEST_STEP = 128
CAPTURED_AT = 2
"""Capturing a shape takes as long as some batches: not for one that is met once."""


class Shape(NamedTuple):
    """What a graph computes: so many tokens in so many sequences, each of at most so many tokens."""

    tokens: int
    sequences: int
    longest: int


def shape_of(batch: TokenBatch, *, tokens_step: int = TOKENS_STEP) -> Shape:
    """The least shape that holds the batch and what fills it up."""
    own, longest = len(batch.token_ids), int(batch.lengths_B.max())
    tokens = -(-own // tokens_step) * tokens_step
    if own < tokens_step:
        tokens = max(LEAST_TOKENS, 1 << (own - 1).bit_length())
    sequences = max(LEAST_SEQUENCES, len(batch) + -(-(tokens - own) // longest))
    longest = -(-longest // LONGEST_STEP) * LONGEST_STEP
    return Shape(tokens=tokens, sequences=1 << (sequences - 1).bit_length(), longest=longest)


def filled(batch: TokenBatch, shape: Shape) -> NDArray[np.int32]:
    """Token ids (N,), then starts (B + 1,), of the batch filled up to the shape."""
    whole = batch.filled(shape.tokens, filler_tokens=shape.longest, sequences=shape.sequences)
    return np.concatenate([whole.token_ids, whole.starts], dtype=np.int32, casting="same_kind")


def filled_vectors(packed: PackedModel, pooling: Pooled, values: Tensor, shape: Shape) -> Tensor:
    """Vectors (B, D), float32, of a filled batch that is on the device."""
    ids_N, starts = values[: shape.tokens], values[shape.tokens :]
    place_N = torch.arange(shape.tokens, dtype=torch.int32, device=values.device)
    sequence_N = torch.searchsorted(starts, place_N, right=True) - 1
    hidden_ND = packed.states(ids_N, place_N - starts[sequence_N], starts, shape.longest)
    return pool(hidden_ND, starts, pooling, packed.model).float()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Captured(Generic[Made]):
    graph: torch.cuda.CUDAGraph
    inputs: Sequence[Tensor]
    """What it reads, on the device."""
    made: Made
    """What it writes, until the next graph does."""


class Graphs(Generic[Made]):
    """One function of tensors of few shapes, by graphs where that is possible and worth it.

    Not for two threads at once. All graphs compute in the same memory, so that what one has made has to be used or
    copied, in the same stream, before the next call.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Tensor], Shape], Made],
        device: torch.device,
        *,
        agree: Callable[[Made, Made], bool],
    ) -> None:
        self._compute, self._device, self._agree = compute, device, agree
        self._captured: dict[Shape, _Captured[Made]] = {}
        self._seen = Counter[Shape]()
        self._memory = torch.cuda.graph_pool_handle()
        self._side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.is_possible = True
        """Until a capture fails."""

    def __call__(self, inputs: Sequence[Tensor], shape: Shape) -> Made:
        """What is made of pinned `inputs`, whose sizes `shape` alone decides."""
        try:
            return self._made(inputs, shape)
        except torch.OutOfMemoryError:
            if not self._captured:
                raise
        # Behind the error, whose traceback holds tensors. Graphs hold memory that no other computation can have.
        self._forget()
        torch.cuda.empty_cache()
        return self._without_graph(inputs, shape)

    def _made(self, inputs: Sequence[Tensor], shape: Shape) -> Made:
        self._seen[shape] += 1
        captured = self._captured.get(shape)
        if captured is None and self.is_possible and self._seen[shape] >= CAPTURED_AT:
            captured = self._capture(inputs, shape)
        if captured is None:
            return self._without_graph(inputs, shape)
        for values, own in zip(inputs, captured.inputs, strict=True):
            own.copy_(values, non_blocking=True)
        captured.graph.replay()
        return captured.made

    def _without_graph(self, inputs: Sequence[Tensor], shape: Shape) -> Made:
        return self._compute([values.to(self._device, non_blocking=True) for values in inputs], shape)

    def _capture(self, inputs: Sequence[Tensor], shape: Shape) -> _Captured[Made] | None:
        """None, and no further try, where that is impossible or makes something else."""
        on_device = [values.to(self._device) for values in inputs]
        own = torch.cuda.current_stream()
        self._side.wait_stream(own)
        try:
            with torch.cuda.stream(self._side):  # what libraries allocate at a stream's first call is no graph's
                plain = self._compute(on_device, shape)
        finally:
            own.wait_stream(self._side)  # before anyone has the memory of `on_device`
        graph = torch.cuda.CUDAGraph()
        try:
            with self._capturing(graph, pool=self._memory):
                made = self._compute(on_device, shape)
        except RuntimeError as error:  # no memory for them, or a model that waits for its own values
            self._end_what_failed()
            self._give_up(str(error))
            return None
        graph.replay()
        if not self._agree(plain, made):
            self._give_up("they make something else")
            return None
        self._captured[shape] = captured = _Captured(graph=graph, inputs=on_device, made=made)
        return captured

    @contextmanager
    def _capturing(self, graph: torch.cuda.CUDAGraph, *, pool: Any = None) -> Iterator[None]:
        own, collects = torch.cuda.current_stream(), gc.isenabled()
        gc.disable()  # a graph that were collected in between would end the capture
        try:
            # Other threads wait for events and copy meanwhile, which only their own captures forbid them. The stream
            # is one of these graphs alone: torch forgets what libraries hold for it when one of them goes.
            with torch.cuda.graph(graph, pool=pool, stream=self._side, capture_error_mode="thread_local"):
                yield
        finally:
            torch.cuda.set_stream(own)  # a capture that fails leaves its own one
            if collects:
                gc.enable()

    def _end_what_failed(self) -> None:
        # Until torch 2.13 random numbers stay in a capture that failed, and end in one that succeeds.
        with suppress(RuntimeError), self._capturing(torch.cuda.CUDAGraph()):
            torch.zeros(1, device=self._device)

    def _give_up(self, reason: str) -> None:
        log.warning("no CUDA graphs: %s", reason)
        self._forget()
        self.is_possible = False

    def _forget(self) -> None:
        self._captured.clear()
        self._memory = torch.cuda.graph_pool_handle()  # one whose graphs are all gone takes no other


class GraphedVectors:
    """Vectors of packed batches on a CUDA device; see `Graphs`."""

    def __init__(self, packed: PackedModel, pooling: Pooled) -> None:
        self._packed, self._pooling = packed, pooling
        self.graphs = Graphs(self._vectors, packed.model.device, agree=_point_the_same_way)

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Vectors (B, D), float32, on the device; to be copied from there before the next call."""
        shape = shape_of(batch)
        return self.graphs([pinned(filled(batch, shape))], shape)[: len(batch)]

    @property
    def way(self) -> str:
        """How they are computed, for people; empty where no graph can be."""
        return "CUDA graphs" if self.graphs.is_possible else ""

    def computed_tokens(self, batch: TokenBatch) -> int:
        """The batch's, and those that fill it up."""
        return shape_of(batch).tokens

    def _vectors(self, inputs: Sequence[Tensor], shape: Shape) -> Tensor:
        return filled_vectors(self._packed, self._pooling, inputs[0], shape)


def _point_the_same_way(a_BD: Tensor, b_BD: Tensor) -> bool:
    is_like_B = torch.cosine_similarity(a_BD, b_BD, dim=1) >= MIN_COSINE
    is_none_B = (a_BD.abs().sum(1) == 0) | ~a_BD.isfinite().all(1) & ~b_BD.isfinite().all(1)
    return bool((is_like_B | is_none_B).all())
