"""What there is to embed: the work units of some partitions, and which of them have their shard already.

Reads footers, the doc_id column, and the lengths of texts in row groups larger than a unit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from robert_pipeline.config import Columns, Embedding, Settings, fingerprint
from robert_pipeline.core.origin import VectorOrigin
from robert_pipeline.core.plan import plan_units, repeated_ids
from robert_pipeline.engine import Engine
from robert_pipeline.errors import StoreError
from robert_pipeline.native.allocator import share_freed_memory
from robert_pipeline.stages.embedding import EmbedJob
from robert_pipeline.storage.corpus import Corpus, open_corpus
from robert_pipeline.storage.encoders import EncoderIdentity, identify_encoder
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.store import open_store
from robert_pipeline.telemetry.watch import Subject, observed
from robert_pipeline.types import WorkUnit


@dataclass(frozen=True, kw_only=True, slots=True)
class PartitionPlan:
    """The units of one partition; `missing` are those without a shard."""

    partition: str
    units: tuple[WorkUnit, ...]
    missing: tuple[WorkUnit, ...]

    @property
    def document_count(self) -> int:
        """Rows of the partition, the ones that will be rejected among them."""
        return sum(unit.document_count for unit in self.units)

    @property
    def text_bytes(self) -> int:
        """Uncompressed text, from the files' footers."""
        return sum(unit.text_bytes for unit in self.units)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Some partitions of one corpus, for one encoder and one way of chunking."""

    job: EmbedJob
    encoder: EncoderIdentity
    partitions: tuple[PartitionPlan, ...]
    engine: Engine = field(default_factory=Engine)

    @property
    def missing(self) -> list[WorkUnit]:
        """Units to embed, in corpus order."""
        return [unit for partition in self.partitions for unit in partition.missing]

    @property
    def document_count(self) -> int:
        """Rows of all partitions."""
        return sum(partition.document_count for partition in self.partitions)

    @property
    def missing_document_count(self) -> int:
        """Rows of the units to embed."""
        return sum(unit.document_count for unit in self.missing)

    def require_embedded(self) -> None:
        """Raise StoreError where a shard is missing, naming the partition."""
        require_embedded(self.partitions)

    @property
    def subject(self) -> Subject:
        """Which run works on what."""
        return Subject(run_id=self.job.run_id, partitions=tuple(part.partition for part in self.partitions))

    def embedded(self) -> "Plan":
        """The same plan once its missing units have been embedded."""
        return replace(self, partitions=tuple(replace(partition, missing=()) for partition in self.partitions))


def list_partitions(settings: Settings) -> list[str]:
    """The corpus' partitions, sorted. Raises CorpusError."""
    return open_corpus(settings.corpus, settings.columns).partitions()


@observed("plan")
def plan(settings: Settings, *, partitions: Sequence[str] = (), run_id: str) -> Plan:
    """Plan the named partitions, each once, or all. Raises CorpusError or EncoderError before any work is done."""
    share_freed_memory()  # before ids are read: what Arrow's own allocator has taken by then it keeps
    corpus = open_corpus(settings.corpus, settings.columns)
    encoder = identify_encoder(settings.encoder)
    origin = VectorOrigin(encoder=settings.encoder, encoder_fingerprint=encoder.fingerprint, chunking=settings.chunking)
    job = _job(settings, origin, run_id)
    planned = _plan_partitions(corpus, job, partitions)
    return Plan(job=job, encoder=encoder, partitions=planned, engine=settings.engine)


def plan_embedded(
    settings: Settings, origin: VectorOrigin, *, partitions: Sequence[str] = (), run_id: str
) -> tuple[EmbedJob, tuple[PartitionPlan, ...]]:
    """The units of the named partitions, or all, that are embedded by `origin`: needs no encoder to be there.

    Raises CorpusError, and StoreError where a shard is missing.
    """
    job = _job(settings, origin, run_id)
    planned = _plan_partitions(open_corpus(settings.corpus, settings.columns), job, partitions)
    cut = f"--chunk-tokens {origin.chunking.chunk_tokens} --overlap-tokens {origin.chunking.overlap_tokens}"
    require_embedded(planned, fix=f"Run `robert embed --encoder {origin.encoder.name} {cut}` first")
    return job, planned


def require_embedded(partitions: Sequence[PartitionPlan], *, fix: str = "Run `robert embed` first") -> None:
    """Raise StoreError where a shard is missing, naming the partition."""
    for partition in partitions:
        if partition.missing:
            raise StoreError(
                f"partition '{partition.partition}' is not wholly embedded: {len(partition.missing)} of "
                f"{len(partition.units)} units are missing",
                fix=fix,
            )


def source_fingerprint(settings: Settings) -> str:
    """Identity of the corpus, by its address, and of the settings that cut it into units."""
    files = Files(settings.corpus)
    return fingerprint(
        "source/1",
        {
            "corpus": f"{files.filesystem.type_name}:{files.root}",
            "doc_id": settings.columns.doc_id,
            "text": settings.columns.text,
            "unit_bytes": settings.embedding.unit_bytes,
        },
    )


def corpus_documents(uri: str, columns: Columns) -> int:
    """Rows of a whole corpus, from the footers."""
    corpus = open_corpus(uri, columns)
    return sum(
        group.row_count
        for partition in corpus.partitions()
        for fragment in corpus.fragments(partition)
        for group in fragment.row_groups
    )


def _job(settings: Settings, origin: VectorOrigin, run_id: str) -> EmbedJob:
    return EmbedJob(
        corpus=settings.corpus,
        columns=settings.columns,
        store=settings.store,
        encoder=origin.encoder,
        encoder_fingerprint=origin.encoder_fingerprint,
        chunking=origin.chunking,
        embedding=settings.embedding,
        run_id=run_id,
        source_fingerprint=source_fingerprint(settings),
    )


def _plan_partitions(corpus: Corpus, job: EmbedJob, partitions: Sequence[str]) -> tuple[PartitionPlan, ...]:
    names = list(dict.fromkeys(partitions)) or corpus.partitions()
    return tuple(_plan_partition(corpus, job, name) for name in names)


def plan_units_of(settings: Settings) -> Iterator[list[WorkUnit]]:
    """The units of every partition, whatever the encoder: only the corpus and how it is cut decide them."""
    corpus = open_corpus(settings.corpus, settings.columns)
    for partition in corpus.partitions():
        yield _units(corpus, settings.embedding, partition)


def _units(corpus: Corpus, embedding: Embedding, partition: str) -> list[WorkUnit]:
    fragments = corpus.find_large(corpus.fragments(partition), above_bytes=embedding.unit_bytes)
    return plan_units(
        partition,
        fragments,
        unit_bytes=embedding.unit_bytes,
        duplicates=repeated_ids(lambda: corpus.doc_ids(fragments)),
    )


def _plan_partition(corpus: Corpus, job: EmbedJob, partition: str) -> PartitionPlan:
    units = _units(corpus, job.embedding, partition)
    store = open_store(job.store)
    paths = {unit.unit_id: store.embedding_path(job.key, partition, unit.unit_id) for unit in units}
    present = store.present(list(paths.values()))
    missing = tuple(unit for unit in units if paths[unit.unit_id] not in present)
    return PartitionPlan(partition=partition, units=tuple(units), missing=missing)
