"""The child runs of a backfill on a Prefect server: one a partition, none twice, and what became of each.

Which run a partition has is decided by idempotency keys that hold its commit key and a number, so a planner that was
killed finds the runs of the one before. A server that is away for a while is waited for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import arun_deployment
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Cancelling

from robert_pipeline.config import Settings
from robert_pipeline.core.backfill import PartitionFacts
from robert_pipeline.errors import RobertError
from robert_pipeline.runs.backfill_plan import is_published

DEPLOYMENT = "label-partition/partition"
CRASHES = 3
"""A partition whose run crashed so often is given up."""

POLL_SECONDS = 2.0
SERVER_PATIENCE_SECONDS = 900.0

Value = TypeVar("Value")
Parameters = Mapping[str, str | bool | int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Child:
    """What became of one partition: `ending` is published, how its last run ended, or unknown."""

    partition: str
    ending: str
    attempts: int
    name: str
    error: str = ""


async def run_child(settings: Settings, fact: PartitionFacts, parameters: Parameters, *, tag: str) -> Child:
    """Have a partition run until the ledger holds it, or its run failed; a run that crashed is followed by another.

    `settings` must name the head. Runs of an earlier planner are joined, those that have ended are passed over.
    """
    number = crashes = attempts = 0
    while True:
        number += 1
        key = f"backfill/{fact.current_key}/{fact.partition}/{number}"
        run = await _patiently(lambda key=key: _start(fact.partition, parameters, key=key, tag=tag))  # type: ignore[misc]
        joined = run.state is not None and run.state.is_final()
        if not joined:
            attempts += 1
            run = await _ended(run.id)
        state = run.state
        try:
            published = not joined and await _patiently(lambda: _is_published(settings, fact.partition))
        except RobertError as unknown:  # of this partition: it must not stop the others
            return Child(
                partition=fact.partition, ending="unknown", attempts=attempts, name=run.name, error=str(unknown)
            )
        if published:
            return Child(partition=fact.partition, ending="published", attempts=attempts, name=run.name)
        if joined:
            continue
        assert state is not None  # noqa: S101 - it has ended
        if state.type is StateType.CRASHED and (crashes := crashes + 1) < CRASHES:
            continue
        error = state.message or "it ended well, but the table does not hold it"
        return Child(
            partition=fact.partition,
            ending=state.name or state.type.value,
            attempts=attempts,
            name=run.name,
            error=error,
        )


async def cancel_children(tag: str) -> int:
    """Cancel every run with the tag that has not ended; gives their number."""
    async with get_client() as client:
        runs = await client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[tag])))
        running = [run for run in runs if run.state is not None and not run.state.is_final()]
        for run in running:
            await client.set_flow_run_state(run.id, Cancelling(message="the backfill was cancelled"))
        return len(running)


async def _start(partition: str, parameters: Parameters, *, key: str, tag: str) -> FlowRun:
    """The run with this key, made unless it exists."""
    run = await arun_deployment(
        DEPLOYMENT,
        parameters={**parameters, "partition": partition},
        flow_run_name=f"label {partition}",
        timeout=0,
        tags=["backfill", tag],
        idempotency_key=key,
        as_subflow=False,
    )
    if tag not in run.tags and run.state is not None and not run.state.is_final():
        async with get_client() as client:  # whoever cancels this backfill means it too
            await client.update_flow_run(run.id, tags=[*run.tags, tag])
    return run


async def _ended(run_id: UUID) -> FlowRun:
    async def read() -> FlowRun:
        async with get_client() as client:
            return await _read(client, run_id)

    while True:
        run = await _patiently(read)
        if run.state is not None and run.state.is_final():
            return run
        await asyncio.sleep(POLL_SECONDS)


async def _read(client: PrefectClient, run_id: UUID) -> FlowRun:
    return await client.read_flow_run(run_id)


async def _is_published(settings: Settings, partition: str) -> bool:
    return await asyncio.to_thread(is_published, settings, partition, run_id="backfill")


async def _patiently(call: Callable[[], Awaitable[Value]]) -> Value:
    """Call until the server, or the ledger, answers. Raises what it answers, and after a while that it is away."""
    deadline = asyncio.get_running_loop().time() + SERVER_PATIENCE_SECONDS
    while True:
        try:
            return await call()
        except (httpx.TransportError, RuntimeError, PrefectHTTPStatusError, RobertError) as error:
            if not _is_away(error) or asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(POLL_SECONDS)


def _is_away(error: Exception) -> bool:
    if isinstance(error, RobertError):
        return error.transient
    return not isinstance(error, PrefectHTTPStatusError) or error.response.status_code >= 500
