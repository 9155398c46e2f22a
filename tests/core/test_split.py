"""Who learns and who judges, by a hash of the text."""

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from robert_pipeline.core.split import hold_out, text_fractions, text_keys

keys = st.lists(st.integers(0, 2**60 - 1), min_size=1, max_size=40)


def test_keys_and_fractions_are_what_heads_out_there_were_split_by():
    """A head trained again would learn from documents that its first training was judged on."""
    hashes = [hashlib.sha256(text.encode()).hexdigest() for text in ("a", "b")]
    found = text_keys(hashes)
    assert found.tolist() == [int(each[:15], 16) for each in hashes]
    np.testing.assert_allclose(text_fractions(found, "1"), [0.501826, 0.264296], atol=1e-6)


@given(keys, st.text(max_size=4))
def test_a_text_s_fraction_depends_on_nothing_but_text_and_salt(keys, salt):
    """A copy of a text, or the same text in another run, would change sides."""
    together = text_fractions(np.array(keys), salt)
    assert ((together >= 0) & (together < 1)).all()
    assert together.tolist() == [text_fractions(np.array([key]), salt)[0] for key in keys]


def test_fractions_are_even_and_salts_are_independent():
    """A tenth of the texts would not be a tenth, or the validation documents of every test split the same."""
    keys = text_keys([hashlib.sha256(str(number).encode()).hexdigest() for number in range(20_000)])
    one, other = text_fractions(keys, "1"), text_fractions(keys, "2")
    np.testing.assert_allclose(np.histogram(one, 10, (0, 1))[0], 2_000, atol=200)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.03


cases = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3)), min_size=1, max_size=40)


@given(cases, st.floats(0, 1), st.integers(1, 3))
def test_copies_stay_together_and_labels_keep_documents(cases, share, keep):
    """A text would be learned from and judged by, or a label that is known would not be learned at all."""
    fraction_B = text_fractions(np.array([text for text, _ in cases]), "s")
    truth_BK = np.array([label for _, label in cases])[:, None] == np.arange(4)
    held_B = hold_out(fraction_B, truth_BK, share, keep=keep)
    for text in {text for text, _ in cases}:
        assert len({bool(held) for (each, _), held in zip(cases, held_B, strict=True) if each == text}) == 1
    assert ((truth_BK & ~held_B[:, None]).sum(0) >= np.minimum(keep, truth_BK.sum(0))).all()
    assert (held_B <= (fraction_B < share)).all()


@given(cases, st.floats(0, 1), st.floats(0.1, 1), st.sets(st.integers(0, 8)))
def test_what_is_known_already_is_never_held_out(cases, share, most, known):
    """A head would be judged on texts that its encoder was fine-tuned on."""
    text_B = np.array([text for text, _ in cases])
    fraction_B, known_B = text_fractions(text_B, "s"), np.isin(text_B, list(known))
    truth_BK = np.array([label for _, label in cases])[:, None] == np.arange(4)
    held_B = hold_out(fraction_B, truth_BK, share, keep=1, known_B=known_B, most_unknown=most)
    assert not (held_B & known_B).any()
    if not known_B.any():
        assert held_B.tolist() == hold_out(fraction_B, truth_BK, share, keep=1).tolist()


def test_what_is_known_is_made_up_for():
    """Of a corpus that the encoder knows most of, next to nothing would be left to judge by."""
    keys = text_keys([hashlib.sha256(str(number).encode()).hexdigest() for number in range(20_000)])
    known_B, truth_BK = np.arange(20_000) % 20 > 3, np.ones((20_000, 1), bool)
    shares = [
        hold_out(text_fractions(keys, "s"), truth_BK, share, keep=1, known_B=known_B, most_unknown=0.5).mean()
        for share in (0.05, 0.15)
    ]
    np.testing.assert_allclose(shares, [0.05, 0.1], atol=0.01)
