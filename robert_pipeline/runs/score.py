"""Score what is missing of some partitions with one head: every embedding shard becomes a prediction shard."""

import time
from dataclasses import dataclass

from robert_pipeline.core.model import TrainedHead
from robert_pipeline.runs.plan import Plan
from robert_pipeline.stages.scoring import ScoreJob, ShardName
from robert_pipeline.storage.heads import load_head
from robert_pipeline.storage.store import open_store
from robert_pipeline.telemetry.watch import observed


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreReport:
    """What was scored, by which head."""

    head_fingerprint: str
    shard_count: int
    scored_shard_count: int
    seconds: float


def load_head_for(planned: Plan, *, model: str) -> TrainedHead:
    """The head in folder `model`. Raises ModelError unless it was made for the plan's encoder and chunking."""
    head = load_head(model)
    head.check_shard(
        where=f"the store for encoder '{planned.job.encoder.name}'",
        encoder_fingerprint=planned.job.encoder_fingerprint,
        chunking_fingerprint=planned.job.chunking.fingerprint,
        dimension=planned.encoder.dimension,
    )
    return head


@observed("score")
def score(planned: Plan, *, model: str, contributions: bool = False) -> ScoreReport:
    """Score the planned partitions' shards, those that are scored already left out.

    With `contributions`, every chunk's contribution is written to a side table in the store, also of shards that were
    scored without. Raises ModelError where the head was
    made for another encoder or chunking, StoreError for a missing or damaged shard.
    """
    started = time.monotonic()
    head = load_head_for(planned, model=model)
    planned.require_embedded()
    job = ScoreJob(
        store=planned.job.store,
        model=model,
        head_fingerprint=head.fingerprint,
        key=planned.job.key,
        run_id=planned.job.run_id,
        contributions=contributions,
    )
    missing = [shard for shard, is_scored in _shards(planned, job) if not is_scored]
    if missing:
        from robert_pipeline.stages.pipeline import score_shards

        score_shards(missing, job, planned.engine)
    return ScoreReport(
        head_fingerprint=head.fingerprint,
        shard_count=sum(len(partition.units) for partition in planned.partitions),
        scored_shard_count=len(missing),
        seconds=time.monotonic() - started,
    )


def _shards(planned: Plan, job: ScoreJob) -> list[tuple[ShardName, bool]]:
    """Every shard of the plan, and whether it is scored."""
    store = open_store(job.store)
    shards: list[tuple[ShardName, bool]] = []
    for partition in planned.partitions:
        name = partition.partition
        kinds = [store.prediction_path, *([store.contribution_path] if job.contributions else [])]
        done = {unit.unit_id for unit in partition.units}
        for path_of in kinds:
            paths = {unit_id: path_of(job.head_fingerprint, job.key, name, unit_id) for unit_id in done}
            present = store.present(list(paths.values()))
            done = {unit_id for unit_id, path in paths.items() if path in present}
        shards += [(ShardName(partition=name, unit_id=unit.unit_id), unit.unit_id in done) for unit in partition.units]
    return shards
