"""Labelled documents as tokens on disk."""

import hashlib

import pytest

from robert_pipeline.errors import TrainingError
from robert_pipeline.storage.token_set import TOKENIZED_DOCUMENTS, build_token_set
from robert_pipeline.types import Document, Reject


def document(doc_id, text):
    return Document(doc_id=doc_id, text=text, text_hash=hashlib.sha256(text.encode()).hexdigest(), file="f", row=0)


def rows(count, *, first=0):
    return [document(f"d{i}", "goal " * (i % 7 + 1)) for i in range(first, first + count)]


def test_documents_keep_their_tokens_and_labels_over_blocks_and_partitions(tiny, tmp_path):
    """A document would learn another one's label, or read another one's text."""
    count = TOKENIZED_DOCUMENTS + 10
    parts = [rows(count), rows(5, first=count)]
    partitions = [([(row.doc_id, f"l{int(row.doc_id[1:]) % 3}") for row in part], part) for part in parts]
    found = build_token_set(partitions, tiny.tokenizer, tmp_path / "tokens")
    assert len(found) == count + 5
    goal = tiny.tokenizer(["goal"]).token_ids[0]
    assert set(found.token_ids.tolist()) == {goal}
    assert found.tokens_B.tolist() == [i % 7 + 1 for i in range(count + 5)]
    names = [found.labelled.label_names[label] for label in found.labelled.label_B]
    assert names == [f"l{i % 3}" for i in range(count + 5)]


def test_what_cannot_be_learned_from_is_counted(tiny, tmp_path):
    """Rows would be lost without a word."""
    good = document("good", "a goal")
    bad = Reject(doc_id="bad", file="f", row=1, reason="null_text", detail="")
    given = [good, bad, document("nameless", "text"), document("empty", "\u200b"), document("good", "again")]
    labels = [("good", "sport"), ("bad", "sport"), ("nameless", " "), ("empty", "sport"), ("good", "other")]
    found = build_token_set([(labels, given[:4])], tiny.tokenizer, tmp_path / "tokens")
    assert (len(found), found.unlabelled, found.rejected) == (1, 1, 2)
    assert found.labelled.label_names == ("sport",)
    with pytest.raises(TrainingError, match="--label-column"):
        build_token_set([([], given[2:3])], tiny.tokenizer, tmp_path / "none")


def test_the_fingerprint_is_of_texts_and_labels_in_any_order(tiny, tmp_path):
    """A training would go on from the state of another corpus, or begin again for one that was sorted anew."""

    def fingerprint(given, label="sport"):
        labels = [(row.doc_id, label) for row in given]
        return build_token_set([(labels, given)], tiny.tokenizer, tmp_path / "tokens").fingerprint

    given = rows(5)
    assert fingerprint(given) == fingerprint(given[::-1])
    assert len({fingerprint(given), fingerprint(given[:4]), fingerprint(given, "other")}) == 3
