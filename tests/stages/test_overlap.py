"""Work of two threads at once keeps order and errors, and holds no more than it says."""

import threading
from functools import partial

import pytest

from robert_pipeline.stages.overlap import ahead, behind


def test_items_come_in_order_and_one_is_made_ahead():
    """Rows would come in another order, or all of a unit would be in memory."""
    made, may_go_on = [], threading.Event()

    def items():
        for number in range(6):
            made.append(number)
            if number == 1:
                may_go_on.set()
            yield number

    seen = []
    for item in ahead(items()):
        if item == 0:
            assert may_go_on.wait(10)  # the next one is made while this one is in use
        assert len(made) <= item + 2
        seen.append(item)
    assert seen == list(range(6))
    assert list(ahead(iter([]))) == []


def test_an_error_while_making_comes_out_in_its_place():
    """A damaged file would end the unit as if it were whole."""

    def items():
        yield 1
        raise OSError("damaged")

    coming = ahead(items())
    assert next(coming) == 1
    with pytest.raises(OSError, match="damaged"):
        next(coming)


def test_all_is_put_away_in_order_at_the_end_of_the_block():
    """A shard would be sealed before its last rows are in it."""
    done, threads = [], set()

    def work(item):
        threads.add(threading.current_thread())
        done.append(item)

    with behind() as later:
        for item in range(5):
            later(partial(work, item))
    assert done == list(range(5))
    assert threading.current_thread() not in threads


@pytest.mark.parametrize("last", [True, False])
def test_an_error_while_putting_away_is_not_lost(last):
    """A full disk would be found by the reader of the shard."""

    def work(item):
        if item == 2:
            raise OSError("no space")

    handed = []

    def hand_over_all():
        with behind() as later:
            for item in range(3 if last else 9):
                later(partial(work, item))
                handed.append(item)

    with pytest.raises(OSError, match="no space"):
        hand_over_all()
    assert len(handed) == 3


def test_an_error_of_the_caller_waits_for_what_was_handed_over():
    """A file would be removed while a thread still writes it."""
    done = threading.Event()

    def fail_after_handing_over():
        with behind() as later:
            later(done.set)
            raise KeyError

    with pytest.raises(KeyError):
        fail_after_handing_over()
    assert done.is_set()
