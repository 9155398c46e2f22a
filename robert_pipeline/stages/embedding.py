"""Embed one work unit: rows of a corpus in, one embedding shard (and its reject shard, if any row is rejected) out.

Streams the unit in blocks, so memory does not grow with it. Knows no engine: imports nothing beyond torch,
transformers, pyarrow and numpy.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import pyarrow as pa

from robert_pipeline.config import Chunking, Columns, Embedding, EncoderSource
from robert_pipeline.core.embed import BatchBudget
from robert_pipeline.core.gpu_busy import GpuBusy
from robert_pipeline.errors import EncoderError
from robert_pipeline.native.allocator import give_back_memory
from robert_pipeline.stages.at_once import StoppedError, Stopping
from robert_pipeline.stages.block import BlockEncoder, BlockRows, encoded, place_name, read_block
from robert_pipeline.stages.overlap import ahead, behind
from robert_pipeline.stages.progress import Done, report
from robert_pipeline.storage.content_index import open_index
from robert_pipeline.storage.corpus import read_unit
from robert_pipeline.storage.encoders import LoadedEncoder, load_encoder
from robert_pipeline.storage.known_texts import KnownTexts
from robert_pipeline.storage.rejects import reject_rows, write_rejects
from robert_pipeline.storage.shards import ShardHeader, ShardWriter
from robert_pipeline.storage.store import SHARED_TEXTS, EmbeddingKey, Store, open_store
from robert_pipeline.types import Counts, Document, Reject, SharedTexts, Stamp, WorkUnit

Clock = Callable[[], float]
FIRST_BLOCK_SHARE = 16
"""A unit's first block is so much smaller than the others, the next one four times as large as the first."""
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
    source_fingerprint: str = ""
    """Identity of the corpus and of the settings that cut it into units."""
    replaces: bool = False
    """Embed units that have their shard too, and put the new one in its place."""

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
    require_planned(source, loaded.identity.fingerprint, expected_fingerprint)
    return loaded


def require_planned(source: EncoderSource, found_fingerprint: str, expected_fingerprint: str) -> None:
    """Raise EncoderError where this worker's encoder is another than the run was planned with."""
    if found_fingerprint != expected_fingerprint:
        raise EncoderError(
            f"encoder '{source.name}' is {found_fingerprint} on this worker, the run was planned with "
            f"{expected_fingerprint}",
            fix="Give all workers the same checkpoint, and pin --precision where their processors differ",
        )


@lru_cache(maxsize=8)
def _worker_budget(_encoder_fingerprint: str, batch_tokens: int) -> BatchBudget:
    # One a process: what fitted into memory in one unit is what the next one starts with, and those beside it.
    return BatchBudget(tokens=batch_tokens, give_back=give_back_memory)


def embed_unit(
    unit: WorkUnit,
    job: EmbedJob,
    loaded: LoadedEncoder,
    *,
    clock: Clock = time.time,
    is_stopping: Stopping = lambda: False,
) -> Counts:
    """Write the unit's shard unless it exists; return what became of its rows (nothing where it existed).

    A text that the store's index knows is copied, not encoded. Raises CorpusError, StoreError or ConfigError, and
    StoppedError when `is_stopping` says so; a row that cannot be embedded becomes a reject.
    """
    store = open_store(job.store)
    path = store.embedding_path(job.key, unit.partition, unit.unit_id)
    if not job.replaces and store.files.exists(path):
        return Counts()
    rejects: list[Reject] = []

    def documents() -> Iterator[Document]:
        for row in read_unit(job.corpus, job.columns, unit):
            if isinstance(row, Reject):
                rejects.append(row)
            else:
                yield row

    with store.files.writing(path) as temporary:
        header = _write_shard(
            temporary, documents(), job, loaded, store, rejects, clock=clock, is_stopping=is_stopping, of=unit
        )
        if job.replaces:
            # From here until the new shard is in place the unit counts as missing: its rejects are changing.
            store.files.delete(path)
        # Before the shard: once the shard exists the unit is done, and its rejects must be there.
        place = store.reject_path(job.key, unit.partition, unit.unit_id)
        if rejects:
            stamp = Stamp(run_id=job.run_id, at_us=int(clock() * 1e6))
            rejects.sort(key=lambda reject: (reject.file, reject.row))
            write_rejects(store.files, place, reject_rows(rejects, partition=unit.partition, stamp=stamp))
        else:
            store.files.delete(place)  # of an earlier embedding of the unit
    return header.counts


def embed_shared(
    shared: SharedTexts,
    job: EmbedJob,
    loaded: LoadedEncoder,
    *,
    clock: Clock = time.time,
    is_stopping: Stopping = lambda: False,
) -> Counts:
    """Write a shard of texts that several documents have, for their units to copy from; nothing where it exists.

    Raises what `embed_unit` raises. A text that cannot be embedded is left out: its units will reject it.
    """
    store = open_store(job.store)
    path = store.embedding_path(job.key, SHARED_TEXTS, shared.name)
    if store.files.exists(path):
        return Counts()

    def documents() -> Iterator[Document]:
        for unit, rows in shared.picks:
            wanted = set(rows)
            for number, row in enumerate(read_unit(job.corpus, job.columns, unit)):
                if number in wanted and isinstance(row, Document):
                    yield replace(row, doc_id=place_name(row))

    with store.files.writing(path) as temporary:
        header = _write_shard(
            temporary, documents(), job, loaded, store, [], clock=clock, is_stopping=is_stopping, of=shared
        )
    return header.counts


def _write_shard(
    place: Path,
    documents: Iterator[Document],
    job: EmbedJob,
    loaded: LoadedEncoder,
    store: Store,
    rejects: list[Reject],
    *,
    clock: Clock,
    is_stopping: Stopping,
    of: WorkUnit | SharedTexts,
) -> ShardHeader:
    """Embed `documents` into a shard at `place`. `rejects`, to which the reading adds its own, gets those that fail."""
    loaded.check_fits(job.chunking)
    started = clock()
    writer = ShardWriter(place, dimension=loaded.encoder.dimension, vector_dtype=job.embedding.vector_dtype)
    encoder = _block_encoder(job, loaded, store, writer.schema, scratch=place.parent, is_stopping=is_stopping)
    is_unit, is_gpu = isinstance(of, WorkUnit), loaded.encoder.device.type == "cuda"
    counts = Counts()

    def put_away(rows: BlockRows) -> None:
        nonlocal counts
        done = rows.finish()
        writer.write(done.rows)
        rejects.extend(done.rejects)  # the thread that reads adds to them too: no step between, and sorted at the end
        counts += done.counts
        if is_unit:
            report(Done(stage="embedding", documents=done.counts.documents))

    # A GPU, or half of two cores, would have nothing to do while texts are read, and rows made and written.
    blocks = (read_block(block, encoder) for block in _blocks(documents, job.embedding.block_bytes))
    with loaded.encoder.counting(clock) as take_use:
        with GpuBusy(loaded.encoder.device) as gpu, behind() as later:
            for block in ahead(blocks):
                if is_stopping():  # encoding asks too, but of texts that are known nothing is encoded
                    raise StoppedError
                rows = BlockRows(block, encoder)
                for window in encoded(block, encoder):
                    later(partial(rows.add, window))
                later(partial(put_away, rows))
                if not is_gpu:
                    give_back_memory()
        use = take_use() + gpu.use
    if is_gpu:  # once a unit, of which there are several at once
        give_back_memory()
    if is_unit:
        report(Done(stage="embedding", documents=len(rejects)))
        counts += Counts(documents=len(rejects), rejected=len(rejects))
    header = ShardHeader(
        encoder_fingerprint=job.encoder_fingerprint,
        chunking_fingerprint=job.chunking.fingerprint,
        partition=of.partition if isinstance(of, WorkUnit) else SHARED_TEXTS,
        unit_id=of.unit_id if isinstance(of, WorkUnit) else of.name,
        counts=counts,
        dimension=loaded.encoder.dimension,
        vector_dtype=job.embedding.vector_dtype,
        run_id=job.run_id,
        embed_seconds=clock() - started,
        encoder_use=use,
        encoder_name=job.encoder.name,
        source_fingerprint=job.source_fingerprint,
    )
    writer.close(header)
    return header


def _block_encoder(
    job: EmbedJob, loaded: LoadedEncoder, store: Store, schema: pa.Schema, *, scratch: Path, is_stopping: Stopping
) -> BlockEncoder:
    with _loading:
        budget = _worker_budget(job.encoder_fingerprint, job.embedding.batch_tokens or loaded.encoder.batch_tokens)
    return BlockEncoder(
        loaded=loaded,
        chunking=job.chunking,
        budget=budget,
        schema=schema,
        known=KnownTexts(store, open_index(store, job.key), schema),
        scratch=scratch,
        is_stopping=is_stopping,
    )


def _blocks(documents: Iterator[Document], block_bytes: int) -> Iterator[list[Document]]:
    """Documents in lists of about `block_bytes` of text; one that is larger is alone, and its rows a row group.

    The first lists are smaller: the encoder has nothing to do until the first one is read.
    """
    block: list[Document] = []
    held, enough = 0, max(1, block_bytes // FIRST_BLOCK_SHARE)
    for document in documents:
        text_bytes = len(document.text.encode())
        if text_bytes > block_bytes and block:
            yield block
            block, held = [], 0
        block.append(document)
        held += text_bytes
        if held >= enough:
            yield block
            block, held, enough = [], 0, min(block_bytes, 4 * enough)
    if block:
        yield block
