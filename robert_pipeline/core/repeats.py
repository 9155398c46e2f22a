"""Which texts occur more than once: hashes with their place enter, the first place of each repeated one leaves.

Knows nothing of files. Axes: P places, in no order.
"""

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def first_places_of_repeats(hash_P: NDArray[np.uint64], unit_P: Integers, row_P: Integers) -> tuple[Integers, Integers]:
    """(unit, row) of the first place, by unit and then row, of every hash that has two places or more."""
    order = np.lexsort((row_P, unit_P, hash_P))
    hashes = hash_P[order]
    is_first = np.ones(len(hashes), bool)
    is_first[1:] = hashes[1:] != hashes[:-1]
    repeats = np.zeros(len(hashes), bool)
    repeats[:-1] = ~is_first[1:]
    chosen = order[is_first & repeats]
    return unit_P[chosen], row_P[chosen]
