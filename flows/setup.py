"""Deploy the flows on a Prefect server: work pool, the deployments of prefect.yaml, settings file, slots, automations.

`python -m flows.setup SETTINGS SLOTS`, in the folder of prefect.yaml, with PREFECT_API_URL set; `make serve` and the
services of infra/ call it, again and again. SETTINGS is the file on the workers, SLOTS how many runs may embed at once.
"""

import asyncio
import subprocess
import sys

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate

from flows.automations import ensure_automations
from flows.dead_runs import crash_dead_runs, watch_unfinished_runs
from flows.partition import EMBEDDING_LIMIT
from flows.serve import POOL

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


def deploy() -> None:
    """Work pool and deployments of the prefect.yaml in the current folder, where workers will look for the flows."""
    for arguments in (("work-pool", "create", POOL, "--type", "process", "--overwrite"), ("deploy", "--all")):
        command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
        subprocess.run(command, check=True)  # noqa: S603 - this program's own words


if __name__ == "__main__":
    deploy()
    asyncio.run(set_up(sys.argv[1], int(sys.argv[2])))
