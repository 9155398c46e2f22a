"""Cut token sequences into overlapping windows.

Token counts enter; the position of every chunk leaves. Never sees a text.
Axes: B documents, N chunks of all documents, one after the other.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robert_pipeline.config import Chunking

Int64 = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkSpans:
    """Where each chunk lies: int64 arrays, chunks in text order, documents in the order given."""

    document_N: Int64
    index_N: Int64
    start_N: Int64
    count_N: Int64
    lengths_B: Int64
    """Chunks of each document; 0 for a document without tokens."""

    def __len__(self) -> int:
        return len(self.start_N)


def cut(token_counts_B: Int64, chunking: Chunking) -> ChunkSpans:
    """Windows of `chunk_tokens` every `chunk_tokens - overlap_tokens` tokens until the last token is covered.

    The last window of a document is shorter where the text ends. Follows Pappagari et al. 2019, section 3.
    """
    step = chunking.chunk_tokens - chunking.overlap_tokens
    beyond_first_B = np.maximum(token_counts_B - chunking.chunk_tokens, 0)
    lengths_B = np.where(token_counts_B > 0, 1 + -(-beyond_first_B // step), 0)
    if chunking.max_chunks is not None:
        lengths_B = np.minimum(lengths_B, chunking.max_chunks)
    document_N = np.repeat(np.arange(len(token_counts_B), dtype=np.int64), lengths_B)
    first_chunk_B = np.cumsum(lengths_B) - lengths_B
    index_N = np.arange(len(document_N), dtype=np.int64) - first_chunk_B[document_N]
    start_N = index_N * step
    count_N = np.minimum(token_counts_B[document_N] - start_N, chunking.chunk_tokens)
    return ChunkSpans(document_N=document_N, index_N=index_N, start_N=start_N, count_N=count_N, lengths_B=lengths_B)
