"""Find documents that are related beyond their class: chapters of one book, answers in one thread, reviews of one film.

Where a share of the documents is held out by chance, such relatives lie on both sides, and a model that knows the book
by its names looks as if it knew the author. Documents are relatives when they share many terms that few documents have;
groups are the connected components of that relation. Counts of terms in, a group number a document out.

Axes: B documents, C counts.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robert_pipeline.core.terms import Int64, TermCounts

if TYPE_CHECKING:
    import scipy.sparse

COSINES = (0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8)
"""Similarities from which on documents are relatives, tried from the lowest on."""
LARGEST_GROUP = 0.1
"""Share of all documents that no group may exceed; where one does, the next similarity is tried."""
RARE_DOCUMENTS = 200
RARE_SHARE = 0.05
"""A term says something of kinship where it stands in at most so many documents, and so many of all."""
BLOCK_DOCUMENTS = 1024


def related_groups(counts: TermCounts) -> Int64:
    """Group of each document (B,), numbered from 0. Documents without relatives are groups of one.

    Takes the lowest similarity at which no group holds more than a tenth of all documents. Relatives of which there are
    more than `RARE_SHARE` of the documents, or `RARE_DOCUMENTS`, share no rare term and are not found. Memory is that
    of the rare terms and of the pairs of documents that share them.
    """
    count = len(counts)
    if count < 2:
        return np.arange(count)
    rare = _rare_terms(counts)
    left, right, cosine = _similar(rare, COSINES[0])
    groups = np.arange(count)
    for least in COSINES:
        groups = _components(left[cosine >= least], right[cosine >= least], count)
        if np.bincount(groups).max() <= max(2, LARGEST_GROUP * count):
            return groups
    return groups


def _rare_terms(counts: TermCounts) -> "scipy.sparse.csr_matrix":
    """Unit vectors (B, rare terms) of log counts, weighed by inverse document frequency."""
    import scipy.sparse

    terms, place_C = np.unique(counts.term_C, return_inverse=True)
    documents_F = np.bincount(place_C, minlength=len(terms))
    most = max(3, min(RARE_DOCUMENTS, RARE_SHARE * len(counts)))
    rare_F = (documents_F >= 2) & (documents_F <= most)
    kept_C = rare_F[place_C]
    column_F = np.cumsum(rare_F) - 1
    document_C, place_C = counts.document_C[kept_C], place_C[kept_C]
    values_C = np.log1p(counts.count_C[kept_C]) * np.log(len(counts) / documents_F[place_C])
    norms_B = np.sqrt(np.bincount(document_C, values_C**2, minlength=len(counts)))
    values_C /= np.maximum(norms_B[document_C], 1e-12)
    shape = (len(counts), int(rare_F.sum()))
    return scipy.sparse.csr_matrix((values_C.astype(np.float32), (document_C, column_F[place_C])), shape=shape)


def _similar(rows: "scipy.sparse.csr_matrix", least: float) -> tuple[Int64, Int64, NDArray[np.float32]]:
    """Pairs of documents, each once, whose cosine is at least `least`."""
    columns = rows.T.tocsr()
    found: list[tuple[Int64, Int64, NDArray[np.float32]]] = []
    for first in range(0, rows.shape[0], BLOCK_DOCUMENTS):
        block = (rows[first : first + BLOCK_DOCUMENTS] @ columns).tocoo()
        kept = (block.data >= least) & (block.row + first < block.col)
        found.append((block.row[kept].astype(np.int64) + first, block.col[kept].astype(np.int64), block.data[kept]))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))  # type: ignore[return-value]


def _components(left: Int64, right: Int64, count: int) -> Int64:
    import scipy.sparse
    from scipy.sparse.csgraph import connected_components

    graph = scipy.sparse.coo_matrix((np.ones(len(left), np.int8), (left, right)), shape=(count, count))
    _, groups = connected_components(graph, directed=False)
    numbered: Int64 = groups.astype(np.int64)
    return numbered
