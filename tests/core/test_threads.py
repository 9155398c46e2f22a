"""Torch work in threads of one core each."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robert_pipeline.core.threads import in_threads, one_thread


@pytest.fixture
def two_threads():
    """A machine of two cores, whatever this one has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@given(st.lists(st.integers(), max_size=12))
@settings(max_examples=20)
def test_results_come_in_the_order_of_the_items(items):
    """Labels would be written beside other documents."""
    assert list(in_threads(lambda item: item + 1, items)) == [item + 1 for item in items]


@pytest.mark.usefixtures("two_threads")
def test_items_are_made_no_further_ahead_than_there_are_threads():
    """A large shard would be read into memory at once."""
    made, done = [], 0

    def items():
        for number in range(10):
            made.append(number)
            yield number

    for _ in in_threads(lambda item: item, items()):
        done += 1
        assert len(made) <= done + 2
    assert done == 10


@pytest.mark.usefixtures("two_threads")
def test_two_items_are_worked_on_at_once_by_one_thread_of_torch_each():
    """Half of the machine would stand still, or threads would fight for it."""
    both = threading.Barrier(2, timeout=20)

    def work(_):
        both.wait()
        return torch.get_num_threads()

    assert list(in_threads(work, range(4))) == [1] * 4
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_torch_has_its_threads_back_after_an_error():
    """Everything after a failed shard would run on one core."""
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda item: 1 // item, [1, 0, 1]))
    with pytest.raises(ZeroDivisionError), one_thread():
        1 / (torch.get_num_threads() - 1)
    assert torch.get_num_threads() == 2
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert found == [2]
