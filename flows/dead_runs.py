"""What becomes of runs whose process or machine is gone: automations by which the server itself calls them Crashed.

Only runs of the deployments in prefect.yaml are judged: they send heartbeats.
"""

from datetime import timedelta

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType, FlowRunFilterTags
from prefect.client.schemas.objects import StateType
from prefect.events import Event, RelatedResource, Resource, get_events_client
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from flows.artifacts import OUT_OF_BOUNDS_STATE

TAG = "robert"
"""What prefect.yaml tags its deployments with, and so every run of theirs."""

SILENCE = timedelta(seconds=90)
"""Three heartbeats. The server looks every few seconds, so a dead run is found within two minutes."""

START = timedelta(seconds=100)
"""A process that has not begun its run by then will not: importing everything takes seconds."""

WATCHED = "robert.run.watched"
"""The event that says: from now on, this run should give signs of life."""

BEGUN = "prefect.flow-run.Running"
HEARTBEAT = "prefect.flow-run.heartbeat"
ENDS = {f"prefect.flow-run.{end}" for end in ("Completed", "Failed", OUT_OF_BOUNDS_STATE, "Cancelled", "Crashed")}
PUT_OFF = {f"prefect.flow-run.{state}" for state in ("Scheduled", "AwaitingConcurrencySlot", "AwaitingRetry")}
UNFINISHED = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


def crash_dead_runs() -> list[AutomationCore]:
    """A run that falls silent, and one whose process never came to begin it, are called Crashed."""
    return [
        # A run killed before its first heartbeat has none to miss, so its beginning counts as one.
        _crash("without a heartbeat", after={BEGUN, HEARTBEAT, WATCHED}, expect={HEARTBEAT, *ENDS}, within=SILENCE),
        _crash(
            "that never began",
            after={"prefect.flow-run.Pending"},
            expect={BEGUN, HEARTBEAT, *PUT_OFF, *ENDS},
            within=START,
        ),
    ]


def _crash(what: str, *, after: set[str], expect: set[str], within: timedelta) -> AutomationCore:
    seconds = f"{within.total_seconds():.0f} seconds"
    return AutomationCore(
        name=f"robert: a run {what} has crashed",
        description="Its process was killed, or its machine is gone. The next plan picks its partition up.",
        trigger=EventTrigger(
            match=ResourceSpecification(root={"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification(root={"prefect.resource.id": [f"prefect.tag.{TAG}"]}),
            after=after,
            expect=expect,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=within,
        ),
        actions=[
            ChangeFlowRunState(
                name="Crashed",
                state=StateType.CRASHED,
                message=f"no sign of life for {seconds}",
                # After a heartbeat that comes in later than the end, a run that ended well would be called crashed.
                force=False,
            )
        ],
    )


async def watch_unfinished_runs(client: PrefectClient) -> None:
    """Have every run that should be alive give a sign of life within `SILENCE`.

    A server that was away for minutes forgets whom it was waiting for: without this, a run that died with the machine
    would stay Running for ever.
    """
    wanted = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[TAG]), state=FlowRunFilterState(type=FlowRunFilterStateType(any_=UNFINISHED))
    )
    tag = RelatedResource({"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"})
    runs = await client.read_flow_runs(flow_run_filter=wanted)
    async with get_events_client() as events:
        for run in runs:
            resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.name": run.name}
            await events.emit(Event(event=WATCHED, resource=Resource(resource), related=[tag]))
