"""Token ids, and the characters they came from."""

import re

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from robert_pipeline.config import Chunking
from robert_pipeline.core.chunk import cut
from robert_pipeline.core.tokenize import Tokenizer

PIECES = [
    "bank", "unbelievably", "HSBC's", "naïve", "3.14159", "…", "?!", " ", "  ", "\r\n", "\t", "\n\n", "\u00a0",
    "👩‍👩‍👧", "🇩🇪", "😀", "e\u0301", "a\u0300\u0323", "日本語", "中", "\u200b", "\u200d", "\ufeff", "\u00ad", "\x00",
    "\ufffd", "مرحبا", "ß", "Ω", "a" * 120, "\U0001d4d0",
]  # fmt: skip
texts = st.lists(st.sampled_from(PIECES) | st.text(alphabet="abc zé日😀\u0301", max_size=6), max_size=25).map("".join)
chunkings = st.integers(1, 12).flatmap(
    lambda tokens: st.builds(Chunking, chunk_tokens=st.just(tokens), overlap_tokens=st.integers(0, tokens - 1))
)


def backend_of(folder):
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@given(st.lists(texts, max_size=3), chunkings)
def test_a_chunk_s_characters_hold_its_tokens_and_nothing_else(minilm_folder, texts, chunking):
    """The deciding passage shown to a reader would be another than the one that decided."""
    backend = backend_of(minilm_folder)
    tokenized = Tokenizer(backend, pad_id=0)(texts)
    spans = cut(tokenized.token_counts_B, chunking)
    for document, start, count in zip(spans.document_N, spans.start_N, spans.count_N, strict=True):
        first, last = tokenized.characters(int(document), int(start), int(count))
        passage = texts[document][first:last]
        at = tokenized.first_token_B[document] + start
        pieces = [backend.id_to_token(int(token)) for token in tokenized.token_ids[at : at + count]]
        words = "".join(".+" if piece == "[UNK]" else re.escape(piece.removeprefix("##")) for piece in pieces)
        shown = re.sub(r"\s", "", backend.normalizer.normalize_str(passage))
        assert re.fullmatch(words, shown), (passage, pieces)


@given(st.lists(texts, min_size=1, max_size=4))
def test_texts_are_tokenised_as_if_alone_and_in_full(minilm_folder, texts):
    """A document's tokens would depend on its neighbours, or its end would be missing."""
    backend = backend_of(minilm_folder)
    together = Tokenizer(backend, pad_id=0)(texts)
    plain = backend_of(minilm_folder)
    plain.no_truncation()
    plain.no_padding()
    for index, text in enumerate(texts):
        first, count = together.first_token_B[index], together.token_counts_B[index]
        assert together.token_ids[first : first + count].tolist() == plain.encode(text, add_special_tokens=False).ids


def test_the_tokenizer_file_s_truncation_is_off(minilm_folder):
    """Everything after MiniLM's 128th token would be thrown away in silence."""
    backend = backend_of(minilm_folder)
    assert backend.truncation["max_length"] == 128
    assert len(backend.encode("word " * 1_000)) == 128
    assert Tokenizer(backend, pad_id=0)(["word " * 1_000]).token_counts_B.tolist() == [1_000]


def test_padding_of_the_tokenizer_file_is_off(minilm_folder):
    """Short texts would be embedded with padding tokens as their words."""
    backend = backend_of(minilm_folder)
    backend.enable_padding(length=64)
    assert Tokenizer(backend, pad_id=0)(["one", "two words"]).token_counts_B.tolist() == [1, 2]


def test_special_tokens_are_those_of_the_checkpoint(minilm):
    """Chunks would reach the model without [CLS] and [SEP]."""
    assert minilm.tokenizer.frame.prefix_ids.tolist() == [101]
    assert minilm.tokenizer.frame.suffix_ids.tolist() == [102]
    assert len(minilm.tokenizer.frame) == 2


def test_a_mark_in_a_text_is_one_token_with_a_place(minilm):
    """A text that quotes '[SEP]' would crash the run or shift its passages."""
    tokenized = minilm.tokenizer(["a [SEP] b"])
    assert tokenized.token_ids.tolist()[1] == 102
    assert tokenized.characters(0, 1, 1) == (2, 7)


@pytest.mark.parametrize("text", ["", " ", "\u200b", "\x00\x01", "\u200d\ufeff", "\u0301"])
def test_a_text_without_tokens_has_none(minilm, text):
    """A document nobody can read would be embedded as noise."""
    assert minilm.tokenizer([text, "word"]).token_counts_B.tolist() == [0, 1]


def test_no_texts_are_no_tokens(minilm):
    """A block whose rows were all rejected would stop the run."""
    assert len(minilm.tokenizer([]).token_ids) == 0


@given(texts, st.integers(1, 5))
def test_byte_level_tokens_keep_whole_characters(byte_level, text, chunk_tokens):
    """With RoBERTa's tokenizers a chunk that ends inside an emoji would show half a character, or none."""
    tokenized = Tokenizer(byte_level, pad_id=0)([text])
    chunking = Chunking(chunk_tokens=chunk_tokens, overlap_tokens=0)
    spans = cut(tokenized.token_counts_B, chunking)
    shown = set()
    for start, count in zip(spans.start_N, spans.count_N, strict=True):
        first, last = tokenized.characters(0, int(start), int(count))
        assert 0 <= first <= last <= len(text)
        shown |= set(range(first, last))
    unseen = {index for index, character in enumerate(text) if not character.isspace()} - shown
    assert not unseen, [text[index] for index in unseen]


@pytest.fixture(scope="module")
def byte_level():
    """A small byte-level BPE tokenizer, as RoBERTa and ModernBERT have."""
    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train_from_iterator(["the bank said it was unbelievably naive"] * 10, vocab_size=300, show_progress=False)
    backend = tokenizers.Tokenizer.from_str(trained.to_str())
    backend.post_processor = tokenizers.processors.RobertaProcessing(("z", 1), ("a", 0))
    return backend


def test_flat_ids_are_int32(minilm):
    """Token ids would take twice the memory they need."""
    assert minilm.tokenizer(["some words"]).token_ids.dtype == np.int32
