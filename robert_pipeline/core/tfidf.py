"""The baseline that every evaluation is held against: TF-IDF of words and a linear support vector machine.

Texts and targets in, margins out. Weights of single words and pairs of them (lower-cased, sublinear term frequency,
terms of at least two documents, unit length), LinearSVC with C = 1, one machine a label: the strong setting of the
literature, not a straw man; on the test half of 20 Newsgroups ('bydate') it is right on 86 % of the documents, on that
of IMDb on 91 %. It reads the whole text, and texts and their term matrix are held in memory.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from robert_pipeline.config import ClassWeight
from robert_pipeline.core.examples import TargetValues

DESCRIPTION = "TF-IDF of words and word pairs, linear SVM"


def tfidf_margins(
    learned: Sequence[str],
    targets: TargetValues,
    asked: Sequence[str],
    *,
    logit_count: int,
    class_weight: ClassWeight = "none",
) -> NDArray[np.float64]:
    """Learn from `learned` texts; give the margins of those `asked` (B, K).

    `targets` is the class of each text learned from (B,), or a mask (B, K). `logit_count` is one for two classes whose
    only margin is that of the second, else the number of labels. Where no term stands in two texts, margins are the
    logarithms of how frequent the labels are. Deterministic.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(learned) > 2 else 1, dtype=np.float32
    )
    try:
        terms_BV, asked_BV = vectorizer.fit_transform(learned), vectorizer.transform(asked)
    except ValueError:  # no term is left; scikit-learn has no error of its own for it
        return np.tile(_by_frequency(targets, logit_count), (len(asked), 1))

    def margins(wanted_B: NDArray[np.int64]) -> NDArray[np.float64]:
        if (wanted_B == wanted_B[0]).all():  # a label that all documents have, or none
            return np.full((len(asked), 1), 1.0 if wanted_B[0] else -1.0)
        machine = LinearSVC(class_weight=None if class_weight == "none" else class_weight, random_state=0)
        found = machine.fit(terms_BV, wanted_B).decision_function(asked_BV)
        return np.asarray(found, np.float64).reshape(len(asked), -1)

    if targets.ndim == 1:
        found_BK = margins(targets.astype(np.int64))
        return np.concatenate([-found_BK, found_BK], axis=1) if logit_count == 2 else found_BK
    return np.concatenate([margins(column.astype(np.int64)) for column in targets.T], axis=1)


def _by_frequency(targets: TargetValues, logit_count: int) -> NDArray[np.float64]:
    """Log odds of the labels (K,), for documents of which nothing else is known."""
    count = len(targets)
    with_K = np.bincount(targets, minlength=max(2, logit_count)) if targets.ndim == 1 else targets.sum(axis=0)
    # Half a document with each label and half a one without keep them finite.
    odds_K: NDArray[np.float64] = np.log(with_K + 0.5) - np.log(count - with_K + 0.5)
    return odds_K[1:] if logit_count == 1 else odds_K
