"""Texts as tokens and chunks, whole or in pieces: the same."""

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, trainers

from robert_pipeline.config import Chunking
from robert_pipeline.core.pieces import PiecesDifferError, tokenize_in_pieces
from robert_pipeline.core.reading import read_texts
from robert_pipeline.core.tokenize import Tokenizer

CHARACTERS = 4_800
"""A quarter is a piece; the margin is a thousand."""
RUNS = [
    "bank ", "unbelievably ", "HSBC's ", "don't", "naïve ", "3.14159", "…", "?!", " ", "  ", "\r\n", "\t", "\n\n",
    "\u00a0", "👩‍👩‍👧", "🇩🇪", "😀 ", "e\u0301", "a\u0300\u0323", "日本語", "中", "\u200b", "\ufeff", "\x00", "\ufffd",
    "مرحبا ", "Ω", "a" * 120, "[SEP]", " [MASK] ", "<mask>", "https://example.org/a-b_c?d=e&f=1 ",
]  # fmt: skip
runs = st.tuples(st.sampled_from(RUNS) | st.text(max_size=8), st.integers(1, 60)).map(lambda run: run[0] * run[1])
long_texts = st.lists(runs, min_size=1, max_size=60).map("".join)
chunkings = st.integers(1, 24).flatmap(
    lambda tokens: st.builds(
        Chunking,
        chunk_tokens=st.just(tokens),
        overlap_tokens=st.integers(0, tokens - 1),
        max_chunks=st.none() | st.integers(1, 50),
    )
)


def byte_level(articles, *, prefix_space=False):
    """As RoBERTa, Longformer and ModernBERT have."""
    trained = tokenizers.ByteLevelBPETokenizer(add_prefix_space=prefix_space)
    trained.train_from_iterator(articles, vocab_size=2_000, special_tokens=["<mask>", "[SEP]"], show_progress=False)
    backend = tokenizers.Tokenizer.from_str(trained.to_str())
    backend.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=True)])
    return backend


def sentence_piece(articles, *, splits=True):
    """As XLM-R and multilingual E5 have; without `splits` a text is one word, as some ports have."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.train_from_iterator(
        articles,
        trainers.UnigramTrainer(
            vocab_size=2_000, special_tokens=["<unk>", "<mask>"], unk_token="<unk>", show_progress=False
        ),
    )
    if not splits:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    return backend


@pytest.fixture(scope="module")
def of_kind(minilm_folder, articles):
    """One tokenizer of every family."""
    return {
        "word-piece": Tokenizer(tokenizers.Tokenizer.from_file(str(minilm_folder / "tokenizer.json")), pad_id=0),
        "byte-level": Tokenizer(byte_level(articles), pad_id=0),
        "byte-level, prefix space": Tokenizer(byte_level(articles, prefix_space=True), pad_id=0),
        "sentence piece": Tokenizer(sentence_piece(articles), pad_id=0),
        "sentence piece, one word": Tokenizer(sentence_piece(articles, splits=False), pad_id=0),
    }


KINDS = ["word-piece", "byte-level", "byte-level, prefix space", "sentence piece", "sentence piece, one word"]


def assert_same(found, expected):
    assert found.token_ids.tolist() == expected.token_ids.tolist()
    assert found.token_counts_B.tolist() == expected.token_counts_B.tolist()
    assert found.char_start_N.tolist() == expected.char_start_N.tolist()
    assert found.char_end_N.tolist() == expected.char_end_N.tolist()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(text=long_texts, chunking=chunkings)
def test_a_text_in_pieces_is_the_text_at_once(of_kind, kind, text, chunking):
    """A long document would get other tokens, chunks and passages than the same text elsewhere."""
    tokenizer = of_kind[kind]
    found = read_texts([text], tokenizer, chunking, characters=CHARACTERS)
    assert_same(found, read_texts([text], tokenizer, chunking, characters=len(text) + 1))


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_real_texts_are_read_in_pieces(of_kind, articles, kind):
    """The test above would compare the whole with the whole, and a document of 50 MB take gigabytes."""
    text = "\n".join(articles)
    pieces = list(tokenize_in_pieces(of_kind[kind], text, characters=4_000))
    assert len(pieces) > len(text) // 4_000
    assert max(len(piece.read_ids) for piece in pieces) < 4_000
    whole = of_kind[kind]([text]).token_ids
    assert np.concatenate([piece.token_ids for piece in pieces]).tolist() == whole.tolist()


@pytest.mark.parametrize(
    "text", ["", "\u200b" * 5_000, " " * 5_000, "a" * 5_000, "日本" * 3_000, "x " + "a" * 9_000 + " y"]
)
def test_texts_without_words_are_read_as_well(of_kind, text):
    """A scanned page or a base64 attachment would stop the run or never end."""
    for tokenizer in of_kind.values():
        found = read_texts([text, "bank"], tokenizer, Chunking(), characters=CHARACTERS)
        assert_same(found, read_texts([text, "bank"], tokenizer, Chunking(), characters=1 << 20))


class Moody(Tokenizer):
    """Reads every text in another way."""

    calls = 0

    def __call__(self, texts):
        self.calls += 1
        if self.calls > 1 and len(texts[0]) < 5_000:
            texts = [text.replace("bank", "goal") for text in texts]
        return super().__call__(texts)


def test_a_tokenizer_that_reads_pieces_differently_is_given_the_whole(minilm_folder):
    """A tokenizer of a kind that nobody thought of would give wrong tokens without a word."""
    moody = Moody(tokenizers.Tokenizer.from_file(str(minilm_folder / "tokenizer.json")), pad_id=0)
    text = "the bank said " * 1_000
    with pytest.raises(PiecesDifferError, match="not the same in two readings"):
        list(tokenize_in_pieces(moody, text, characters=3_000))
    moody.calls = 0
    assert_same(
        read_texts([text], moody, Chunking(), characters=12_000),
        read_texts([text], moody, Chunking(), characters=1 << 20),
    )


@given(st.lists(long_texts, max_size=4), chunkings, st.data())
def test_the_new_tokens_of_a_texts_chunks_are_its_tokens(of_kind, texts, chunking, data):
    """Words would be counted twice where chunks overlap or a window ends, or not at all."""
    read = read_texts(texts, of_kind["word-piece"], chunking, characters=CHARACTERS)
    spans = read.spans
    tokens, counts_N = read.new_tokens(np.arange(len(spans)))
    at = first = 0
    for index, count in enumerate(read.token_counts_B.tolist()):
        mine = spans.document_N == index
        seen = int((spans.start_N + spans.count_N)[mine].max(initial=0))
        assert counts_N[mine].sum() == seen
        assert tokens[at : at + seen].tolist() == read.token_ids[first : first + seen].tolist()
        at, first = at + seen, first + count
    start = data.draw(st.integers(0, len(spans)))
    np.testing.assert_array_equal(read.new_tokens(np.arange(start, len(spans)))[1], counts_N[start:])
