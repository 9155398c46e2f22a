"""Ask every worker of a Dask cluster something before there is work, and name those that are unfit.

Runs beside the cluster's tasks, so busy workers answer too.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import distributed

from robert_pipeline.errors import EngineError, RobertError, first_line

PACKAGES = (
    "apache-beam",
    "cloudpickle",
    "dask",
    "distributed",
    "numpy",
    "pyarrow",
    "tokenizers",
    "torch",
    "transformers",
)
"""What travels between processes is theirs, or they decide a vector."""

MOST_CLOCK_SKEW_SECONDS = 30.0
"""Rows carry the time of the worker that wrote them."""

ASKED_AT_ONCE = 32
NAMED_AT_MOST = 3

Facts = Mapping[str, str | float]


def ask(client: distributed.Client, workers: Sequence[str], check: Callable[[], Any], *, patience_seconds: int) -> None:
    """Have every worker run `check`. Raises what it raises, with the worker's name, or EngineError."""
    for worker, answer in _answers(client, workers, _in_a_thread(check), patience_seconds).items():
        if isinstance(answer, RobertError):
            raise type(answer)(f"Dask worker {worker}: {answer.problem}", fix=answer.fix) from answer
        if isinstance(answer, BaseException):
            raise EngineError(
                f"Dask worker {worker} cannot work: {type(answer).__name__}: {first_line(answer)}",
                fix="Mend it, or take it out of the cluster",
            ) from answer


def require_same_release(client: distributed.Client, workers: Sequence[str], *, patience_seconds: int) -> None:
    """Raise EngineError where one lacks the package, has another version of what matters, or another clock.

    The scheduler is asked too.
    """
    question = _facts_of(PACKAGES)
    own = asyncio.run(question())
    before = time.time()
    # The scheduler reads what it hands out, and cannot do that without the package either.
    answers = {f"scheduler {client.scheduler.address}": client.run_on_scheduler(question)}
    answers |= {f"worker {name}": said for name, said in _answers(client, workers, question, patience_seconds).items()}
    after = time.time()
    faults: list[str] = []
    for who, answer in answers.items():
        if isinstance(answer, BaseException):
            raise EngineError(f"Dask {who} does not say what it has: {first_line(answer)}") from answer
        faults += _faults(who, own, answer, before, after)
    if faults:
        more = f", and {len(faults) - NAMED_AT_MOST} more" if len(faults) > NAMED_AT_MOST else ""
        raise EngineError(
            "; ".join(faults[:NAMED_AT_MOST]) + more,
            fix="Give all workers the same release, best one image, and clocks that are kept in time",
        )


def _faults(who: str, own: Facts, found: Facts, before: float, after: float) -> list[str]:
    differing = [
        f"{name} {found[name]} (here {own[name]})" if found[name] else f"no {name} (here {own[name]})"
        for name in own
        if name != "clock" and found[name] != own[name]
    ]
    faults = [f"Dask {who} has {', '.join(differing)}"] if differing else []
    clock = float(found["clock"])
    skew = max(before - clock, clock - after)
    if skew > MOST_CLOCK_SKEW_SECONDS:
        faults.append(f"the clock of Dask {who} is {skew:,.0f} s {'slow' if clock < before else 'fast'}")
    return faults


def _answers(
    client: distributed.Client, workers: Sequence[str], question: Callable[[], Any], patience_seconds: int
) -> dict[str, Any]:
    """What every worker says; an exception that it raised is an answer. Raises EngineError where one says nothing."""
    pool = ThreadPoolExecutor(ASKED_AT_ONCE, "ask")
    try:
        asked = {worker: pool.submit(client.run, question, workers=[worker], on_error="return") for worker in workers}
        wait(asked.values(), timeout=patience_seconds)
        silent = [worker for worker, answer in asked.items() if not answer.done()]
        if silent:
            raise EngineError(
                f"Dask worker {silent[0]} did not answer within {patience_seconds} s"
                + (f", nor did {len(silent) - 1} more" if len(silent) > 1 else ""),
                fix="Mend it or take it out of the cluster; with a model to download, give a longer --engine-patience",
                transient=True,
            )
        answers: dict[str, Any] = {}
        for worker, answer in asked.items():
            if (error := answer.exception()) is not None:
                raise EngineError(f"Dask worker {worker} cannot be asked: {first_line(error)}") from error
            answers.update(answer.result())
        return answers
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _facts_of(packages: Sequence[str]) -> Callable[[], Any]:
    """A question for a worker that may lack this very package: a closure that travels whole, not by its name."""

    async def facts() -> dict[str, str | float]:
        import importlib
        import importlib.metadata
        import sys
        import time

        def version(package: str) -> str:
            try:
                # A build for another device is the same release.
                return importlib.metadata.version(package).partition("+")[0]
            except importlib.metadata.PackageNotFoundError:
                return ""

        try:
            own = importlib.import_module("robert_pipeline").__version__
        except ImportError:
            own = ""
        return {
            "robert_pipeline": own,
            "Python": f"{sys.version_info[0]}.{sys.version_info[1]}",
            **{package: version(package) for package in packages},
            "clock": time.time(),
        }

    return facts


def _in_a_thread(check: Callable[[], Any]) -> Callable[[], Any]:
    """A worker's own thread must go on telling the scheduler that it lives."""

    async def checked() -> None:
        import asyncio  # travels with the closure

        await asyncio.get_running_loop().run_in_executor(None, check)

    return checked
