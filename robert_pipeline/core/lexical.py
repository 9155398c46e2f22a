"""Linear classifiers over the words of a document: what a label owes to terms alone.

Two views of the same tokens, each with a linear support vector machine. `topic`: tokens and pairs of neighbours,
(1 + log count) · idf, as in Joachims 1998, "Text Categorization with Support Vector Machines"; good where words name
the class. `style`: square roots of the frequencies of common tokens, each by its spread, as in Burrows 2002, "Delta";
good where a class shows in how often common words are used. Both are scaled to unit length.

A document's logit is a sum over its terms, so every occurrence of a term has a share in it.
Axes: B documents, F features, K labels, C counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from robert_pipeline.core.terms import Int64, TermCounts

if TYPE_CHECKING:
    import scipy.sparse

View = Literal["topic", "style"]
VIEWS: tuple[View, ...] = ("topic", "style")

Floats = NDArray[np.float32]

MIN_DOCUMENTS = 2
"""Documents a term must stand in to be a feature."""
COMMON_SHARE = 0.1
"""Share of the documents that the tokens of `style` stand in."""
MAX_WEIGHTS = 1 << 25
"""Features times labels of one view; the most common terms are kept."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LexicalView:
    """One trained view."""

    view: View
    terms_F: Int64
    """Sorted."""
    scale_F: Floats
    weights_KF: Floats
    """One row for binary heads, else one a label."""
    bias_K: Floats

    @property
    def pairs(self) -> bool:
        """Whether pairs of tokens are among the terms."""
        return self.view == "topic"

    def features(self, counts: TermCounts) -> "scipy.sparse.csr_matrix":
        """Unit vectors (B, F), sparse; terms that are no feature are left out."""
        return _features(self.view, self.terms_F, self.scale_F, counts)

    def logits(self, counts: TermCounts) -> NDArray[np.float64]:
        """Decision values (B, K)."""
        logits_BK: NDArray[np.float64] = self.features(counts) @ self.weights_KF.T.astype(np.float64) + self.bias_K
        return logits_BK


def _features(view: View, terms_F: Int64, scale_F: Floats, counts: TermCounts) -> "scipy.sparse.csr_matrix":
    import scipy.sparse

    place_C = np.searchsorted(terms_F, counts.term_C)
    place_C[place_C == len(terms_F)] = 0
    known_C = terms_F[place_C] == counts.term_C if len(terms_F) else np.zeros(len(place_C), bool)
    document_C, place_C = counts.document_C[known_C], place_C[known_C]
    values_C = counts.count_C[known_C].astype(np.float64)
    if view == "topic":
        values_C = 1 + np.log(values_C)
    else:
        values_C = np.sqrt(values_C / np.maximum(counts.tokens_B[document_C], 1))
    values_C *= scale_F[place_C]
    norms_B = np.sqrt(np.bincount(document_C, values_C**2, minlength=len(counts)))
    values_C /= np.maximum(norms_B[document_C], 1e-12)
    starts = np.concatenate([[0], np.cumsum(np.bincount(document_C, minlength=len(counts)))])
    return scipy.sparse.csr_matrix((values_C, place_C, starts), shape=(len(counts), len(terms_F)))


def fit_view(
    view: View, counts: TermCounts, targets: Int64 | NDArray[np.bool_], *, label_count: int, strength: float = 1.0
) -> LexicalView:
    """Train on documents with the class of each (B,), or a mask (B, K).

    `strength` is the inverse of the regularisation (C of the support vector machine). Binary targets give one logit, of
    class 1.
    """
    terms_F, scale_F = _vocabulary(view, counts, 1 if label_count == 2 and targets.ndim == 1 else label_count)
    features = _features(view, terms_F, scale_F, counts)
    weights, bias = _machines(features, targets, label_count, strength)
    return LexicalView(view=view, terms_F=terms_F, scale_F=scale_F, weights_KF=weights, bias_K=bias)


def _vocabulary(view: View, counts: TermCounts, logit_count: int) -> tuple[Int64, Floats]:
    """Terms and their scale: inverse document frequency, or one by the spread of the frequency's root."""
    terms, place_C = np.unique(counts.term_C, return_inverse=True)
    documents_F = np.bincount(place_C, minlength=len(terms))
    least = MIN_DOCUMENTS if view == "topic" else max(MIN_DOCUMENTS, COMMON_SHARE * len(counts))
    kept = np.flatnonzero(documents_F >= least)
    most = MAX_WEIGHTS // max(1, logit_count)
    if len(kept) > most:
        kept = np.sort(kept[np.argsort(-documents_F[kept], kind="stable")[:most]])
    if view == "topic":
        scale = 1 + np.log((1 + len(counts)) / (1 + documents_F[kept]))
    else:
        roots_C = np.sqrt(counts.count_C / np.maximum(counts.tokens_B[counts.document_C], 1))
        mean = np.bincount(place_C, roots_C, minlength=len(terms))[kept] / len(counts)
        square = np.bincount(place_C, roots_C**2, minlength=len(terms))[kept] / len(counts)
        scale = 1 / np.sqrt(np.maximum(square - mean**2, 1e-12))
    return terms[kept], scale.astype(np.float32)


def _machines(
    features: "scipy.sparse.csr_matrix", targets: Int64 | NDArray[np.bool_], label_count: int, strength: float
) -> tuple[Floats, Floats]:
    from sklearn.svm import LinearSVC

    def machine(wanted: NDArray[np.integer] | NDArray[np.bool_]) -> tuple[Floats, Floats]:
        fitted = LinearSVC(C=strength, random_state=0).fit(features, wanted)
        return fitted.coef_.astype(np.float32), np.asarray(fitted.intercept_, np.float32)

    if targets.ndim == 1:
        weights, bias = machine(targets)
        present = np.unique(targets)
        if len(present) == label_count or label_count == 2:
            return weights, bias
        # A label without a document is never the one.
        all_weights = np.zeros((label_count, features.shape[1]), np.float32)
        all_bias = np.full(label_count, -1.0, np.float32)
        all_weights[present], all_bias[present] = (weights, bias) if len(present) > 2 else _both_sides(weights, bias)
        return all_weights, all_bias
    parts = [
        machine(targets[:, k])
        if 0 < targets[:, k].sum() < len(targets)
        else _constant(features.shape[1], targets[:, k])
        for k in range(label_count)
    ]
    return np.concatenate([w for w, _ in parts]), np.concatenate([b for _, b in parts])


def _both_sides(weights: Floats, bias: Floats) -> tuple[Floats, Floats]:
    return np.concatenate([-weights, weights]), np.concatenate([-bias, bias])


def _constant(width: int, wanted: NDArray[np.generic]) -> tuple[Floats, Floats]:
    return np.zeros((1, width), np.float32), np.array([1.0 if wanted.any() else -1.0], np.float32)


def view_logits(views: Sequence[LexicalView], counts: TermCounts) -> list[NDArray[np.float64]]:
    """Decision values of every view."""
    return [view.logits(counts) for view in views]
