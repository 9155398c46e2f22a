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
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.svm import LinearSVC

    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(learned) > 2 else 1, dtype=np.float32
    )
    terms_BV = vectorizer.fit_transform(learned)
    machine = LinearSVC(class_weight=None if class_weight == "none" else class_weight, random_state=0)
    classifier = OneVsRestClassifier(machine) if targets.ndim == 2 else machine
    classifier.fit(terms_BV, targets.astype(np.int64))
    margins = np.asarray(classifier.decision_function(vectorizer.transform(asked)), np.float64)
    return margins.reshape(len(asked), -1)
