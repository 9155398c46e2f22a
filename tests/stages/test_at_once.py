"""Work under way at a time: as much as asked for, all of it done, and no error lost."""

import threading
import time

import pytest

from robert_pipeline.stages.at_once import AtOnce, units_at_once


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
def test_an_error_comes_out_when_all_that_was_begun_has_ended(count, bad):
    """A run would report success for a unit that failed, or leave others half written."""
    begun, ended = [], []

    def work(number):
        begun.append(number)
        if number == bad:
            raise ValueError(f"number {number}")
        time.sleep(0.02)
        ended.append(number)

    def all_of_it():
        with AtOnce(count) as under_way:
            for number in range(5):
                under_way.do(lambda number=number: work(number))

    with pytest.raises(ValueError, match=f"number {bad}"):
        all_of_it()
    assert sorted([*ended, bad]) == sorted(begun)


def test_a_processor_embeds_one_unit_at_a_time():
    """Units would share its cores, and each take as much memory."""
    assert units_at_once("cpu") == 1 < units_at_once("cuda")
