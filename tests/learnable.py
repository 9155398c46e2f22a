"""Documents of chunk vectors with something to learn in them."""

import numpy as np

from robert_pipeline.core.examples import Examples, InMemoryVectors
from robert_pipeline.core.targets import LabelledVectors

DIMENSION = 8


def learnable(count, *, classes=3, seed=0, noise=1.0, longest=6, shares=None):
    """(vectors, classes): each document's class shows in one chunk at a random place, the others are noise."""
    rng = np.random.default_rng(seed)
    markers = np.random.default_rng(99).normal(0, 2.5, (classes, DIMENSION))
    lengths = rng.integers(1, longest + 1, count)
    classes_B = rng.choice(classes, count, p=shares)
    vectors_ND = rng.normal(0, noise, (lengths.sum(), DIMENSION)).astype(np.float32)
    firsts = np.cumsum(lengths) - lengths
    vectors_ND[firsts + rng.integers(0, lengths)] += markers[classes_B].astype(np.float32)
    return InMemoryVectors(vectors_ND=vectors_ND, lengths_B=lengths), classes_B.astype(np.int64)


def in_order(count, *, seed=0):
    """Two classes told apart by the order of two marked chunks alone."""
    rng = np.random.default_rng(seed)
    classes_B = rng.integers(0, 2, count)
    vectors_BLD = rng.normal(0, 0.3, (count, 4, DIMENSION)).astype(np.float32)
    early, late = rng.integers(0, 2, count), rng.integers(2, 4, count)
    rows = np.arange(count)
    vectors_BLD[rows, np.where(classes_B == 0, early, late), 0] += 2
    vectors_BLD[rows, np.where(classes_B == 0, late, early), 1] += 2
    vectors = InMemoryVectors(vectors_ND=vectors_BLD.reshape(-1, DIMENSION), lengths_B=np.full(count, 4))
    return vectors, classes_B.astype(np.int64)


def examples(vectors, targets, documents=None):
    """All documents, or some, to learn from."""
    documents = np.arange(len(vectors.lengths_B)) if documents is None else np.asarray(documents, np.int64)
    return Examples(vectors=vectors, documents=documents, targets=targets[documents])


def labelled(vectors, classes_B, names=("a", "b", "c"), keys=None):
    """The same with label names and text keys, each text another one."""
    keys = np.random.default_rng(1).integers(0, 2**60, len(classes_B)) if keys is None else np.asarray(keys)
    return LabelledVectors(vectors=vectors, label_names=tuple(names), label_B=classes_B, text_key_B=keys)
