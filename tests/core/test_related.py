"""Who is related: chapters of one book, and nobody else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robert_pipeline.core.related import related_groups
from robert_pipeline.core.split import group_fractions, hold_out
from robert_pipeline.core.terms import DocumentTokens, count_terms

COMMON = 30


def library(books, chapters, *, words=300, seed=0):
    """Chapters of books: each book has thirty names of its own, the other words are everybody's."""
    random = np.random.default_rng(seed)
    texts = []
    for book in range(books):
        names = COMMON + 30 * book + np.arange(30)
        for _ in range(chapters):
            named = random.random(words) < 0.15
            texts.append(np.where(named, random.choice(names, words), random.integers(0, COMMON, words)))
    return DocumentTokens(token_ids=np.concatenate(texts), tokens_B=np.full(len(texts), words))


def groups_of(tokens):
    return related_groups(count_terms(tokens, pairs=True))


def test_chapters_of_a_book_are_one_group_and_books_are_not():
    """A model would be judged on books that it knows by their names."""
    groups = groups_of(library(20, 5))
    assert groups.tolist() == np.repeat(np.arange(20), 5).tolist()


def test_documents_that_share_common_words_only_are_alone():
    """Nothing could be held out, because everybody is related to everybody."""
    random = np.random.default_rng(0)
    tokens = DocumentTokens(token_ids=random.integers(0, 50, 200 * 100), tokens_B=np.full(200, 100))
    assert np.bincount(groups_of(tokens)).max() <= 20


@pytest.mark.parametrize("count", [0, 1, 2])
def test_very_few_documents(count):
    """A corpus of a handful of documents would stop with an error of numpy's."""
    tokens = DocumentTokens(token_ids=np.arange(5 * count), tokens_B=np.full(count, 5))
    assert len(groups_of(tokens)) == count


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 8)), min_size=1, max_size=60), st.floats(0, 0.9))
@settings(max_examples=40)
def test_a_group_is_on_one_side(rows, share):
    """The chapters of one book would lie on both sides of the split."""
    keys, groups = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    fractions = group_fractions(keys, groups, "1")
    for group in np.unique(groups):
        assert len(np.unique(fractions[groups == group])) == 1
    truth = np.ones((len(keys), 1), bool)
    held = hold_out(fractions, truth, share, keep=1)
    for group in np.unique(groups):
        assert len(np.unique(held[groups == group])) == 1
