"""Torch work in threads of one core each."""

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robert_pipeline.core.threads import in_order, in_threads, one_thread


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
    with ThreadPoolExecutor(3) as pool, in_order(pool, lambda item: item + 1, items) as done:
        assert list(done) == [item + 1 for item in items]


def test_no_work_goes_on_after_items_that_end_in_an_error():
    """Ctrl-C while batches are handed in would seem to hang until all of them are encoded."""
    gate, begun = threading.Event(), []

    def work(item):
        begun.append(item)
        gate.wait(20)

    def items():
        yield from range(20)
        gate.set()
        raise KeyboardInterrupt

    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(KeyboardInterrupt), in_order(pool, work, items()):
            pass
        at_the_end = len(begun)
        assert pool.submit(lambda: len(begun)).result() == at_the_end


def test_a_block_that_ends_in_an_error_does_not_wait_for_others():
    """A unit that is stopped would first wait for all that another one has handed in."""
    gate = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        others = [pool.submit(gate.wait, 20) for _ in range(3)]
        with pytest.raises(ZeroDivisionError), in_order(pool, lambda item: item, range(3)):
            raise ZeroDivisionError
        assert not any(other.done() for other in others)
        gate.set()


def test_what_an_error_leaves_is_freed_at_once():
    """A block's vectors would stay in memory until Python happens to look for cycles."""

    class Held:
        def __call__(self, item):
            raise ZeroDivisionError

    def fail(alive):
        held = Held()
        alive.append(weakref.ref(held))
        with in_order(pool, held, range(3)) as done:
            list(done)

    gc.collect()
    gc.disable()
    try:
        with ThreadPoolExecutor(2) as pool:
            alive = []
            with pytest.raises(ZeroDivisionError):
                fail(alive)
        assert alive[0]() is None
    finally:
        gc.enable()


def test_no_work_goes_on_after_an_error():
    """Batches of a unit that has failed would be encoded beside those of the next."""
    failed, begun, ended = threading.Event(), [], []

    def work(item):
        begun.append(item)
        if item == 0:
            failed.set()
            raise ZeroDivisionError
        failed.wait(20)
        time.sleep(0.01)  # else all items could be done before the caller hears of the error
        ended.append(item)

    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(ZeroDivisionError), in_order(pool, work, range(1000)) as done:
            list(done)
        assert len(ended) == len(begun) - 1
        at_the_end = len(begun)
        assert pool.submit(lambda: len(begun)).result() == at_the_end < 1000


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
