"""Replace a partition of the published tables by its prediction shards, in one commit a table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from robert_pipeline.config import Settings, fingerprint
from robert_pipeline.errors import AccountingError
from robert_pipeline.runs.plan import PartitionPlan, Plan
from robert_pipeline.storage.predictions import open_predictions
from robert_pipeline.storage.rejects import read_rejects
from robert_pipeline.storage.store import Store, open_store
from robert_pipeline.storage.warehouse import Commit, open_warehouse
from schemas import PREDICTIONS, REJECTS


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedPartition:
    """One partition of the published table: documents = labelled + rejected."""

    partition: str
    documents: int
    labelled: int
    rejected: int
    commit: Commit


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishReport:
    """What was published, and where it is."""

    partitions: tuple[PublishedPartition, ...]
    location: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shards:
    """The files that hold a partition's outcome."""

    predictions: list[str]
    rejects: list[str]


def publish(settings: Settings, planned: Plan, *, head_fingerprint: str) -> PublishReport:
    """Publish the planned partitions as scored by one head.

    Raises AccountingError, before anything of a partition changes, where labelled and rejected rows do not add up to
    the partition's documents.
    """
    sink = open_warehouse(settings.warehouse)
    sink.check()
    store = open_store(settings.store)
    done: list[PublishedPartition] = []
    for partition in planned.partitions:
        shards = _shards(store, planned, partition, head_fingerprint)
        key = _commit_key(planned, partition, head_fingerprint)
        rejects = _rejects(store, shards)
        labelled = sum(open_predictions(store.files, path).row_count for path in shards.predictions)
        if labelled + rejects.num_rows != partition.document_count:
            raise AccountingError(
                f"partition '{partition.partition}' has {partition.document_count} documents, but {labelled} "
                f"labelled and {rejects.num_rows} rejected; nothing was published",
                fix="Run `robert score` again",
            )
        # The rejects first: once the predictions are committed, the partition is published.
        sink.replace_partition("rejects", partition.partition, rejects.to_batches(), key)
        commit = sink.replace_partition(
            "predictions", partition.partition, _predictions(store, shards.predictions), key
        )
        done.append(
            PublishedPartition(
                partition=partition.partition,
                documents=partition.document_count,
                labelled=labelled,
                rejected=rejects.num_rows,
                commit=commit,
            )
        )
    return PublishReport(partitions=tuple(done), location=sink.location("predictions"))


def _shards(store: Store, planned: Plan, partition: PartitionPlan, head_fingerprint: str) -> _Shards:
    key, name = planned.job.key, partition.partition
    unit_ids = [unit.unit_id for unit in partition.units]
    return _Shards(
        predictions=[store.prediction_path(head_fingerprint, key, name, unit) for unit in unit_ids],
        rejects=[
            path
            for unit in unit_ids
            for path in (
                store.reject_path(key, name, unit),
                store.unscored_path(head_fingerprint, key, name, unit),
            )
        ],
    )


def _commit_key(planned: Plan, partition: PartitionPlan, head_fingerprint: str) -> str:
    """The same for the same rows: contracts, embedding, head, and the units."""
    return fingerprint(
        "commit/1",
        {
            "contracts": [PREDICTIONS.version, REJECTS.version],
            "embedding": planned.job.key.folder,
            "head": head_fingerprint,
            "units": [unit.unit_id for unit in partition.units],
        },
    )


def _rejects(store: Store, shards: _Shards) -> pa.Table:
    present: set[str] = set()
    for folder in {path.rpartition("/")[0] for path in shards.rejects}:
        present |= {entry.path for entry in store.files.list(folder)}
    tables = [read_rejects(store.files, path) for path in shards.rejects if path in present]
    return pa.concat_tables([REJECTS.schema.empty_table(), *tables])


def _predictions(store: Store, paths: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for path in paths:
        yield from open_predictions(store.files, path).batches()
