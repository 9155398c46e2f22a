"""Look at every byte of a shard: seal, page checksums, contract, counts, fingerprints, finite vectors.

A shard's place enters; StoreError, naming file and fault, leaves where it is not what it should be. Changes nothing.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from robert_pipeline.errors import StoreError
from robert_pipeline.storage.contributions import read_contributions
from robert_pipeline.storage.predictions import open_predictions
from robert_pipeline.storage.rejects import read_rejects
from robert_pipeline.storage.shards import ChunkTable, open_shard
from robert_pipeline.storage.store import ShardPlace, Store, partition_folder
from robert_pipeline.types import Counts


def audit(store: Store, place: ShardPlace) -> None:
    """Check one shard, and that the shards which belong to it agree with it. Raises StoreError."""
    check = {
        "embeddings": _audit_embeddings,
        "rejects": _audit_rejects,
        "unscored": _audit_rejects,
        "predictions": _audit_predictions,
        "contributions": _audit_contributions,
    }[place.kind]
    check(store, place)


def _audit_embeddings(store: Store, place: ShardPlace) -> None:
    shard = open_shard(store.files, place.entry.path)
    loaded = shard.load(check_pages=True)
    found = Counts()
    for number in range(loaded.table_count):
        table = loaded.table(number)
        _audit_chunks(store, place, table)
        tokens_B = table.rows.column("document_tokens").to_numpy()[table.first_rows]
        found += Counts(embedded=len(table.lengths_B), chunks=table.rows.num_rows, tokens=int(tokens_B.sum()))
    counts = shard.header.counts
    stated = Counts(embedded=counts.embedded, chunks=counts.chunks, tokens=counts.tokens)
    if found != stated:
        raise _fault(store, place, f"it holds {_said(found)}, its header says {_said(stated)}")
    if counts.documents != counts.embedded + counts.rejected:
        raise _fault(store, place, f"{counts.embedded} embedded and {counts.rejected} rejected of {counts.documents}")
    path = store.reject_path(place.key, shard.header.partition, place.unit_id)
    try:
        rejected = read_rejects(store.files, path).num_rows
    except StoreError as error:
        if error.transient:
            raise
        return  # found when the rejects themselves are looked at
    if counts.rejected != rejected:
        raise _fault(store, place, f"{counts.rejected} rows were rejected, {store.files.describe(path)} has {rejected}")


def _audit_chunks(store: Store, place: ShardPlace, table: ChunkTable) -> None:
    rows = table.rows
    index_N = rows.column("chunk_index").to_numpy()
    document_N = np.repeat(np.arange(len(table.lengths_B)), table.lengths_B)
    if (index_N != np.arange(len(index_N)) - table.first_rows[document_N]).any():
        raise _fault(store, place, "the chunks of a document are not in order, or not all there")
    for column in ("doc_id", "text_hash", "document_tokens"):
        values = rows.column(column)
        if not pc.all(pc.equal(values, values.take(pa.array(table.first_rows[document_N])))).as_py():
            raise _fault(store, place, f"the chunks of a document differ in '{column}'")
    if not np.isfinite(table.vectors_ND).all():
        raise _fault(store, place, "a vector holds NaN or infinity")


def _audit_rejects(store: Store, place: ShardPlace) -> None:
    rows = read_rejects(store.files, place.entry.path)
    _check_partition(store, place, rows.column("partition"))


def _audit_predictions(store: Store, place: ShardPlace) -> None:
    shard = open_predictions(store.files, place.entry.path)
    expected = {
        "head_fingerprint": place.head,
        "encoder_fingerprint": place.key.encoder_fingerprint,
        "chunking_fingerprint": place.key.chunking_fingerprint,
    }
    rows = 0
    for batch in shard.batches(check_pages=True):
        rows += batch.num_rows
        _check_partition(store, place, batch.column("partition"))
        for column, value in expected.items():
            if not pc.all(pc.equal(batch.column(column), value)).as_py():
                raise _fault(store, place, f"a row's {column} is not {value}")
        if not pc.all(pc.is_finite(batch.column("probability"))).as_py():
            raise _fault(store, place, "a probability is NaN or infinity")
    _audit_scored(store, place, rows)


def _audit_scored(store: Store, place: ShardPlace, rows: int) -> None:
    """Every embedded document was labelled, or rejected when it was scored."""
    try:
        embedded = open_shard(store.files, place.beside("embeddings")).header.counts.embedded
        unscored = read_rejects(store.files, place.beside("unscored")).num_rows
    except StoreError as error:
        if error.transient:
            raise
        return  # found when these themselves are looked at
    if rows + unscored != embedded:
        raise _fault(store, place, f"{rows} labelled and {unscored} rejected of {embedded} embedded documents")


def _audit_contributions(store: Store, place: ShardPlace) -> None:
    rows = read_contributions(store.files, place.entry.path)
    _check_partition(store, place, rows.column("partition"))
    if not pc.all(pc.equal(rows.column("head_fingerprint"), place.head)).as_py():
        raise _fault(store, place, f"a row's head_fingerprint is not {place.head}")
    if not pc.all(pc.is_finite(rows.column("contribution"))).as_py():
        raise _fault(store, place, "a contribution is NaN or infinity")


def _check_partition(store: Store, place: ShardPlace, names: pa.ChunkedArray) -> None:
    for name in pc.unique(names).to_pylist():
        if partition_folder(name) != place.partition_folder:
            raise _fault(store, place, f"a row is of partition '{name}'")


def _said(counts: Counts) -> str:
    return f"{counts.embedded} documents, {counts.chunks} chunks, {counts.tokens} tokens"


def _fault(store: Store, place: ShardPlace, problem: str) -> StoreError:
    return StoreError(
        f"{place.kind} {store.files.describe(place.entry.path)} are damaged: {problem}", fix="Run `robert store verify`"
    )
