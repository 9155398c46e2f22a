"""The tokens of labelled documents, ready to fine-tune on: corpus rows in, one memory-mapped file of token ids out.

In memory are some 40 bytes a document and the labels of one partition at a time; never the texts of a corpus.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from robert_pipeline.core.split import text_keys
from robert_pipeline.core.targets import Labelled
from robert_pipeline.core.terms import DocumentTokens
from robert_pipeline.core.tokenize import Tokenizer
from robert_pipeline.errors import TrainingError
from robert_pipeline.types import Document, Reject

Integers = NDArray[np.int64]

TOKENIZED_DOCUMENTS = 256
"""Documents given to the tokenizer at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenSet:
    """Documents with labels and their tokens."""

    token_ids: NDArray[np.int32]
    """Of all documents, one after the other; memory-mapped."""
    tokens_B: Integers
    labelled: Labelled
    unlabelled: int
    """Documents that have no label, and are left out."""
    rejected: int
    """Rows without a usable id or text, or with nothing for the tokenizer, left out as well."""

    def __len__(self) -> int:
        return len(self.tokens_B)

    @property
    def tokens(self) -> DocumentTokens:
        """The tokens by document."""
        return DocumentTokens(token_ids=self.token_ids, tokens_B=self.tokens_B)

    @property
    def fingerprint(self) -> str:
        """Identity of texts and labels, whatever their order: 16 hexadecimal digits."""
        labels = [self.labelled.label_names[label] for label in self.labelled.label_B.tolist()]
        lines = sorted(f"{key} {label}" for key, label in zip(self.labelled.text_key_B.tolist(), labels, strict=True))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def nothing_to_learn(*, unlabelled: int, rejected: int) -> TrainingError:
    """What to raise where no document has a label."""
    return TrainingError(
        f"there is nothing to learn from: {unlabelled} documents have no label, {rejected} rows cannot be used",
        fix="Name the column that holds the true labels with --label-column",
    )


def build_token_set(
    partitions: Iterable[tuple[Iterable[tuple[str, str | None]], Iterable[Document | Reject]]],
    tokenizer: Tokenizer,
    path: Path,
    *,
    on_document: Callable[[int], None] = lambda _: None,
) -> TokenSet:
    """Tokenise the labelled documents of partitions, each given as (doc_id, label) pairs and rows, into file `path`.

    Raises TrainingError where no document has a label.
    """
    with path.open("wb") as file:
        builder = _Builder(tokenizer, file, on_document)
        for labels, rows in partitions:
            builder.add(labels, rows)
    return builder.finish(path)


class _Builder:
    """Appends the tokens of documents to one file."""

    def __init__(self, tokenizer: Tokenizer, file: BinaryIO, on_document: Callable[[int], None]) -> None:
        self._tokenizer, self._file, self._on_document = tokenizer, file, on_document
        self._names: dict[str, int] = {}
        self._labels: list[int] = []
        self._hashes: list[str] = []
        self._counts: list[int] = []
        self._unlabelled = 0
        self._rejected = 0

    def add(self, labels: Iterable[tuple[str, str | None]], rows: Iterable[Document | Reject]) -> None:
        by_id: dict[str, str | None] = {}
        for doc_id, label in labels:
            by_id.setdefault(doc_id, label)  # of rows that share an id, the first is the document
        held: list[tuple[Document, str]] = []
        for row in rows:
            if isinstance(row, Reject):
                self._rejected += 1
                continue
            label = (by_id.get(row.doc_id) or "").strip()
            if not label:
                self._unlabelled += 1
                continue
            held.append((row, label))
            if len(held) == TOKENIZED_DOCUMENTS:
                self._write(held)
                held = []
        if held:
            self._write(held)

    def _write(self, held: list[tuple[Document, str]]) -> None:
        read = self._tokenizer([document.text for document, _ in held])
        self._file.write(read.token_ids.tobytes())
        for (document, label), count in zip(held, read.token_counts_B.tolist(), strict=True):
            if count == 0:
                self._rejected += 1
                continue
            self._labels.append(self._names.setdefault(label, len(self._names)))
            self._hashes.append(document.text_hash)
            self._counts.append(count)
        self._on_document(len(self._counts))

    def finish(self, path: Path) -> TokenSet:
        if not self._counts:
            raise nothing_to_learn(unlabelled=self._unlabelled, rejected=self._rejected)
        order = sorted(self._names)
        rank = np.empty(len(order), np.int64)
        for new, name in enumerate(order):
            rank[self._names[name]] = new
        return TokenSet(
            token_ids=np.memmap(path, np.int32, "r"),
            tokens_B=np.array(self._counts, np.int64),
            labelled=Labelled(
                label_names=tuple(order),
                label_B=rank[np.array(self._labels, np.int64)],
                text_key_B=text_keys(self._hashes),
            ),
            unlabelled=self._unlabelled,
            rejected=self._rejected,
        )
