"""What the server does by itself: a run that gives no sign of life for 90 seconds is called Crashed.

`python -m flows.automations` makes it, or prints it as JSON with `--json`; a second time changes nothing.
"""

import argparse
import asyncio
import json
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect.events.schemas.automations import AutomationCore

NAME = "robert: a run without a heartbeat has crashed"
SILENCE = timedelta(seconds=90)
"""Three heartbeats. The server looks every few seconds, so a dead run is found within two minutes."""


def crash_silent_runs() -> "AutomationCore":
    """After a heartbeat, either the next one or an end must follow; where neither does, the run is called Crashed."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    ends = ("Completed", "Failed", "Cancelled", "Crashed")
    return AutomationCore(
        name=NAME,
        description="Its process was killed, or its machine is gone. The next plan picks its partition up.",
        trigger=EventTrigger(
            match=ResourceSpecification(root={"prefect.resource.id": ["prefect.flow-run.*"]}),
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{end}" for end in ends)},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                name="Crashed",
                state=StateType.CRASHED,
                message=f"no sign of life for {SILENCE.total_seconds():.0f} seconds",
                force=True,
            )
        ],
    )


async def ensure_automations() -> None:
    """Make the automation on the server unless it is there."""
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        if not await client.read_automations_by_name(NAME):
            await client.create_automation(crash_silent_runs())


def main() -> None:
    """Make the automations, or print them."""
    parser = argparse.ArgumentParser(prog="python -m flows.automations", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print what would be made, for `prefect automation create`")
    if parser.parse_args().json:
        from robert_pipeline.terminal import say

        say(json.dumps(crash_silent_runs().model_dump(mode="json", exclude_none=True), indent=2))
    else:
        asyncio.run(ensure_automations())


if __name__ == "__main__":
    main()
