"""What a head over chunk vectors and linear classifiers over words say together: a weighted sum of their logits.

Late fusion, as in Kittler et al. 1998, "On Combining Classifiers". The weights are those under which held-out documents
are most likely, none below zero, so a part that adds nothing gets none, and their size makes the sum a calibrated
logit. A sum of sums over chunks, so every chunk's contribution stays exact. Axes: B documents, N chunks, K logits.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from robert_pipeline.config import Output
from robert_pipeline.core.lexical import VIEWS, LexicalView, Reading, fit_view
from robert_pipeline.core.terms import DocumentTokens, Int64

Floats = NDArray[np.float64]
Targets = Int64 | NDArray[np.bool_]

RIDGE = 1e-2
"""Weight of the penalty on large weights: what one more document that knows nothing would add, about."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Fusion:
    """The words' part of a head, and how much each part counts."""

    views: tuple[LexicalView, ...]
    view_weights: tuple[float, ...]
    head_weight: float
    """Of the logits of the head over chunk vectors."""
    sha256: str
    """Of the views, in safetensors form."""

    def logits(self, head_logits_BK: Floats, tokens: DocumentTokens) -> Floats:
        """Logits of all parts together."""
        return self.read(tokens).logits(head_logits_BK)

    def read(self, tokens: DocumentTokens) -> "FusedReading":
        """What the views make of documents."""
        return FusedReading(fusion=self, readings=tuple(view.read(tokens) for view in self.views))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FusedReading:
    """Documents as all views see them."""

    fusion: Fusion
    readings: tuple[Reading, ...]

    def logits(self, head_logits_BK: Floats) -> Floats:
        """Logits of all parts together."""
        parts = [head_logits_BK, *(reading.logits() for reading in self.readings)]
        return weighted(parts, (self.fusion.head_weight, *self.fusion.view_weights))

    def contributions(self, head_contributions_N: Floats, class_B: Int64, new_tokens_N: Int64) -> Floats:
        """What every chunk adds to the fused logit `class_B`; `new_tokens_N` are the tokens that are a chunk's own."""
        chunk_of = np.repeat(np.arange(len(new_tokens_N)), new_tokens_N)
        sums_N = self.fusion.head_weight * head_contributions_N
        for weight, reading in zip(self.fusion.view_weights, self.readings, strict=True):
            token, added = reading.contributions(class_B)
            sums_N = sums_N + weight * np.bincount(chunk_of[token], added, minlength=len(new_tokens_N))
        return sums_N


def weighted(parts: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """The weighted sum of several models' logits."""
    total: Floats = np.sum([weight * part for weight, part in zip(weights, parts, strict=True)], axis=0)
    return total


def fit_views(tokens: DocumentTokens, targets: Targets, *, logit_count: int) -> tuple[LexicalView, ...]:
    """Every view, trained on these documents."""
    return tuple(fit_view(view, tokens, targets, logit_count=logit_count) for view in VIEWS)


def fit_weights(parts: Sequence[Floats], targets: Targets, output: Output) -> tuple[float, ...]:
    """The weight of each model's logits (B, K) under which the targets of held-out documents are most likely.

    The mean of the parts, each by its spread, where there is no document.
    """
    from scipy.optimize import minimize

    spreads = np.array([max(1e-9, float(part.std())) if part.size else 1.0 for part in parts])
    scaled = np.stack([part / spread for part, spread in zip(parts, spreads, strict=True)])
    even = np.full(len(parts), 1.0 / len(parts))
    if scaled.shape[1] == 0:
        return tuple((even / spreads).tolist())
    truth_BK = _truth(targets, output, scaled.shape[2])

    def objective(weights: Floats) -> tuple[float, Floats]:
        logits_BK = np.tensordot(weights, scaled, 1)
        loss, error_BK = _loss(logits_BK, truth_BK, output)
        gradient = np.tensordot(scaled, error_BK, ([1, 2], [0, 1]))
        penalty = RIDGE / len(logits_BK)
        return loss + penalty * float(weights @ weights) / 2, gradient + penalty * weights

    found = minimize(objective, even, jac=True, bounds=[(0, None)] * len(parts), method="L-BFGS-B").x
    if not found.any():
        found = even  # all parts are worse than knowing nothing: what they say still has an order
    return tuple((found / spreads).tolist())


def _truth(targets: Targets, output: Output, logit_count: int) -> NDArray[np.bool_]:
    """Which logits (B, K) should be high."""
    if targets.ndim == 2:
        return targets.astype(bool)
    wanted = np.array([1]) if output == "binary" else np.arange(logit_count)
    mask: NDArray[np.bool_] = targets[:, None] == wanted
    return mask


def _loss(logits_BK: Floats, truth_BK: NDArray[np.bool_], output: Output) -> tuple[float, Floats]:
    """Mean negative log-likelihood (nats a document) and its gradient by logit."""
    count = len(logits_BK)
    if output == "multiclass":
        top_B1 = logits_BK.max(axis=1, keepdims=True)
        exp_BK = np.exp(logits_BK - top_B1)
        sum_B1 = exp_BK.sum(axis=1, keepdims=True)
        loss = float((np.log(sum_B1) + top_B1).sum() - logits_BK[truth_BK].sum()) / count
        return loss, (exp_BK / sum_B1 - truth_BK) / count
    loss = float((np.logaddexp(0, logits_BK) - logits_BK * truth_BK).sum()) / count
    return loss, (0.5 * (1 + np.tanh(0.5 * logits_BK)) - truth_BK) / count


def make_fusion(views: Sequence[LexicalView], weights: Sequence[float]) -> Fusion:
    """A fusion of a head (the first weight) and views (the others)."""
    head_weight, *view_weights = weights
    return Fusion(
        views=tuple(views),
        view_weights=tuple(view_weights),
        head_weight=head_weight,
        sha256=hashlib.sha256(view_bytes(views)).hexdigest(),
    )


_ARRAYS = ("terms_F", "scale_F", "weights_KF", "bias_K")


def view_bytes(views: Sequence[LexicalView]) -> bytes:
    """The views in safetensors form; the same bytes for the same views."""
    return safetensors.numpy.save(
        {f"{view.view}.{name}": np.ascontiguousarray(getattr(view, name)) for view in views for name in _ARRAYS}
    )


def views_from(raw: bytes) -> tuple[LexicalView, ...]:
    """The views in safetensors form. Raises ValueError or KeyError where one is incomplete."""
    arrays = safetensors.numpy.load(raw)
    found = tuple(
        LexicalView(view=view, **{name: arrays.pop(f"{view}.{name}") for name in _ARRAYS})
        for view in VIEWS
        if f"{view}.terms_F" in arrays
    )
    for view in found:
        width, count = len(view.terms_F), len(view.bias_K)
        if view.scale_F.shape != (width,) or view.weights_KF.shape != (count, width):
            raise ValueError(f"the arrays of view '{view.view}' do not fit together")
        if not (np.diff(view.terms_F) > 0).all():
            raise ValueError(f"the terms of view '{view.view}' are not in order")
        if not (np.isfinite(view.weights_KF).all() and np.isfinite(view.bias_K).all()):
            raise ValueError(f"a weight of view '{view.view}' is not finite")
    if arrays:
        raise ValueError(f"'{next(iter(arrays))}' is none of a view's arrays")
    return found
