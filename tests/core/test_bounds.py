"""Whether a partition looks like the one before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robert_pipeline.config import Bounds
from robert_pipeline.core.bounds import Looks, out_of_bounds, total_variation

COUNTS = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 50)).filter(lambda counts: sum(counts.values()) > 0)


def looks(*, rejected=0, before=None, **labels):
    return Looks(
        partition="p",
        documents=sum(labels.values()) + rejected,
        rejected=rejected,
        labels=labels,
        partition_before=None if before is None else "q",
        labels_before=before or {},
    )


@given(COUNTS, COUNTS, st.integers(1, 9))
def test_total_variation_is_a_distance_of_shares(one, other, times):
    """A partition twice as large with the same labels would look like another."""
    assert 0 <= total_variation(one, other) <= 1 + 1e-12
    assert total_variation(one, other) == pytest.approx(total_variation(other, one))
    assert total_variation(one, {label: count * times for label, count in one.items()}) < 1e-12


def test_each_broken_bound_is_named():
    """An operator would not know what stopped a night's labels."""
    bounds = Bounds(max_reject_share=0.1, max_distribution_change=0.2)
    assert out_of_bounds(looks(rejected=1, a=5, b=5, before={"a": 6, "b": 4}), bounds) == []
    broken = out_of_bounds(looks(rejected=5, a=1, b=9, before={"a": 6, "b": 4}), bounds)
    assert "5 of 15 documents rejected" in broken[0]
    assert "50.0% of the labels differ from those of 'q'" in broken[1]
    assert len(broken) == 2


def test_without_bounds_or_without_a_partition_before_nothing_is_broken():
    """The first partition ever could not be published."""
    assert out_of_bounds(looks(rejected=9, a=1), Bounds()) == []
    assert out_of_bounds(looks(a=5), Bounds(max_distribution_change=0.0)) == []
    assert out_of_bounds(looks(rejected=9, a=1), Bounds(max_reject_share=0.0, min_documents=11)) == []
