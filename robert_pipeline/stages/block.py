"""Chunk rows of a block of documents: copied where the store has the text, encoded once where it does not.

Documents enter; rows of the embeddings contract in document order, rejects and counts leave. Vectors are held a window
of chunks at a time, and one more while its rows are made. Opens no file but through `KnownTexts` and `RowSpool`.
Axes: B documents, U different texts, N chunks, D embedding, R rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from robert_pipeline.config import Chunking
from robert_pipeline.core.embed import BatchBudget, EmbeddedChunks, embed_texts
from robert_pipeline.core.reading import ReadTexts, read_texts
from robert_pipeline.stages.at_once import StoppedError, Stopping
from robert_pipeline.stages.progress import Done, report
from robert_pipeline.storage.encoders import LoadedEncoder
from robert_pipeline.storage.known_texts import FoundTexts, KnownTexts, chunk_places
from robert_pipeline.storage.shards import chunk_rows
from robert_pipeline.storage.spool import RowSpool
from robert_pipeline.types import Counts, Document, Reject

Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockEncoder:
    """What turns texts into chunks and their vectors, and where the rows go."""

    loaded: LoadedEncoder
    chunking: Chunking
    budget: BatchBudget
    schema: pa.Schema
    known: KnownTexts
    scratch: Path
    """A folder for rows that memory should not hold."""
    is_stopping: Stopping = lambda: False


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """What became of the documents of a block."""

    rows: pa.Table
    rejects: list[Reject]
    counts: Counts
    """Of the documents that were embedded; rejects are not in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Texts:
    """Different texts and their chunk rows, one text after the other in `rows`, at `start_U`."""

    rows: pa.Table
    start_U: Integers
    lengths_U: Integers
    """0 for a text that cannot be stored."""
    is_fresh_U: Booleans
    """Encoded here, not copied."""
    problems: dict[int, tuple[str, str]]
    """Reason and detail for each text that cannot be stored."""
    shared_from: dict[int, str]


def place_name(document: Document) -> str:
    """Where a document was read from."""
    return f"{document.file}#{document.row}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadBlock:
    """Documents, what the store has of their texts, and the tokens of the others."""

    documents: Sequence[Document]
    text_B: Integers
    """Which text each document has."""
    firsts_U: Sequence[int]
    """The first document of each text."""
    found: FoundTexts
    fresh: Integers
    """The texts that the store does not have."""
    read: ReadTexts
    """Theirs."""


def read_block(documents: Sequence[Document], encoder: BlockEncoder) -> ReadBlock:
    """Look up the texts of `documents`, tokenise those that are not known. A text of several documents counts once."""
    first_of: dict[str, int] = {}
    for number, document in enumerate(documents):
        first_of.setdefault(document.text_hash, number)
    firsts_U = list(first_of.values())
    number_of = {text_hash: number for number, text_hash in enumerate(first_of)}
    found = encoder.known.fetch(list(first_of))
    is_fresh_U = np.ones(len(firsts_U), bool)
    is_fresh_U[found.query_F] = False
    fresh = np.flatnonzero(is_fresh_U)
    return ReadBlock(
        documents=documents,
        text_B=np.array([number_of[document.text_hash] for document in documents], np.int64),
        firsts_U=firsts_U,
        found=found,
        fresh=fresh,
        read=read_texts(
            [documents[firsts_U[number]].text for number in fresh.tolist()], encoder.loaded.tokenizer, encoder.chunking
        ),
    )


def encoded(block: ReadBlock, encoder: BlockEncoder) -> Iterator[EmbeddedChunks]:
    """The block's chunks and their vectors, a window after the other. Raises StoppedError, between two batches."""

    def on_encoded(tokens: int) -> None:
        report(Done(stage="embedding", tokens=tokens))
        if encoder.is_stopping():
            raise StoppedError

    return embed_texts(
        block.read,
        frame=encoder.loaded.tokenizer.frame,
        encoder=encoder.loaded.encoder,
        budget=encoder.budget,
        on_encoded=on_encoded,
    )


class BlockRows:
    """The chunk rows of a block's documents, in their order, made as its windows of encoded chunks come in.

    Encodes nothing itself: a thread can make rows of one window while another encodes the next one.
    """

    def __init__(self, block: ReadBlock, encoder: BlockEncoder) -> None:
        self._block = block
        self._schema = encoder.schema
        self._fresh_documents = [block.documents[block.firsts_U[number]] for number in block.fresh.tolist()]
        self._largest = np.finfo(encoder.schema.field("vector").type.value_type.to_pandas_dtype()).max
        self._is_finite_F = np.ones(len(block.fresh), bool)
        self._document_R = [np.empty(0, np.int64)]
        self._spool = RowSpool(encoder.scratch, encoder.schema)

    def add(self, window: EmbeddedChunks) -> None:
        """Take the next window of the block's chunks."""
        document_N = window.texts.spans.document_N[window.chunk_N]
        self._is_finite_F[document_N[~(np.abs(window.vectors_ND) <= self._largest).all(axis=1)]] = False
        good_N = self._is_finite_F[document_N]
        self._spool.add(_rows(self._fresh_documents, window, good_N, self._schema))
        self._document_R.append(document_N[good_N])

    def finish(self) -> Block:
        """What became of the documents, when all windows are in."""
        block = self._block
        documents, text_B, texts = block.documents, block.text_B, self._texts()
        good_B = texts.lengths_U[text_B] > 0
        chosen_B = np.flatnonzero(good_B)
        is_encoded_B = _is_encoded(documents, text_B, block.firsts_U, texts)
        rows = _in_order(documents, chosen_B, text_B, texts)
        tokens_U = _document_tokens(texts)
        return Block(
            rows=rows,
            rejects=[_reject(documents[b], *texts.problems[int(text_B[b])]) for b in np.flatnonzero(~good_B).tolist()],
            counts=Counts(
                documents=len(chosen_B),
                embedded=len(chosen_B),
                chunks=rows.num_rows,
                tokens=int(tokens_U[text_B[good_B]].sum()),
                reused=int((good_B & ~is_encoded_B).sum()),
                reused_tokens=int(tokens_U[text_B[good_B & ~is_encoded_B]].sum()),
            ),
        )

    def _texts(self) -> _Texts:
        """Chunk rows of the texts of the block, those that were copied among them."""
        found, fresh = self._block.found, self._block.fresh
        rows, lengths_F, problems = self._fresh_rows()
        query_X = np.concatenate([found.query_F, fresh])
        lengths_X = np.concatenate([found.lengths_F, lengths_F])
        texts = len(self._block.firsts_U)
        start_U, lengths_U = np.zeros(texts, np.int64), np.zeros(texts, np.int64)
        start_U[query_X] = np.cumsum(lengths_X) - lengths_X
        lengths_U[query_X] = lengths_X
        is_fresh_U = np.zeros(texts, bool)
        is_fresh_U[fresh] = True
        return _Texts(
            rows=pa.concat_tables([found.rows, rows]),
            start_U=start_U,
            lengths_U=lengths_U,
            is_fresh_U=is_fresh_U,
            problems={int(fresh[number]): problem for number, problem in problems.items()},
            shared_from=found.shared_from,
        )

    def _fresh_rows(self) -> tuple[pa.Table, Integers, dict[int, tuple[str, str]]]:
        """Rows of the encoded texts that can be stored, chunks of each text, and what is wrong with the others."""
        rows = self._spool.rows()
        is_good_R = self._is_finite_F[np.concatenate(self._document_R)]
        if not is_good_R.all():  # a text whose earlier windows were well
            rows = rows.filter(pa.array(is_good_R))
        lengths_F = self._block.read.spans.lengths_B
        good_F = self._is_finite_F & (lengths_F > 0)
        problems = {
            number: (
                ("no_tokens", f"the tokenizer finds nothing in {len(self._fresh_documents[number].text)} characters")
                if lengths_F[number] == 0
                else ("not_finite", "the encoder's vector holds NaN, infinity or more than its dtype can")
            )
            for number in np.flatnonzero(~good_F).tolist()
        }
        return rows, np.where(good_F, lengths_F, 0), problems


def _rows(documents: Sequence[Document], window: EmbeddedChunks, good_N: Booleans, schema: pa.Schema) -> pa.Table:
    """Rows of the good chunks of a window."""
    texts, spans, chunk_N = window.texts, window.texts.spans, window.chunk_N[good_N]
    document_N = spans.document_N[chunk_N]
    of_chunk = pa.array(document_N)
    token_ids, new_tokens_N = texts.new_tokens(chunk_N)
    return chunk_rows(
        schema,
        doc_ids=pa.array([document.doc_id for document in documents], pa.string()).take(of_chunk),
        text_hashes=pa.array([document.text_hash for document in documents], pa.string()).take(of_chunk),
        index_N=spans.index_N[chunk_N],
        char_start_N=texts.char_start_N[chunk_N],
        char_end_N=texts.char_end_N[chunk_N],
        token_start_N=spans.start_N[chunk_N],
        token_count_N=spans.count_N[chunk_N],
        document_tokens_N=texts.token_counts_B[document_N],
        token_ids=token_ids,
        new_tokens_N=new_tokens_N,
        vectors_ND=window.vectors_ND if good_N.all() else window.vectors_ND[good_N],
    )


def _is_encoded(documents: Sequence[Document], text_B: Integers, firsts_U: Sequence[int], texts: _Texts) -> Booleans:
    """The documents whose text was encoded for them: here, or ahead of this unit and read from this very row."""
    is_encoded_B = np.zeros(len(documents), bool)
    is_encoded_B[[first for number, first in enumerate(firsts_U) if texts.is_fresh_U[number]]] = True
    for number in np.flatnonzero(np.isin(text_B, list(texts.shared_from))).tolist():
        is_encoded_B[number] = texts.shared_from[int(text_B[number])] == place_name(documents[number])
    return is_encoded_B


def _in_order(documents: Sequence[Document], chosen_B: Integers, text_B: Integers, texts: _Texts) -> pa.Table:
    """The rows of the chosen documents, under their own ids."""
    text_C = text_B[chosen_B]
    lengths_C = texts.lengths_U[text_C]
    places_N = chunk_places(texts.start_U[text_C], lengths_C)
    rows = texts.rows
    if len(places_N) != rows.num_rows or (places_N != np.arange(rows.num_rows)).any():
        rows = rows.combine_chunks().take(pa.array(places_N))
    ids = pa.array([documents[number].doc_id for number in chosen_B.tolist()], pa.string())
    column = rows.schema.get_field_index("doc_id")
    of_chunk = ids.take(pa.array(np.repeat(np.arange(len(chosen_B)), lengths_C)))
    return rows.set_column(column, rows.schema.field(column), of_chunk)


def _document_tokens(texts: _Texts) -> Integers:
    tokens_U = np.zeros(len(texts.lengths_U), np.int64)
    has_rows_U = texts.lengths_U > 0
    tokens_U[has_rows_U] = texts.rows.column("document_tokens").to_numpy()[texts.start_U[has_rows_U]]
    return tokens_U


def _reject(document: Document, reason: str, detail: str) -> Reject:
    return Reject(doc_id=document.doc_id, file=document.file, row=document.row, reason=reason, detail=detail)
