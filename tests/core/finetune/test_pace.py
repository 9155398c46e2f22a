"""How many steps there is time for."""

from hypothesis import given
from hypothesis import strategies as st

from robert_pipeline.core.finetune.pace import Pace, TimeBudget


def run(budget, step_seconds, *, whole=10_000, first_step=0):
    """(steps done, seconds, the answers) of a training that heeds them."""
    pace, step, seconds, steps, said = Pace(budget, first_step=first_step), first_step, 0.0, whole, []
    while step < steps:
        step += 1
        seconds += step_seconds(step)
        fitting = pace.steps(step, seconds, 100 * (step - first_step))
        if fitting is not None:
            said.append(fitting)
            steps = min(whole, fitting)
    return step, seconds, said


@given(st.floats(0.01, 5), st.floats(50, 500), st.integers(0, 1_000))
def test_the_time_is_kept_and_used(step_seconds, allowed, first_step):
    """A training would take longer than was asked for, or leave half of the time."""
    step, seconds, _ = run(TimeBudget(seconds=allowed), lambda _step: step_seconds, first_step=first_step)
    assert seconds <= allowed + 17 * step_seconds  # the first steps are not judged
    assert step - first_step == 10_000 - first_step or seconds >= allowed - step_seconds


def test_slow_first_steps_say_nothing():
    """Compiling, and a busy moment, would end a training before it has begun."""
    _, seconds, _ = run(TimeBudget(seconds=200), lambda step: 20.0 if step <= 4 else 0.5)
    assert seconds > 199


def test_no_time_at_all_ends_after_the_probe():
    """A budget that others have used up would be taken for one that is not known yet."""
    step, _, said = run(TimeBudget(seconds=1, tokens_afterwards=10**9), lambda _step: 1.0)
    assert (step, said) == (16, [16])
