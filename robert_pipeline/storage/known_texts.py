"""Vectors that the store has already: text hashes enter, the chunk rows of those that were found leave.

Never trusts the index: a row is handed out only where its shard's seal and name are right and its text hash is the one
that was asked for, whole. A shard that is damaged or gone is as good as unknown: its texts are embedded again.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from robert_pipeline.errors import StoreError
from robert_pipeline.storage.content_index import ContentIndex, Location
from robert_pipeline.storage.shards import ChunkTable, LoadedShard, open_shard
from robert_pipeline.storage.store import SHARED_TEXTS, Store

log = logging.getLogger(__name__)

Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundTexts:
    """Chunk rows of the texts that were found, in the embeddings schema. F texts, their order has no meaning."""

    rows: pa.Table
    query_F: Integers
    """Which of the hashes asked for each text is."""
    lengths_F: Integers
    """Its chunks."""
    shared_from: dict[int, str]
    """For texts that this run encoded ahead of their units: query to the place of the document it was read from."""


class KnownTexts:
    """Looks texts up and fetches their vectors. Holds the two shards last read, and one row group of one."""

    def __init__(self, store: Store, index: ContentIndex, schema: pa.Schema) -> None:
        self._store = store
        self._index = index
        self._schema = schema
        self._loaded: dict[str, LoadedShard | None] = {}
        self._table: tuple[Location, ChunkTable] | None = None

    def fetch(self, text_hashes: Sequence[str]) -> FoundTexts:
        """The vectors of those of `text_hashes`, all different, that some shard holds."""
        places = [list(reversed(found)) for found in self._index.find(text_hashes)]
        rows: list[pa.Table] = [self._schema.empty_table()]
        query_F: list[int] = []
        lengths: list[Integers] = [np.empty(0, np.int64)]
        shared_from: dict[int, str] = {}
        waiting = list(range(len(text_hashes)))
        while by_place := _next_places(waiting, places):
            waiting = []
            for location in sorted(by_place, key=lambda place: (place.path, place.row_group)):
                asked = by_place[location]
                table = self._read(location)
                documents = {} if table is None else _documents(table)
                found = [query for query in asked if text_hashes[query] in documents]
                waiting += [query for query in asked if text_hashes[query] not in documents]
                if table is not None and found:
                    chosen = np.array([documents[text_hashes[query]] for query in found])
                    rows.append(
                        table.rows.take(pa.array(chunk_places(table.first_rows[chosen], table.lengths_B[chosen])))
                    )
                    query_F += found
                    lengths.append(table.lengths_B[chosen])
                    if self._is_shared(location):
                        doc_ids = table.rows.column("doc_id").take(pa.array(table.first_rows[chosen])).to_pylist()
                        shared_from |= dict(zip(found, doc_ids, strict=True))
        return FoundTexts(
            rows=pa.concat_tables(rows),
            query_F=np.array(query_F, np.int64),
            lengths_F=np.concatenate(lengths),
            shared_from=shared_from,
        )

    def _is_shared(self, location: Location) -> bool:
        loaded = self._loaded.get(location.path)
        return loaded is not None and loaded.header.partition == SHARED_TEXTS

    def _read(self, location: Location) -> ChunkTable | None:
        if self._table is not None and self._table[0] == location:
            return self._table[1]
        loaded = self._load(location.path)
        if loaded is None or location.row_group >= loaded.table_count:
            return None
        try:
            table = loaded.table(location.row_group)
        except StoreError as error:
            self._forget(location.path, error)
            return None
        self._table = location, table
        return table

    def _load(self, path: str) -> LoadedShard | None:
        if path not in self._loaded:
            held = [name for name, shard in self._loaded.items() if shard is not None]
            if len(held) > 1:
                del self._loaded[held[0]]
            try:
                self._loaded[path] = open_shard(self._store.files, path).load()
            except StoreError as error:
                self._forget(path, error)
        return self._loaded[path]

    def _forget(self, path: str, error: StoreError) -> None:
        self._loaded[path] = None
        if self._store.files.exists(path):  # one that was removed is no fault
            log.warning("%s; until then its texts are embedded again where they are needed", str(error).rstrip("."))


def chunk_places(starts_B: Integers, lengths_B: Integers) -> Integers:
    """The rows of all chunks of documents that begin at `starts_B`, one document after the other."""
    ends_B = np.cumsum(lengths_B)
    places_N: Integers = np.repeat(starts_B - (ends_B - lengths_B), lengths_B) + np.arange(int(lengths_B.sum()))
    return places_N


def _next_places(waiting: Sequence[int], places: list[list[Location]]) -> dict[Location, list[int]]:
    by_place: dict[Location, list[int]] = defaultdict(list)
    for query in waiting:
        if places[query]:
            by_place[places[query].pop()].append(query)
    return by_place


def _documents(table: ChunkTable) -> dict[str, int]:
    hashes = table.rows.column("text_hash").take(pa.array(table.first_rows)).to_pylist()
    return {text_hash: number for number, text_hash in enumerate(hashes)}
