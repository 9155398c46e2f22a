"""The flow that labels history on a Prefect server: plans from the ledger, then one run a partition on the workers.

It embeds and publishes nothing itself. Killed and started again, it joins the runs that it had started.
"""

import asyncio
import time
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import prefect.runtime
from prefect import Flow, flow, get_run_logger
from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)
from prefect.client.schemas.objects import FlowRun, State
from pydantic import Field

from flows.artifacts import backfill_rows, backfill_summary
from flows.children import Child, Parameters, cancel_children, run_child
from robert_pipeline.core.backfill import Reprocess
from robert_pipeline.core.price import SECONDS_PER_HOUR
from robert_pipeline.errors import RobertError
from robert_pipeline.runs.backfill_plan import BackfillPlan, Selection, plan_backfill
from robert_pipeline.runs.identity import new_run_id
from robert_pipeline.storage.run_records import tokens_since
from robert_pipeline.storage.settings import load_settings


class BackfillError(RobertError):
    """Some partitions of a backfill were not published."""


async def _cancel(flow: "Flow[..., Any]", flow_run: FlowRun, state: "State[Any]") -> None:  # noqa: ARG001 - a hook
    await cancel_children(tag_of(str(flow_run.id)))


def tag_of(flow_run_id: str) -> str:
    """What the child runs of a backfill are tagged with."""
    return f"backfill-of-{flow_run_id}"


@flow(
    name="backfill",
    flow_run_name="backfill {since} to {until}, {reprocess}",
    persist_result=False,
    on_cancellation=[_cancel],
)
async def backfill(
    config: str = "robert.toml",
    since: date | None = None,
    until: date | None = None,
    reprocess: Reprocess = "none",
    max_active: Annotated[int, Field(ge=1)] | None = None,
    newest_first: bool = False,
    dry_run: bool = False,
    price_per_hour: Annotated[float, Field(ge=0)] | None = None,
    budget: Annotated[float, Field(ge=0)] | None = None,
    force: bool = False,
) -> None:
    """Label the partitions that the published table lacks, or holds from an older head.

    The price stands in an artifact before anything runs. Cancelling this run cancels the runs of its partitions.

    Args:
        config: Path of robert.toml, the settings file, on the worker's machine.
        since: First day. None: the oldest.
        until: Last day, included. None: the newest.
        reprocess: What to run besides partitions that were never published. none: nothing; failed: those that failed;
            stale: also those made by another head, encoder, contract or from other documents; completed: all.
        max_active: Partitions at the same time. None: what the settings say.
        newest_first: Begin with the last day.
        dry_run: Show the plan and its price; run nothing.
        price_per_hour: What an hour of a worker costs, in any currency. None: what the settings say.
        budget: Refuse to start above this cost, and start no further partition once it is spent.
        force: Publish also what is outside the bounds that the settings set.
    """
    log = get_run_logger()
    run_id = new_run_id()
    selection = Selection(since=since, until=until, reprocess=reprocess, newest_first=newest_first)
    settings = load_settings({}, file=Path(config), like_head=True)
    planned = await asyncio.to_thread(plan_backfill, settings, selection, run_id=run_id, price_per_hour=price_per_hour)
    await acreate_markdown_artifact(backfill_summary(planned.estimate), key="backfill-price", description=run_id)
    log.info("run %s: %d of %d partitions to run", run_id, len(planned.chosen), len(planned.facts))
    planned.estimate.check_budget(budget)
    if dry_run or not planned.chosen:
        return
    active = min(max_active or settings.operations.max_active, len(planned.chosen))
    started = time.time()
    children = await _run_all(planned, config=config, force=force, active=active, budget=budget, started=started)
    await acreate_table_artifact(backfill_rows(children), key="backfill", description=f"run {run_id}")
    hours = (time.time() - started) / SECONDS_PER_HOUR
    tokens = await asyncio.to_thread(tokens_since, settings.store, [c.partition for c in children], started)
    summary = backfill_summary(planned.estimate, hours=hours, tokens=tokens)
    await acreate_markdown_artifact(summary, key="backfill-price", description=run_id)
    if undone := [child for child in children if child.ending != "published"]:
        raise BackfillError(
            f"{len(undone)} of {len(children)} partitions were not published: "
            f"{', '.join(child.partition for child in undone[:5])}{', …' if len(undone) > 5 else ''}",
            fix="Look at their runs; run the backfill again with reprocess 'failed'",
        )


async def _run_all(
    planned: BackfillPlan, *, config: str, force: bool, active: int, budget: float | None, started: float
) -> list[Child]:
    slots = asyncio.Semaphore(active)
    bar = await acreate_progress_artifact(0.0, key="backfill-progress", description=f"{len(planned.chosen)} partitions")
    tag = tag_of(str(prefect.runtime.flow_run.id))
    price = planned.estimate.price_per_hour
    ended: list[Child] = []

    def is_spent() -> bool:
        hours = (time.time() - started) / SECONDS_PER_HOUR
        return budget is not None and price is not None and hours * price > budget

    async def run(index: int) -> Child:
        fact = planned.chosen[index]
        async with slots:
            if is_spent():
                child = Child(
                    partition=fact.partition, ending="not started", attempts=0, name="", error="the budget is spent"
                )
            else:
                parameters: Parameters = {"config": config, "force": force, "active": active}
                child = await run_child(planned.settings, fact, parameters, tag=tag)
        ended.append(child)
        await aupdate_progress_artifact(bar, 100 * len(ended) / len(planned.chosen))
        return child

    return list(await asyncio.gather(*(run(index) for index in range(len(planned.chosen)))))
