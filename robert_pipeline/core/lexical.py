"""Linear classifiers over the words of a document: what a label owes to terms alone.

Two views of the same tokens, each with a linear support vector machine. `topic`: tokens and pairs of neighbours,
(1 + log count) · idf, as in Joachims 1998, "Text Categorization with Support Vector Machines"; good where words name
the class. `style`: square roots of the frequencies of common tokens, each by its spread, as in Burrows 2002, "Delta";
good where a class shows in how often common words are used. Both are scaled to unit length.

A document's logit is a sum over its terms, so every occurrence of a term has a share in it.
Axes: B documents, F features, K labels, C counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from robert_pipeline.core.terms import DocumentTokens, Int64, TermCounts, count_terms, occurrences

if TYPE_CHECKING:
    import scipy.sparse

View = Literal["topic", "style"]
VIEWS: tuple[View, ...] = ("topic", "style")

Floats = NDArray[np.float32]

MIN_DOCUMENTS = 2
"""Documents a term must stand in to be a feature."""
COMMON_SHARE = 0.3
"""Share of the documents that the tokens of `style` stand in."""
STRENGTH: Mapping[View, float] = {"topic": 3.0, "style": 30.0}
"""Inverse of the regularisation (C of the support vector machine). A `topic` of 1 is as good for thousands of
documents, and worse for hundreds. All vectors of `style` point nearly the same way: what tells them apart is small, and
takes large weights."""
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

    def read(self, tokens: DocumentTokens) -> "Reading":
        """What the view makes of documents. Terms that are no feature say nothing."""
        document_N, term_N, token_N = occurrences(tokens, pairs=self.pairs)
        feature_N, known_N = _features_of(self.terms_F, term_N)
        document_N, token_N = document_N[known_N], token_N[known_N]
        width = max(1, len(self.terms_F))
        keys_C, count_of_N, count_C = np.unique(document_N * width + feature_N, return_inverse=True, return_counts=True)
        values_C = _values(self.view, self.scale_F, keys_C // width, keys_C % width, count_C, tokens.tokens_B)
        return Reading(
            view=self,
            document_count=len(tokens),
            document_N=document_N,
            feature_N=feature_N,
            token_N=token_N,
            value_N=(values_C / count_C)[count_of_N],
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reading:
    """Documents as a view sees them: every occurrence of a feature with its share of the feature's value."""

    view: LexicalView
    document_count: int
    document_N: Int64
    feature_N: Int64
    token_N: Int64
    """Place of the occurrence among the tokens."""
    value_N: NDArray[np.float64]

    def logits(self) -> NDArray[np.float64]:
        """Decision values (B, K)."""
        import scipy.sparse

        # Shares of one feature add up in the product.
        starts = np.concatenate([[0], np.cumsum(np.bincount(self.document_N, minlength=self.document_count))])
        order = np.argsort(self.document_N, kind="stable")
        features_BF = scipy.sparse.csr_matrix(
            (self.value_N[order], self.feature_N[order], starts),
            shape=(self.document_count, len(self.view.terms_F)),
        )
        logits_BK: NDArray[np.float64] = features_BF @ self.view.weights_KF.T.astype(np.float64) + self.view.bias_K
        return logits_BK

    def contributions(self, class_B: Int64) -> tuple[Int64, NDArray[np.float64]]:
        """(place of the token, what it adds) of every occurrence; of a document, its logit `class_B` less the bias."""
        return self.token_N, self.value_N * self.view.weights_KF[class_B[self.document_N], self.feature_N]


def _features_of(terms_F: Int64, terms: Int64) -> tuple[Int64, NDArray[np.bool_]]:
    """Features of those terms that are one, and which are."""
    if not len(terms_F):
        return np.empty(0, np.int64), np.zeros(len(terms), bool)
    feature = np.minimum(np.searchsorted(terms_F, terms), len(terms_F) - 1)
    known: NDArray[np.bool_] = terms_F[feature] == terms
    return feature[known], known


def _values(
    view: View, scale_F: Floats, document_C: Int64, feature_C: Int64, count_C: Int64, tokens_B: Int64
) -> NDArray[np.float64]:
    """Values of the counted features of documents, scaled to unit length by document."""
    raw_C = 1 + np.log(count_C) if view == "topic" else np.sqrt(count_C / np.maximum(tokens_B[document_C], 1))
    values_C = raw_C * scale_F[feature_C]
    norms_B = np.sqrt(np.bincount(document_C, values_C**2, minlength=len(tokens_B)))
    scaled_C: NDArray[np.float64] = values_C / np.maximum(norms_B[document_C], 1e-12)
    return scaled_C


def _features(view: View, terms_F: Int64, scale_F: Floats, counts: TermCounts) -> "scipy.sparse.csr_matrix":
    import scipy.sparse

    feature_C, known_C = _features_of(terms_F, counts.term_C)
    document_C = counts.document_C[known_C]
    values_C = _values(view, scale_F, document_C, feature_C, counts.count_C[known_C], counts.tokens_B)
    starts = np.concatenate([[0], np.cumsum(np.bincount(document_C, minlength=len(counts)))])
    return scipy.sparse.csr_matrix((values_C, feature_C, starts), shape=(len(counts), len(terms_F)))


def fit_view(
    view: View, tokens: DocumentTokens, targets: Int64 | NDArray[np.bool_], *, logit_count: int
) -> LexicalView:
    """Train on documents with the class of each (B,), or a mask (B, K).

    `logit_count` is one for binary targets whose only logit is that of class 1, else the number of labels. Where no
    term stands in enough documents, the view says nothing: its logits are zero.
    """
    counts = count_terms(tokens, pairs=view == "topic")
    terms_F, scale_F = _vocabulary(view, counts, logit_count)
    if not len(terms_F):
        nothing = np.zeros((logit_count, 0), np.float32)
        return LexicalView(
            view=view, terms_F=terms_F, scale_F=scale_F, weights_KF=nothing, bias_K=np.zeros(logit_count, np.float32)
        )
    features = _features(view, terms_F, scale_F, counts)
    label_count = max(2, logit_count) if targets.ndim == 1 else logit_count
    weights, bias = _machines(features, targets, label_count, STRENGTH[view])
    if targets.ndim == 1 and logit_count == 2:
        weights, bias = _both_sides(weights, bias)
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
