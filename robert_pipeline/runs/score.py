"""Score what is missing of some partitions with one head: every embedding shard becomes a prediction shard."""

import time
from dataclasses import dataclass

from robert_pipeline.errors import StoreError
from robert_pipeline.runs.plan import Plan
from robert_pipeline.stages.scoring import ScoreJob, ScoreTask
from robert_pipeline.storage.heads import load_head
from robert_pipeline.storage.store import open_store


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreReport:
    """What was scored, by which head."""

    head_fingerprint: str
    shard_count: int
    scored_shard_count: int
    seconds: float


def score(planned: Plan, *, model: str) -> ScoreReport:
    """Score the planned partitions' shards, those that are scored already left out.

    Raises ModelError where the head was made for another encoder or chunking, StoreError for a missing or damaged shard.
    """
    started = time.monotonic()
    head_fingerprint = load_head(model).fingerprint
    store = open_store(planned.job.store)
    key = planned.job.key
    tasks: list[ScoreTask] = []
    shard_count = 0
    for partition in planned.partitions:
        name = partition.partition
        if partition.missing:
            raise StoreError(
                f"partition '{name}' lacks {len(partition.missing)} of {len(partition.units)} embedding shards",
                fix="Run `robert embed` first",
            )
        targets = {
            unit.unit_id: store.prediction_path(head_fingerprint, key, name, unit.unit_id) for unit in partition.units
        }
        present = store.present(list(targets.values()))
        shard_count += len(targets)
        tasks += [
            ScoreTask(
                embedding_path=store.embedding_path(key, name, unit_id),
                prediction_path=target,
                unscored_path=store.unscored_path(head_fingerprint, key, name, unit_id),
            )
            for unit_id, target in targets.items()
            if target not in present
        ]
    if tasks:
        from robert_pipeline.stages.pipeline import run, score_pipeline

        job = ScoreJob(store=planned.job.store, model=model, run_id=planned.job.run_id)
        run(score_pipeline(tasks, job))
    return ScoreReport(
        head_fingerprint=head_fingerprint,
        shard_count=shard_count,
        scored_shard_count=len(tasks),
        seconds=time.monotonic() - started,
    )
