"""What the server does by itself: it calls dead runs Crashed and, where it is told whom to tell, tells of trouble.

`python -m flows.automations` makes the automations, or prints them with `--json`; a second time changes nothing.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL

from flows.alerts import alerts, find_block, find_deployment
from flows.dead_runs import crash_dead_runs, watch_unfinished_runs
from robert_pipeline.errors import RobertError, first_line
from robert_pipeline.terminal import error_console, say


class ServerError(RobertError):
    """No Prefect server is named, or the one that is does not answer."""


async def ensure_automations(client: PrefectClient, automations: Sequence[AutomationCore]) -> None:
    """Have the server keep these, under their names. One that somebody has paused stays paused."""
    for wanted in automations:
        found = await client.read_automations_by_name(wanted.name)
        if not found:
            await client.create_automation(wanted)
            continue
        kept = wanted.model_copy(update={"enabled": found[0].enabled})
        # A change makes the server forget which runs it is waiting for.
        if found[0].model_dump(include=set(AutomationCore.model_fields)) != kept.model_dump():
            await client.update_automation(found[0].id, kept)


async def make(notify: Sequence[str], run: Sequence[str], *, only_show: bool) -> list[AutomationCore]:
    """The automations, with alerts where blocks or deployments are named; on the server unless only shown."""
    automations = crash_dead_runs()
    if only_show and not (notify or run):
        return automations
    async with _server() as client:
        actions = [await find_block(client, slug) for slug in notify]
        actions += [await find_deployment(client, name) for name in run]
        automations += alerts(actions)
        if not only_show:
            await ensure_automations(client, automations)
            await watch_unfinished_runs(client)
    return automations


@asynccontextmanager
async def _server() -> AsyncIterator[PrefectClient]:
    """The server of PREFECT_API_URL; without one, Prefect would start a server that ends with this process."""
    address = PREFECT_API_URL.value()
    if not address:
        raise ServerError("no Prefect server is named", fix="Set PREFECT_API_URL, such as http://127.0.0.1:4200/api")
    try:
        async with get_client() as client:
            yield client
    except (httpx.TransportError, RuntimeError, PrefectHTTPStatusError) as error:
        fix = "Start it, or set PREFECT_API_URL (and PREFECT_API_AUTH_STRING) to one that runs"
        raise ServerError(f"the Prefect server at {address} gives no answer: {first_line(error)}", fix=fix) from error


def main() -> None:
    """Make the automations, or print them."""
    parser = argparse.ArgumentParser(prog="python -m flows.automations", description=__doc__)
    told = "what tells of runs that failed or are late and of partitions out of bounds; repeatable"
    parser.add_argument("--notify", action="append", default=[], metavar="TYPE/NAME", help=f"a block, {told}")
    parser.add_argument("--run", action="append", default=[], metavar="FLOW/DEPLOYMENT", help=f"a deployment, {told}")
    parser.add_argument("--json", action="store_true", help="print what would be made, for `prefect automation create`")
    options = parser.parse_args()
    try:
        automations = asyncio.run(make(options.notify, options.run, only_show=options.json))
    except RobertError as error:
        error_console().print(f"error: {error}", soft_wrap=True, markup=False)
        sys.exit(1)
    shown = [automation.model_dump(mode="json", exclude_none=True) for automation in automations]
    say(json.dumps(shown, indent=2) if options.json else "\n".join(automation.name for automation in automations))


if __name__ == "__main__":
    main()
