"""What a task tries again: what may go away by itself, and not what names its own fix."""

from typing import Any

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

from robert_pipeline.errors import RobertError

RETRIES = 2
RETRY_SECONDS: list[float] = [10, 60]


async def is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Retry what may go away by itself; what names its own fix will not."""
    return not isinstance(await state.aresult(raise_on_failure=False), RobertError)
