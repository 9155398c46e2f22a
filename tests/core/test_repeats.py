"""Texts that occur more than once."""

from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from robert_pipeline.core.repeats import first_places_of_repeats

places = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 5), st.integers(0, 20)), unique_by=lambda place: place[1:], max_size=60
)


@given(places)
def test_the_first_place_of_every_repeated_hash_is_found(places):
    """A text would be encoded twice, or encoded ahead for nothing."""
    by_hash = defaultdict(list)
    for text, unit, row in places:
        by_hash[text].append((unit, row))
    expected = sorted(min(found) for found in by_hash.values() if len(found) > 1)
    columns = [np.array([place[i] for place in places], np.int64) for i in range(3)]
    units, rows = first_places_of_repeats(columns[0].astype(np.uint64), columns[1], columns[2])
    assert sorted(zip(units.tolist(), rows.tolist(), strict=True)) == expected
