"""Ragged documents to packed rows and back."""

import warnings

import numpy as np
import pytest
import torch
from heads import documents, flat, lengths
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from robert_pipeline.core.pack import borrow, chunk_positions, finite_documents, plan_pack


@given(lengths)
def test_packed_as_torch_packs_what_it_has_padded(lengths):
    """The LSTM would read another document's chunks, or in another order."""
    texts = documents(lengths)
    vectors_ND, lengths_B = flat(texts)
    plan = plan_pack(lengths_B)
    ours = plan.pack(vectors_ND)
    theirs = pack_padded_sequence(pad_sequence(texts, padding_value=-91.0), lengths_B, enforce_sorted=False)
    assert torch.equal(ours.batch_sizes, theirs.batch_sizes)
    # Documents of equal length may change places: each must still be read from its own chunks.
    for document, text in enumerate(texts):
        rank = int(plan.rank_B[document])
        starts = [0, *ours.batch_sizes.cumsum(0).tolist()]
        assert torch.equal(torch.stack([ours.data[starts[t] + rank] for t in range(len(text))]), text)
    assert torch.equal(plan.unpack(ours.data), vectors_ND)
    assert plan.order_B[plan.rank_B].tolist() == list(range(len(lengths)))


@given(lengths)
def test_positions_count_from_each_document_s_start(lengths):
    """A document's first chunk would not be known."""
    assert chunk_positions(torch.tensor(lengths)).tolist() == [t for length in lengths for t in range(length)]


@pytest.mark.parametrize("lengths", [[], [0], [3, 0, 2], [-1]])
def test_a_document_without_chunks_is_refused(lengths):
    """It would silently take the state of another document."""
    with pytest.raises(ValueError, match="at least one chunk"):
        plan_pack(torch.tensor(lengths, dtype=torch.int64))


bad_values = st.sampled_from([np.nan, np.inf, -np.inf])


@given(lengths, st.data(), st.sampled_from([np.float16, np.float32]))
def test_exactly_the_documents_with_nan_or_infinity_are_found(lengths, data, dtype):
    """A document of which nothing is known would get a label, or a good one none."""
    vectors_ND = np.full((sum(lengths), 5), np.finfo(dtype).max, dtype)  # sums overflow, values do not
    bad = data.draw(st.sets(st.integers(0, sum(lengths) - 1), max_size=4))
    for row in bad:
        vectors_ND[row, data.draw(st.integers(0, 4))] = data.draw(bad_values)
    document_N = np.repeat(np.arange(len(lengths)), lengths)
    expected = ~np.isin(np.arange(len(lengths)), document_N[sorted(bad)])
    assert finite_documents(vectors_ND, np.array(lengths)).tolist() == expected.tolist()


def test_borrowed_memory_is_the_same_and_needs_not_be_writable():
    """Every batch would be copied, or torch would warn of each shard that is memory-mapped."""
    array = np.arange(6, dtype=np.float32)
    array.flags.writeable = False
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tensor = borrow(array)
    assert not caught
    assert tensor.data_ptr() == array.ctypes.data
