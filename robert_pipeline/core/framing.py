"""Chunks of tokenised documents as a batch for the model: their tokens between the special tokens, in one gather.

Axes: N chunks of the batch.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robert_pipeline.core.token_batch import TokenBatch

Int64 = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """The special tokens around a sequence: [CLS] and [SEP] for BERT."""

    prefix_ids: NDArray[np.int32]
    suffix_ids: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.prefix_ids) + len(self.suffix_ids)

    def batch(self, token_ids: NDArray[np.int32], first_N: Int64, count_N: Int64) -> TokenBatch:
        """Sequences of token_ids[first : first + count], framed. `token_ids` may lie on disk, memory-mapped."""
        starts = np.concatenate([[0], np.cumsum(count_N + len(self))])
        within = np.arange(count_N.sum()) - np.repeat(np.cumsum(count_N) - count_N, count_N)
        ids = np.empty(starts[-1], np.int64)
        ids[np.repeat(starts[:-1] + len(self.prefix_ids), count_N) + within] = token_ids[
            np.repeat(first_N, count_N) + within
        ]
        ids[starts[:-1, None] + np.arange(len(self.prefix_ids))] = self.prefix_ids
        ids[starts[1:, None] - len(self.suffix_ids) + np.arange(len(self.suffix_ids))] = self.suffix_ids
        return TokenBatch(token_ids=ids, starts=starts)
