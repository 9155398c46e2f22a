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
    learned: Sequence[str], targets: TargetValues, asked: Sequence[str], *, class_weight: ClassWeight = "none"
) -> NDArray[np.float64]:
    """Learn from `learned` texts; give the margins of those `asked` (B, K), or of the second of two classes (B, 1).

    `targets` is the class of each text learned from (B,), or a mask (B, K). Deterministic.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(learned) > 2 else 1, dtype=np.float32
    )
    terms_BV, asked_BV = vectorizer.fit_transform(learned), vectorizer.transform(asked)

    def margins(wanted_B: NDArray[np.int64]) -> NDArray[np.float64]:
        if (wanted_B == wanted_B[0]).all():  # a label that all documents have, or none
            return np.full((len(asked), 1), 1.0 if wanted_B[0] else -1.0)
        machine = LinearSVC(class_weight=None if class_weight == "none" else class_weight, random_state=0)
        found = machine.fit(terms_BV, wanted_B).decision_function(asked_BV)
        return np.asarray(found, np.float64).reshape(len(asked), -1)

    if targets.ndim == 1:
        return margins(targets.astype(np.int64))
    return np.concatenate([margins(column.astype(np.int64)) for column in targets.T], axis=1)
