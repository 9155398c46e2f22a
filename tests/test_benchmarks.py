"""What the benchmarks' figures rest on."""

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.slices import ran_between

ticks = st.integers(0, 60)


@given(st.lists(ticks, max_size=12), ticks, ticks)
def test_only_the_slices_that_a_process_ran_in_are_counted(edges, one, other):
    """A contender would be charged for the time that it was stopped, or given time that it ran in."""
    edges = sorted(edges)
    slices = list(zip(edges[::2], edges[1::2], strict=False))
    began, ended = sorted((one, other))
    expected = sum(any(first <= tick < last for first, last in slices) for tick in range(began, ended))
    assert ran_between(began, ended, slices) == expected
