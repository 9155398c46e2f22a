"""Who learns and who judges: by a hash of the text, so that two copies of a text are never on both sides.

Text keys and labels in, masks over documents out. The same texts are split alike in every corpus, order and run.
Axes: B documents, K labels.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
Floats = NDArray[np.float64]


def text_keys(hashes: Sequence[str]) -> Integers:
    """The first 60 bits of hexadecimal SHA-256 digests."""
    return np.fromiter((int(text_hash[:15], 16) for text_hash in hashes), np.int64, len(hashes))


def text_fractions(text_key_B: Integers, salt: str) -> Floats:
    """A number in [0, 1) for every text key, spread evenly, another for every salt (SplitMix64, Steele et al. 2014)."""
    seed = np.uint64(int.from_bytes(hashlib.sha256(salt.encode()).digest()[:8], "big"))
    with np.errstate(over="ignore"):
        z = (text_key_B.astype(np.uint64) ^ seed) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def group_fractions(text_key_B: Integers, groups_B: Integers, salt: str) -> Floats:
    """The same, one number for all documents of a group: that of its smallest key. Equal texts stay together."""
    smallest = np.full(int(groups_B.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(smallest, groups_B, text_key_B)
    return text_fractions(smallest[groups_B], salt)


def hold_out(
    fraction_B: Floats,
    truth_BK: Booleans,
    share: float,
    *,
    keep: int,
    known_B: Booleans | None = None,
    most_unknown: float = 1.0,
) -> Booleans:
    """Which documents are held out: those whose text's fraction is below `share`.

    Documents `known_B`, which something has learned from already, are not; of the others as many more are as make up
    for it, up to the share `most_unknown` of them. A label that would be left with fewer than `keep` documents keeps as
    many of its texts as it takes, those with the highest fractions.
    """
    held_B = fraction_B < share
    if known_B is not None and known_B.any():
        others = len(known_B) - int(known_B.sum())
        held_B = ~known_B & (fraction_B < min(most_unknown, share * len(known_B) / max(1, others)))
    left_K = (truth_BK & ~held_B[:, None]).sum(axis=0)
    for k in np.flatnonzero(left_K < keep):
        has_B = truth_BK[:, k]
        for fraction in np.unique(fraction_B[has_B & held_B])[::-1]:
            if int((has_B & ~held_B).sum()) >= keep:
                break
            held_B[fraction_B == fraction] = False
    return held_B
