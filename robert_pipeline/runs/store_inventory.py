"""What a store holds: every embedding shard with its header, and the size of everything else."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from robert_pipeline.errors import StoreError
from robert_pipeline.storage.shards import ShardHeader, open_shard
from robert_pipeline.storage.store import SHARD_KINDS, EmbeddingKey, ShardPlace, Store, open_store, partition_folder
from robert_pipeline.types import Counts

READERS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class PartitionListing:
    """The shards of one partition under one embedding key."""

    key: EmbeddingKey
    encoder_name: str
    partition: str
    shard_count: int
    counts: Counts
    embedding_bytes: int
    scored_by: tuple[str, ...]
    """Fingerprints of the heads that have scored all of its shards."""
    unreadable: int
    """Shards whose footer cannot be read; they are in no count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderStats:
    """All that a store holds under one embedding key."""

    key: EmbeddingKey
    encoder_name: str
    dimension: int
    shard_count: int
    counts: Counts
    embedding_bytes: int

    @property
    def bytes_per_chunk(self) -> float:
        """On disk, places and hashes of the chunk included."""
        return self.embedding_bytes / self.counts.chunks if self.counts.chunks else 0.0

    @property
    def reuse_rate(self) -> float:
        """Share of the embedded documents whose vectors were copied and not encoded."""
        return self.counts.reused / self.counts.embedded if self.counts.embedded else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreStats:
    """The whole store."""

    encoders: tuple[EncoderStats, ...]
    bytes_of: dict[str, int]
    """Bytes by folder: embeddings, rejects, predictions, unscored, index, surveys, quarantine."""
    unreadable: int


def list_store(uri: str) -> list[PartitionListing]:
    """The store's partitions, by key and name. Raises StoreError where there is none, or it cannot be reached."""
    store = open_store(uri)
    places = _some(store, store.shards("embeddings", "predictions"))
    scored: dict[tuple[str, str], dict[str, set[str]]] = {}
    for place in places:
        if place.kind == "predictions" and place.head is not None:
            heads = scored.setdefault((place.key.folder, place.partition_folder), {})
            heads.setdefault(place.head, set()).add(place.unit_id)
    groups: dict[tuple[str, str], list[tuple[ShardPlace, ShardHeader | None]]] = {}
    for place, header in read_headers(store, [place for place in places if place.kind == "embeddings"]):
        groups.setdefault((place.key.folder, place.partition_folder), []).append((place, header))
    return [_listing(name, group, scored.get(name, {})) for name, group in sorted(groups.items())]


def store_stats(uri: str) -> StoreStats:
    """Documents, chunks, bytes and reuse by encoder. Raises StoreError where there is none, or it cannot be reached."""
    store = open_store(uri)
    by_key: dict[str, list[tuple[ShardPlace, ShardHeader]]] = {}
    unreadable = 0
    for place, header in read_headers(store, _some(store, store.shards("embeddings"))):
        if header is None:
            unreadable += 1
        else:
            by_key.setdefault(place.key.folder, []).append((place, header))
    bytes_of = dict.fromkeys((*SHARD_KINDS, "index", "surveys", "quarantine"), 0)
    for folder in bytes_of:
        bytes_of[folder] = sum(entry.size_bytes for entry in store.files.list(folder))
    return StoreStats(
        encoders=tuple(_stats(by_key[folder]) for folder in sorted(by_key)), bytes_of=bytes_of, unreadable=unreadable
    )


def _some(store: Store, places: list[ShardPlace]) -> list[ShardPlace]:
    if not places:
        raise StoreError(f"store {store.files.describe()} holds no shards", fix="Name another with --store, or embed")
    return places


def read_headers(store: Store, places: Sequence[ShardPlace]) -> Iterator[tuple[ShardPlace, ShardHeader | None]]:
    """Embedding shards and their headers, None for one that is damaged. Raises StoreError where one cannot be read."""

    def header(place: ShardPlace) -> ShardHeader | None:
        try:
            return open_shard(store.files, place.entry.path).header
        except StoreError as error:
            if error.transient:
                raise
            return None

    with ThreadPoolExecutor(READERS, thread_name_prefix="headers") as readers:
        yield from zip(places, readers.map(header, places), strict=True)


def _listing(
    name: tuple[str, str], group: Sequence[tuple[ShardPlace, ShardHeader | None]], scored: dict[str, set[str]]
) -> PartitionListing:
    headers = [header for _, header in group if header is not None]
    units = {place.unit_id for place, _ in group}
    return PartitionListing(
        key=group[0][0].key,
        encoder_name=headers[-1].encoder_name if headers else "",
        partition=_partition(name[1], headers),
        shard_count=len(group),
        counts=sum((header.counts for header in headers), Counts()),
        embedding_bytes=sum(place.entry.size_bytes for place, _ in group),
        scored_by=tuple(sorted(head for head, done in scored.items() if units <= done)),
        unreadable=len(group) - len(headers),
    )


def _partition(folder: str, headers: Sequence[ShardHeader]) -> str:
    if headers and partition_folder(headers[0].partition) == folder:
        return headers[0].partition or "(texts shared by documents of a running embed)"
    return folder


def _stats(group: Sequence[tuple[ShardPlace, ShardHeader]]) -> EncoderStats:
    newest = max((header for _, header in group), key=lambda header: header.run_id)
    return EncoderStats(
        key=newest.key,
        encoder_name=newest.encoder_name,
        dimension=newest.dimension,
        shard_count=len(group),
        counts=sum((header.counts for _, header in group), Counts()),
        embedding_bytes=sum(place.entry.size_bytes for place, _ in group),
    )
