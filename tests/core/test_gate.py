"""May a candidate become the current head?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robert_pipeline.config import Gate
from robert_pipeline.core.flips import HeadDiff, Move, TruthChange
from robert_pipeline.core.gate import describe, measure
from robert_pipeline.errors import ConfigError


def found(*, stay=95, flip=5, back=0, truth=None):
    moves = [(("a",), ("a",), stay), (("a",), ("b",), flip), (("b",), ("a",), back)]
    return HeadDiff(
        documents=stay + flip + back,
        moves=tuple(Move(before=was, after=becomes, documents=count) for was, becomes, count in moves if count),
        top_flips=(),
        truth=truth,
        only_before=0,
        only_after=0,
    )


def truth(*, won, lost, documents=100):
    return TruthChange(documents=documents, right_before=0, right_after=0, won=won, lost=lost, low=-1, high=1)


def broken(diff, **limits):
    return [each.name for each in measure(diff, Gate(**limits)) if not each.is_kept]


def test_what_is_at_its_limit_is_kept_and_what_is_beyond_is_not():
    """A head at the limit would be refused, or one beyond it pass."""
    assert broken(found()) == []
    assert broken(found(stay=94, flip=6)) == ["max_flip_share", "max_distribution_change"]
    assert broken(found(stay=94, flip=3, back=3)) == ["max_flip_share"]
    assert broken(found(stay=94, flip=5)) == ["min_documents", "max_flip_share", "max_distribution_change"]
    assert broken(found(), min_documents=101) == ["min_documents"]
    assert broken(found(truth=truth(won=3, lost=3))) == []
    assert broken(found(truth=truth(won=3, lost=4))) == ["max_accuracy_drop"]
    assert broken(found(truth=truth(won=3, lost=4)), max_accuracy_drop=0.01) == []
    assert broken(found(truth=truth(won=3, lost=5)), max_accuracy_drop=0.01) == ["max_accuracy_drop"]


def test_what_is_not_known_breaks_no_limit_and_is_said():
    """A corpus without labels could never be labelled by a new head, or nobody would know that nothing was checked."""
    (unknown,) = [each for each in measure(found(), Gate()) if each.found is None]
    assert unknown.name == "max_accuracy_drop"
    assert "not known" in describe(unknown)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 200), st.floats(0, 1))
def test_a_wider_limit_never_refuses_what_a_narrower_one_lets_pass(stay, flip, back, limit):
    """Raising a limit could close the gate."""
    diff = found(stay=stay, flip=flip, back=back)
    narrow = set(broken(diff, max_flip_share=limit / 2, max_distribution_change=limit / 2))
    assert set(broken(diff, max_flip_share=limit, max_distribution_change=limit)) <= narrow


@pytest.mark.parametrize("name", ["max_flip_share", "max_distribution_change", "max_accuracy_drop", "min_documents"])
def test_a_limit_that_is_none_is_refused_by_name(name):
    """A limit of 5 that was meant as 5% would let everything pass."""
    with pytest.raises(ConfigError, match=rf"gate\.{name} is -1"):
        Gate(**{name: -1})
    if name != "min_documents":
        with pytest.raises(ConfigError, match=rf"gate\.{name} is 5"):
            Gate(**{name: 5})
