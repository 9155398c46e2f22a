"""Work under way at a time: as much as asked for, all of it done, and no error lost."""

import threading
import time

import pytest

from robert_pipeline.stages.at_once import AtOnce, StoppedError, units_at_once


@pytest.mark.parametrize("count", [1, 3])
def test_as_many_as_asked_for_are_under_way_and_all_are_done(count):
    """A GPU would wait between two units, or memory hold all of them."""
    lock, running, most, done = threading.Lock(), 0, 0, []

    def work(number):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
            done.append(number)

    with AtOnce(count) as under_way:
        for number in range(10):
            under_way.do(lambda number=number: work(number))
    assert sorted(done) == list(range(10))
    assert most == count


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("bad", [0, 4])
def test_an_error_comes_out_and_nothing_is_begun_after_it(count, bad):
    """A run would report success for a unit that failed, or go on for minutes before it says so."""
    begun = []

    def work(number):
        begun.append(number)
        if number == bad:
            raise ValueError(f"number {number}")
        time.sleep(0.05)

    def all_of_it():
        with AtOnce(count) as under_way:
            for number in range(9):
                under_way.do(lambda number=number: work(number))

    with pytest.raises(ValueError, match=f"number {bad}"):
        all_of_it()
    assert len(begun) <= bad + count


def test_one_that_takes_long_keeps_none_waiting():
    """A GPU would be given one unit at a time for as long as a huge document takes."""
    long_one = threading.Event()
    done = []
    with AtOnce(2) as under_way:
        under_way.do(lambda: long_one.wait(10))
        for number in range(4):
            under_way.do(lambda number=number: done.append(number))
        assert len(done) >= 3
        long_one.set()
    assert done == [0, 1, 2, 3]


class CtrlCError(BaseException):
    """Ctrl-C."""


def test_work_under_way_is_told_to_give_up():
    """Ctrl-C would be answered when all units under way are done."""
    ended = []

    def work(under_way):
        while not under_way.is_stopping():
            time.sleep(0.01)
        ended.append(True)
        raise StoppedError

    def interrupted():
        with AtOnce(3) as under_way:
            for _ in range(3):
                under_way.do(lambda: work(under_way))
            raise CtrlCError

    with pytest.raises(CtrlCError):
        interrupted()
    assert len(ended) == 3


def test_a_processor_embeds_one_unit_at_a_time():
    """Units would share its cores, and each take as much memory."""
    assert units_at_once("cpu") == 1 < units_at_once("cuda")
