"""What the server is told to do by itself, on a real server."""

import asyncio
import json
import sys

import pytest

PLAIN = "robert: a run without a heartbeat has crashed"


def on_server(call):
    """What a call with a client gives."""
    from prefect.client.orchestration import get_client

    async def run():
        async with get_client() as client:
            return await call(client)

    return asyncio.run(run())


@pytest.fixture
def pager(prefect):
    """A webhook block; gives its name."""
    from prefect.blocks.webhook import Webhook

    Webhook(url="http://127.0.0.1:9/hook").save("pager", overwrite=True)
    return "webhook/pager"


def test_made_twice_nothing_changes_and_what_was_paused_stays_paused(pager):
    """Every start would make the server forget the runs it waits for, or undo what an operator has set."""
    from flows.automations import make

    def stored():
        """As the server keeps them: with the ids of triggers, which every change makes anew."""
        found = on_server(lambda client: client._client.post("/automations/filter", json={})).json()
        return {made["name"]: {**made, "updated": None} for made in found}

    asyncio.run(make([pager], [], only_show=False))
    first = stored()
    assert len(first) == 5
    on_server(lambda client: client.pause_automation(first[PLAIN]["id"]))
    asyncio.run(make([pager], [], only_show=False))
    assert stored() == {**first, PLAIN: {**first[PLAIN], "enabled": False}}


def test_an_automation_that_has_changed_is_changed_on_the_server(pager):
    """Alerts would go to the block that was named first, for ever."""
    from prefect.blocks.webhook import Webhook

    from flows.automations import make

    asyncio.run(make([pager], [], only_show=False))
    other = Webhook(url="http://127.0.0.1:9/other").save("other", overwrite=True)
    asyncio.run(make(["webhook/other"], [], only_show=False))
    (late,) = on_server(lambda client: client.read_automations_by_name("robert: a run is late"))
    assert [action.block_document_id for action in late.actions] == [other]


def test_they_are_shown_as_what_prefect_creates_them_from(pager, monkeypatch, capsys):
    """An operator who keeps automations in files would have to write them by hand."""
    from prefect.events.schemas.automations import AutomationCore

    from flows.automations import main

    monkeypatch.setattr(sys, "argv", ["automations", "--json", "--notify", pager])
    main()
    shown = [AutomationCore.model_validate(made) for made in json.loads(capsys.readouterr().out)]
    assert {action.type for made in shown for action in made.actions} == {"change-flow-run-state", "call-webhook"}


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--notify", "webhook/nobody", "the server has no block 'webhook/nobody'. `prefect block ls` lists"),
        ("--notify", "nonsense", "the server has no block 'nonsense'"),
        ("--notify", "secret/quiet", "the block 'secret/quiet' sends nothing. Name one that notifies"),
        ("--run", "no/body", "the server has no deployment 'no/body'. `prefect deployment ls` lists"),
        ("--run", "nonsense", "a deployment is named FLOW/DEPLOYMENT, not 'nonsense'"),
        ("--run", "deaf/deaf", "the flow of deployment 'deaf/deaf' takes no parameter 'alert'"),
    ],
)
def test_an_action_that_cannot_act_is_one_line(prefect, monkeypatch, capsys, option, value, said):
    """Nobody would be told, and nobody would know that."""
    from prefect import flow
    from prefect.blocks.system import Secret

    from flows.automations import main

    Secret(value="hush").save("quiet", overwrite=True)

    @flow(name="deaf")
    def deaf():
        """Takes nothing."""

    async def deploy(client):
        made = await client.create_flow(deaf)
        await client.create_deployment(flow_id=made, name="deaf", parameter_openapi_schema={"properties": {}})

    on_server(deploy)
    monkeypatch.setattr(sys, "argv", ["automations", option, value])
    with pytest.raises(SystemExit, match="1"):
        main()
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {said}")
    assert shown.count("\n") == 1


def test_a_server_that_is_not_there_is_one_line(prefect, monkeypatch, capsys):
    """Prefect would start a server that ends with the command, and the automations would be made there."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.automations import main

    monkeypatch.setattr(sys, "argv", ["automations"])
    for address, said in ((None, "no Prefect server is named"), ("http://127.0.0.1:9/api", "gives no answer")):
        with temporary_settings({PREFECT_API_URL: address}), pytest.raises(SystemExit, match="1"):
            main()
        assert said in (shown := capsys.readouterr().err)
        assert shown.count("\n") == 1
