"""Which terms stand in a document, and how often. Tokens enter, sorted counts leave. A term is a token or a pair of
neighbouring tokens, written as one integer.

Axes: B documents, N occurrences of terms, C counts (one a document and term).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]

PAIR_SHIFT = 32
"""A pair (a, b) is (a + 1) << 32 | b; a single token is its id."""


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


def count_terms(token_ids: NDArray[np.integer], tokens_B: Int64, *, pairs: bool) -> TermCounts:
    """Count the terms of documents whose tokens lie one after the other, `tokens_B` of each.

    A pair never spans two documents.
    """
    document_N, term_N = occurrences(token_ids, tokens_B, pairs=pairs)
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
        tokens_B=np.asarray(tokens_B, np.int64),
    )


def occurrences(token_ids: NDArray[np.integer], tokens_B: Int64, *, pairs: bool) -> tuple[Int64, Int64]:
    """(document, term) of every occurrence: all tokens in order, then all pairs in order of their first token."""
    tokens = np.asarray(token_ids, np.int64)
    document = np.repeat(np.arange(len(tokens_B)), tokens_B)
    if not pairs:
        return document, tokens
    left = np.flatnonzero(document[1:] == document[:-1]) if len(tokens) else np.empty(0, np.int64)
    both = ((tokens[left] + 1) << PAIR_SHIFT) | tokens[left + 1]
    return np.concatenate([document, document[left]]), np.concatenate([tokens, both])
