"""Which terms stand in a document, and how often. Tokens enter, sorted counts leave. A term is a token or a pair of
neighbouring tokens, written as one integer.

Axes: B documents, N occurrences of terms, C counts (one a document and term).
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]

TOKENS_AT_ONCE = 1 << 22
PAIR_SHIFT = 32
"""A pair (a, b) is (a + 1) << 32 | b; a single token is its id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentTokens:
    """The tokens of several documents, one after the other, and how many each has."""

    token_ids: NDArray[np.integer]
    tokens_B: Int64

    def __len__(self) -> int:
        return len(self.tokens_B)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkTokens:
    """The tokens of chunks, each without those that an earlier chunk of its document has, and how many of each."""

    token_ids: NDArray[np.integer]
    new_tokens_N: Int64

    def of_documents(self, lengths_B: Int64) -> DocumentTokens:
        """The same tokens by document, of documents with so many chunks."""
        starts_B = np.cumsum(lengths_B) - lengths_B
        tokens_B = np.add.reduceat(self.new_tokens_N, starts_B) if len(lengths_B) else lengths_B
        return DocumentTokens(token_ids=self.token_ids, tokens_B=tokens_B)


@dataclass(frozen=True, kw_only=True, slots=True)
class TermCounts:
    """Terms of several documents, by document, then by term."""

    document_C: Int64
    term_C: Int64
    count_C: Int64
    tokens_B: Int64
    """Tokens of each document."""

    def __len__(self) -> int:
        return len(self.tokens_B)


def count_terms(tokens: DocumentTokens, *, pairs: bool) -> TermCounts:
    """Count the terms of documents. A pair never spans two documents.

    Sorts some documents at a time: beside the counts, memory is that of `TOKENS_AT_ONCE` tokens, or of one document.
    """
    ends_B = np.cumsum(tokens.tokens_B)
    cuts = np.flatnonzero(np.diff(ends_B // TOKENS_AT_ONCE, prepend=0))
    parts: list[TermCounts] = []
    for first, last in pairwise([0, *cuts.tolist(), len(tokens)]):
        ids = tokens.token_ids[ends_B[first - 1] if first else 0 : ends_B[last - 1] if last else 0]
        part = _count_terms(DocumentTokens(token_ids=ids, tokens_B=tokens.tokens_B[first:last]), pairs=pairs)
        parts.append(replace(part, document_C=part.document_C + first))
    return TermCounts(
        document_C=np.concatenate([part.document_C for part in parts]),
        term_C=np.concatenate([part.term_C for part in parts]),
        count_C=np.concatenate([part.count_C for part in parts]),
        tokens_B=np.asarray(tokens.tokens_B, np.int64),
    )


def _count_terms(tokens: DocumentTokens, *, pairs: bool) -> TermCounts:
    document_N, term_N, _ = occurrences(tokens, pairs=pairs)
    order = np.lexsort((term_N, document_N))
    document_N, term_N = document_N[order], term_N[order]
    first = np.flatnonzero(
        np.concatenate([[True], (document_N[1:] != document_N[:-1]) | (term_N[1:] != term_N[:-1])])
        if len(term_N)
        else np.empty(0, bool)
    )
    return TermCounts(
        document_C=document_N[first],
        term_C=term_N[first],
        count_C=np.diff(np.append(first, len(term_N))),
        tokens_B=np.asarray(tokens.tokens_B, np.int64),
    )


def occurrences(tokens: DocumentTokens, *, pairs: bool) -> tuple[Int64, Int64, Int64]:
    """(document, term, place of its first token) of every occurrence: all tokens in order, then all pairs in order."""
    ids = np.asarray(tokens.token_ids, np.int64)
    document = np.repeat(np.arange(len(tokens)), tokens.tokens_B)
    place = np.arange(len(ids))
    if not pairs:
        return document, ids, place
    left = np.flatnonzero(document[1:] == document[:-1]) if len(ids) else np.empty(0, np.int64)
    both = ((ids[left] + 1) << PAIR_SHIFT) | ids[left + 1]
    return np.concatenate([document, document[left]]), np.concatenate([ids, both]), np.concatenate([place, left])
