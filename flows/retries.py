"""What a task tries again: what may go away by itself, and not what only its own fix takes away."""

from typing import Any

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

from robert_pipeline.errors import RobertError

RETRIES = 2
RETRY_SECONDS: list[float] = [10, 60]


async def is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Retry what may go away by itself; of what was raised on purpose, what says so."""
    error = await state.aresult(raise_on_failure=False)
    return error.transient if isinstance(error, RobertError) else True
