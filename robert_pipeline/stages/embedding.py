"""Embed one work unit: rows of a corpus in, one embedding shard (and its reject shard, if any row is rejected) out.

Streams the unit in blocks, so memory does not grow with it. Knows no engine: imports nothing beyond torch,
transformers, pyarrow and numpy.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from robert_pipeline.config import Chunking, Columns, Embedding, EncoderSource
from robert_pipeline.core.embed import BatchBudget, EmbeddedTexts, embed_texts
from robert_pipeline.errors import EncoderError
from robert_pipeline.stages.progress import Done, report
from robert_pipeline.storage.corpus import read_unit
from robert_pipeline.storage.encoders import LoadedEncoder, load_encoder
from robert_pipeline.storage.rejects import reject_rows, write_rejects
from robert_pipeline.storage.shards import ShardHeader, ShardWriter, chunk_rows
from robert_pipeline.storage.store import EmbeddingKey, open_store
from robert_pipeline.types import Counts, Document, Reject, Stamp, WorkUnit

Clock = Callable[[], float]
_loading = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedJob:
    """What every unit of a run has in common. Travels to the workers with the units."""

    corpus: str
    columns: Columns
    store: str
    encoder: EncoderSource
    encoder_fingerprint: str
    chunking: Chunking
    embedding: Embedding
    run_id: str

    @property
    def key(self) -> EmbeddingKey:
        """Where the job's shards lie."""
        return EmbeddingKey(
            encoder_fingerprint=self.encoder_fingerprint,
            chunking_fingerprint=self.chunking.fingerprint,
            vector_dtype=self.embedding.vector_dtype,
        )


def worker_encoder(source: EncoderSource, expected_fingerprint: str) -> LoadedEncoder:
    """The encoder of this process, loaded once. Raises EncoderError where the run was planned with another."""
    with _loading:  # an engine may set up several threads at once
        return _load_planned(source, expected_fingerprint)


@lru_cache(maxsize=1)
def _load_planned(source: EncoderSource, expected_fingerprint: str) -> LoadedEncoder:
    loaded = load_encoder(source)
    if loaded.identity.fingerprint != expected_fingerprint:
        raise EncoderError(
            f"encoder '{source.name}' is {loaded.identity.fingerprint} on this worker, the run was planned with "
            f"{expected_fingerprint}",
            fix="Give all workers the same checkpoint, and pin --precision where their processors differ",
        )
    return loaded


@lru_cache(maxsize=8)
def _worker_budget(_encoder_fingerprint: str, batch_tokens: int) -> BatchBudget:
    # One a process: what fitted into memory in one unit is what the next one starts with.
    return BatchBudget(tokens=batch_tokens)


def embed_unit(unit: WorkUnit, job: EmbedJob, loaded: LoadedEncoder, *, clock: Clock = time.time) -> Counts:
    """Write the unit's shard unless it exists; return what became of its rows (nothing where it existed).

    Raises CorpusError, StoreError or ConfigError; a row that cannot be embedded becomes a reject.
    """
    loaded.check_fits(job.chunking)
    store = open_store(job.store)
    path = store.embedding_path(job.key, unit.partition, unit.unit_id)
    if store.files.exists(path):
        return Counts()
    started = clock()
    budget = _worker_budget(job.encoder_fingerprint, job.embedding.batch_tokens or loaded.encoder.batch_tokens)
    rejects: list[Reject] = []
    counts = Counts()
    with store.files.writing(path) as temporary:
        writer = ShardWriter(temporary, dimension=loaded.encoder.dimension, vector_dtype=job.embedding.vector_dtype)
        rows = read_unit(job.corpus, job.columns, unit)
        for documents in _blocks(rows, rejects, job.embedding.block_bytes):
            counts += _embed_block(documents, job.chunking, loaded, budget, writer, rejects)
        counts += Counts(documents=len(rejects), rejected=len(rejects))
        stamp = Stamp(run_id=job.run_id, at_us=int(clock() * 1e6))
        header = ShardHeader(
            encoder_fingerprint=job.encoder_fingerprint,
            chunking_fingerprint=job.chunking.fingerprint,
            partition=unit.partition,
            unit_id=unit.unit_id,
            counts=counts,
            dimension=loaded.encoder.dimension,
            vector_dtype=job.embedding.vector_dtype,
            run_id=job.run_id,
            embed_seconds=clock() - started,
            encoder_use=loaded.encoder.take_use(seconds=clock() - started),
        )
        writer.close(header)
        if rejects:
            # Before the shard: once the shard exists the unit is done, and its rejects must be there.
            rejects.sort(key=lambda reject: (reject.file, reject.row))
            place = store.reject_path(job.key, unit.partition, unit.unit_id)
            write_rejects(store.files, place, reject_rows(rejects, partition=unit.partition, stamp=stamp))
    report(Done(stage="embedding", documents=len(rejects)))
    return counts


def _blocks(rows: Iterator[Document | Reject], rejects: list[Reject], block_bytes: int) -> Iterator[list[Document]]:
    """Documents in lists of about `block_bytes` of text; rejects are put aside."""
    block: list[Document] = []
    held = 0
    for row in rows:
        if isinstance(row, Reject):
            rejects.append(row)
            continue
        block.append(row)
        held += len(row.text.encode())
        if held >= block_bytes:
            yield block
            block, held = [], 0
    if block:
        yield block


def _embed_block(
    documents: list[Document],
    chunking: Chunking,
    loaded: LoadedEncoder,
    budget: BatchBudget,
    writer: ShardWriter,
    rejects: list[Reject],
) -> Counts:
    embedded = embed_texts(
        [document.text for document in documents],
        tokenizer=loaded.tokenizer,
        encoder=loaded.encoder,
        chunking=chunking,
        budget=budget,
        on_encoded=lambda tokens: report(Done(stage="embedding", tokens=tokens)),
    )
    good_B, good_N = _good(documents, embedded, writer, rejects)
    spans = embedded.spans
    document_N = spans.document_N[good_N]
    token_ids, new_tokens_N = embedded.new_tokens(good_N)
    doc_ids = pa.array([document.doc_id for document in documents], pa.string())
    text_hashes = pa.array([document.text_hash for document in documents], pa.string())
    writer.write(
        chunk_rows(
            writer.schema,
            doc_ids=doc_ids.take(pa.array(document_N)),
            text_hashes=text_hashes.take(pa.array(document_N)),
            index_N=spans.index_N[good_N],
            char_start_N=embedded.char_start_N[good_N],
            char_end_N=embedded.char_end_N[good_N],
            token_start_N=spans.start_N[good_N],
            token_count_N=spans.count_N[good_N],
            document_tokens_N=embedded.token_counts_B[document_N],
            token_ids=token_ids,
            new_tokens_N=new_tokens_N,
            vectors_ND=embedded.vectors_ND[good_N],
        )
    )
    report(Done(stage="embedding", documents=int(good_B.sum())))
    return Counts(
        documents=int(good_B.sum()),
        embedded=int(good_B.sum()),
        chunks=int(good_N.sum()),
        tokens=int(embedded.token_counts_B[good_B].sum()),
    )


def _good(
    documents: list[Document], embedded: EmbeddedTexts, writer: ShardWriter, rejects: list[Reject]
) -> tuple[np.ndarray, np.ndarray]:
    """Which documents and which chunks can be stored; the others are put aside with a reason."""
    spans = embedded.spans
    largest = np.finfo(np.float16).max if writer.is_float16 else np.finfo(np.float32).max
    finite_N = (np.abs(embedded.vectors_ND) <= largest).all(axis=1)
    good_B = spans.lengths_B > 0
    good_B[spans.document_N[~finite_N]] = False
    for index in np.flatnonzero(~good_B):
        document = documents[index]
        if spans.lengths_B[index] == 0:
            reason, detail = "no_tokens", f"the tokenizer finds nothing in {len(document.text)} characters"
        else:
            reason, detail = (
                "not_finite",
                "the encoder's vector holds NaN, infinity or more than its dtype can",
            )
        rejects.append(
            Reject(doc_id=document.doc_id, file=document.file, row=document.row, reason=reason, detail=detail)
        )
    return good_B, good_B[spans.document_N]
