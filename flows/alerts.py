"""Whom the server tells of trouble: automations that act on runs that fail or are late, on partitions out of bounds.

The action is the operator's: a block that sends messages, a webhook block, or a deployment to run.
"""

from collections.abc import Sequence

from prefect.client.orchestration import PrefectClient
from prefect.events.actions import ActionTypes, CallWebhook, RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound

from flows.artifacts import OUT_OF_BOUNDS
from flows.dead_runs import TAG
from robert_pipeline.errors import RobertError

EVENTS = {
    "a run failed": ("prefect.flow-run.Failed", "prefect.flow-run.Crashed"),
    "a run is late": ("prefect.flow-run.Late",),
    "a partition is out of bounds": (OUT_OF_BOUNDS,),
}
"""What is told, and the events that say it. A run out of bounds ends in a state of its own, so it is told once."""

# Jinja, for the server. Events of ours say what was wrong in the payload, Prefect's in the state; a run that is late
# has no name of its own yet, so the deployment is named too.
_MESSAGE = "(event.payload.message or event.payload.validated_state.message or '')"
_DEPLOYMENT = "(flow.name ~ '/' ~ (deployment.name if deployment else 'by hand'))"
_SUBJECT = f"automation.name ~ ': ' ~ event.resource.name ~ ', ' ~ {_DEPLOYMENT}"
_PAYLOAD = (
    "{{ {'text': " + f"{_SUBJECT} ~ ('. ' if {_MESSAGE} else '') ~ {_MESSAGE}, "
    "'alert': automation.name, 'event': event.event, 'what': event.resource.name, "
    f"'message': {_MESSAGE}, 'deployment': {_DEPLOYMENT}, "
    "'run': flow_run.name, 'parameters': flow_run.parameters, 'url': flow_run | ui_url} | tojson }}"
)
PARAMETER = "alert"
"""What a deployment to run gets the payload in."""

_DEPLOYMENTS = "`prefect deployment ls` lists those there are"


class AlertError(RobertError):
    """What is to be told cannot be: no such block or deployment, or one of the wrong kind."""


def alerts(actions: Sequence[ActionTypes]) -> list[AutomationCore]:
    """One automation for each kind of trouble, so that each can be paused; none without an action."""
    return [_alert(what, events, actions) for what, events in EVENTS.items()] if actions else []


async def find_block(client: PrefectClient, slug: str) -> ActionTypes:
    """The action that sends through a block, named as `prefect block ls` does: type/name."""
    kind, _, name = slug.partition("/")
    try:
        block = await client.read_block_document_by_name(name, kind, include_secrets=False)
    except ObjectNotFound as error:
        fix = "`prefect block ls` lists those there are, as TYPE/NAME"
        raise AlertError(f"the server has no block '{slug}'", fix=fix) from error
    capabilities = block.block_schema.capabilities if block.block_schema else []
    if kind == "webhook":
        return CallWebhook(block_document_id=block.id, payload=_PAYLOAD)
    if "notify" in capabilities:
        return SendNotification(
            block_document_id=block.id,
            subject="{{ " + _SUBJECT + " }}",
            body="{{ " + _MESSAGE + " }}\n{{ flow_run | ui_url }}",
        )
    raise AlertError(f"the block '{slug}' sends nothing", fix="Name one that notifies, such as Slack's, or a webhook")


async def find_deployment(client: PrefectClient, name: str) -> ActionTypes:
    """The action that runs a deployment, named flow/deployment, whose flow takes a parameter `alert`."""
    if "/" not in name:
        raise AlertError(f"a deployment is named FLOW/DEPLOYMENT, not '{name}'", fix=_DEPLOYMENTS)
    try:
        deployment = await client.read_deployment_by_name(name)
    except ObjectNotFound as error:
        raise AlertError(f"the server has no deployment '{name}'", fix=_DEPLOYMENTS) from error
    if PARAMETER not in (deployment.parameter_openapi_schema or {}).get("properties", {}):
        fix = f"Give it `{PARAMETER}: dict`, which says what happened"
        raise AlertError(f"the flow of deployment '{name}' takes no parameter '{PARAMETER}'", fix=fix)
    template = {"__prefect_kind": "json", "value": {"__prefect_kind": "jinja", "template": _PAYLOAD}}
    return RunDeployment(
        source="selected", deployment_id=deployment.id, parameters={PARAMETER: template}, job_variables=None
    )


def _alert(what: str, events: Sequence[str], actions: Sequence[ActionTypes]) -> AutomationCore:
    return AutomationCore(
        name=f"robert: {what}",
        description="Made by `python -m flows.automations`.",
        trigger=EventTrigger(
            match_related=ResourceSpecification(root={"prefect.resource.id": [f"prefect.tag.{TAG}"]}),
            expect=set(events),
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=list(actions),
    )
