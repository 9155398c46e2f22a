"""What became of a partition: its labelled rows and its rejects, every document accounted for."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from robert_pipeline.config import fingerprint
from robert_pipeline.errors import AccountingError
from robert_pipeline.runs.plan import PartitionPlan, Plan
from robert_pipeline.storage.predictions import PredictionShard, open_predictions
from robert_pipeline.storage.rejects import read_rejects
from robert_pipeline.storage.store import Store, open_store
from schemas import REJECTS


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One partition, scored by one head: documents = labelled + rejected."""

    partition: str
    labelled: int
    rejects: pa.Table
    shards: tuple[PredictionShard, ...]

    @property
    def documents(self) -> int:
        """Rows of the corpus partition."""
        return self.labelled + int(self.rejects.num_rows)

    @property
    def fingerprint(self) -> str:
        """Changes when other rows are labelled: from how many are, and which are rejected why."""
        columns = ["doc_id", "file", "row", "reason", "detail"]
        rows = sorted("|".join(map(str, row.values())) for row in self.rejects.select(columns).to_pylist())
        return fingerprint("outcome/1", {"labelled": self.labelled, "rejected": rows})

    def predictions(self) -> Iterator[pa.RecordBatch]:
        """The labelled rows, in corpus order, in the contract's schema."""
        for shard in self.shards:
            yield from shard.batches()


def partition_outcome(planned: Plan, partition: PartitionPlan, head_fingerprint: str) -> Outcome:
    """Gather a scored partition. Raises AccountingError where a document is neither labelled nor rejected, or both."""
    store = open_store(planned.job.store)
    key, name = planned.job.key, partition.partition
    shards = tuple(
        open_predictions(store.files, store.prediction_path(head_fingerprint, key, name, unit.unit_id))
        for unit in partition.units
    )
    rejects = _rejects(
        store,
        [store.reject_path(key, name, unit.unit_id) for unit in partition.units]
        + [store.unscored_path(head_fingerprint, key, name, unit.unit_id) for unit in partition.units],
    )
    outcome = Outcome(partition=name, labelled=sum(shard.row_count for shard in shards), rejects=rejects, shards=shards)
    if outcome.documents != partition.document_count:
        raise AccountingError(
            f"partition '{name}' has {partition.document_count} documents, but {outcome.labelled} were labelled and "
            f"{rejects.num_rows} rejected; nothing was published",
            fix="Delete its prediction shards and run `robert score` again",
        )
    return outcome


def _rejects(store: Store, paths: list[str]) -> pa.Table:
    present: set[str] = set()
    for folder in {path.rpartition("/")[0] for path in paths}:
        present |= {entry.path for entry in store.files.list(folder)}
    tables = [read_rejects(store.files, path) for path in paths if path in present]
    return pa.concat_tables([REJECTS.schema.empty_table(), *tables])
