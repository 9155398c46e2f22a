"""From chunk vectors to labels: a trained head and one batch in, arrays of decisions out. Vectorised over documents.

Axes: N chunks, B documents, D embedding, K labels. A document with NaN or infinity in any chunk is never decided: it
is marked in `finite_B` and its other values mean nothing. Documents do not touch each other.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from robert_pipeline.config import Output
from robert_pipeline.core.evidence import explain
from robert_pipeline.core.model import Calibration, Thresholds, TrainedHead
from robert_pipeline.core.pack import borrow, finite_documents
from robert_pipeline.core.terms import ChunkTokens
from robert_pipeline.errors import ModelError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Decisions of one batch. Everything is in document (or chunk) order."""

    finite_B: Booleans
    logits_BK: Floats
    probabilities_BK: Floats
    """Calibrated; one column a label, also for binary heads."""
    candidate_B: Integers
    """Index of the label the document has, or would have were it not withheld."""
    given_BK: Booleans
    """Labels given: at most one a row unless the head is multi-label."""
    needs_review_B: Booleans
    contributions_N: Floats
    """What each chunk added to the candidate's logit."""
    passage_B: Integers
    """Row in the batch of the chunk that added most."""


@torch.inference_mode()
def score(
    head: TrainedHead, vectors_ND: NDArray[np.floating], lengths_B: Integers, tokens: ChunkTokens | None = None
) -> Scores:
    """Label a batch of documents; `tokens` of the chunks are needed where the head reads words too.

    Source of the evidence: `robert_pipeline.core.evidence`, and for words the linearity of their views.
    """
    vectors = borrow(vectors_ND)
    lengths = torch.from_numpy(lengths_B)
    module = head.module.eval()
    documents_BS, states_NS = module.read(vectors, lengths)
    logits_BK = module.classify(documents_BS).double().numpy()
    words = None
    if head.fusion is not None:
        if tokens is None:
            raise ModelError("this head reads words, but none are given", fix="Give the tokens of the chunks as well")
        words = head.fusion.read(tokens.of_documents(lengths_B))
        logits_BK = words.logits(logits_BK)
    probabilities_BK = label_probabilities(logits_BK, head.calibration, head.config.output)
    candidate_B, given_BK, needs_review_B = decide(probabilities_BK, head.config.output, head.thresholds)
    binary = head.config.output == "binary"
    class_B = np.zeros_like(candidate_B) if binary else candidate_B
    evidence = explain(module, states_NS, documents_BS, lengths, torch.from_numpy(class_B))
    contributions_N: Floats = evidence.contributions_N.numpy()
    if words is not None and tokens is not None:
        contributions_N = words.contributions(contributions_N, class_B, tokens.new_tokens_N)
    if binary:  # what speaks against the positive label speaks for the other
        contributions_N = contributions_N * np.repeat(np.where(candidate_B == 1, 1.0, -1.0), lengths_B)
    finite_B = finite_documents(vectors_ND, lengths_B)
    return Scores(
        finite_B=finite_B,
        logits_BK=logits_BK,
        probabilities_BK=probabilities_BK,
        candidate_B=candidate_B,
        given_BK=given_BK,
        needs_review_B=needs_review_B,
        contributions_N=contributions_N,
        passage_B=strongest(contributions_N, lengths_B),
    )


def label_probabilities(logits_BK: Floats, calibration: Calibration, output: Output) -> Floats:
    """Calibrated probability of every label (B, labels), float64; a binary head's one logit gives two columns."""
    calibrated_BK = calibration.apply(logits_BK)
    if output == "multiclass":
        shifted_BK = np.exp(calibrated_BK - calibrated_BK.max(axis=1, keepdims=True))
        softmax_BK: Floats = shifted_BK / shifted_BK.sum(axis=1, keepdims=True)
        return softmax_BK
    # 1 / (1 + e^-x) without overflow.
    positive_BK: Floats = 0.5 * (1.0 + np.tanh(0.5 * calibrated_BK))
    return np.concatenate([1.0 - positive_BK, positive_BK], axis=1) if output == "binary" else positive_BK


def decide(probabilities_BK: Floats, output: Output, thresholds: Thresholds) -> tuple[Integers, Booleans, Booleans]:
    """Candidate label (B,), labels given (B, labels), and whether a label was withheld for review (B,)."""
    rows = np.arange(len(probabilities_BK))
    decision_K, review_K = np.asarray(thresholds.decision), np.asarray(thresholds.review)
    if output == "multilabel":
        wanted_BK = probabilities_BK >= decision_K
        given_BK = wanted_BK & (probabilities_BK >= review_K)
        withheld_BK: Booleans = wanted_BK & ~given_BK
        return probabilities_BK.argmax(axis=1), given_BK, np.asarray(withheld_BK.any(axis=1))
    if output == "binary":
        candidate_B: Integers = (probabilities_BK[:, 1] >= decision_K[1]).astype(np.int64)
    else:
        candidate_B = (probabilities_BK / decision_K).argmax(axis=1)
    withheld_B: Booleans = probabilities_BK[rows, candidate_B] < review_K[candidate_B]
    given_BK = np.zeros(probabilities_BK.shape, bool)
    given_BK[rows, candidate_B] = ~withheld_B
    return candidate_B, given_BK, withheld_B


def strongest(values_N: Floats, lengths_B: Integers) -> Integers:
    """Row of the largest value of each document, the first where there are several."""
    starts_B = np.cumsum(lengths_B) - lengths_B
    largest_N = np.repeat(np.maximum.reduceat(values_N, starts_B), lengths_B)
    candidates = np.where(values_N == largest_N, np.arange(len(values_N)), len(values_N))
    # NaN equals nothing: such a document is rejected, whatever row is named for it.
    rows_B: Integers = np.minimum(np.minimum.reduceat(candidates, starts_B), starts_B + lengths_B - 1)
    return rows_B
