"""Whether a worker has what a run needs: the planned encoder or head, the corpus, and the very store of the run.

Asked of every worker before there is work; a worker that writes to a disk of its own would lose what it did.
"""

import contextlib
from collections.abc import Iterator

import pyarrow.fs as pafs

from robert_pipeline.errors import CorpusError, EncoderError, StoreError, first_line
from robert_pipeline.stages.embedding import EmbedJob, require_planned
from robert_pipeline.stages.scoring import ScoreJob, worker_head
from robert_pipeline.storage.encoders import identify_encoder
from robert_pipeline.storage.files import Files, temporary_name
from robert_pipeline.storage.store import open_store


@contextlib.contextmanager
def marked(store: str, run_id: str) -> Iterator[str]:
    """A mark in the store for the block, which tells it from every other; gives its path there."""
    files = open_store(store).files
    mark = temporary_name(f"run-{run_id}")
    files.write_bytes(mark, b"")
    try:
        yield mark
    finally:
        with contextlib.suppress(OSError):  # it must not hide what went wrong in between
            files.delete(mark)


def check_embedder(job: EmbedJob, mark: str) -> None:
    """Raise EncoderError, CorpusError or StoreError where this process cannot embed a unit of the job."""
    _check_store(job.store, mark)
    try:
        found = Files(job.corpus).kind() != pafs.FileType.NotFound
    except OSError as error:
        raise CorpusError(
            f"corpus {job.corpus} cannot be reached: {first_line(error)}", fix="Mend the way to it"
        ) from error
    if not found:
        raise CorpusError(
            f"corpus {job.corpus} does not exist there", fix="Put it where all workers read it under the same address"
        )
    try:
        identity = identify_encoder(job.encoder)
    except OSError as error:
        raise EncoderError(
            f"encoder {job.encoder.name} cannot be read: {first_line(error)}", fix="Restore it"
        ) from error
    require_planned(job.encoder, identity.fingerprint, job.encoder_fingerprint)


def check_scorer(job: ScoreJob, mark: str) -> None:
    """Raise ModelError or StoreError where this process cannot score a shard of the job."""
    _check_store(job.store, mark)
    worker_head(job.model, job.head_fingerprint)


def _check_store(store: str, mark: str) -> None:
    files = open_store(store).files
    try:
        found = files.exists(mark)
    except OSError as error:
        raise StoreError(f"store {store} cannot be reached: {first_line(error)}", fix="Mend the way to it") from error
    if not found:
        raise StoreError(
            f"store {store} there is not the one of this run", fix="Give a store that all workers share, such as s3://"
        )
