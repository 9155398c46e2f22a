"""What the deployments on a server need besides prefect.yaml: the settings file, the slots for embedding, automations.

`python -m flows.setup SETTINGS SLOTS`, as `make serve` calls it; a second time changes nothing.
"""

import asyncio
import sys

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate

from flows.automations import ensure_automations
from flows.dead_runs import crash_dead_runs, watch_unfinished_runs
from flows.partition import EMBEDDING_LIMIT

DEPLOYMENTS = ("label-partition/nightly", "label-partition/partition", "backfill/history")


async def set_up(config: str, embedding_slots: int) -> None:
    """Give every deployment the settings file, embedding its slots, and the server its automations."""
    async with get_client() as client:
        await client.upsert_global_concurrency_limit_by_name(EMBEDDING_LIMIT, embedding_slots)
        for name in DEPLOYMENTS:
            deployment = await client.read_deployment_by_name(name)
            parameters = {**deployment.parameters, "config": config}
            await client.update_deployment(deployment.id, DeploymentUpdate(parameters=parameters))
        await ensure_automations(client, crash_dead_runs())
        await watch_unfinished_runs(client)


if __name__ == "__main__":
    asyncio.run(set_up(sys.argv[1], int(sys.argv[2])))
