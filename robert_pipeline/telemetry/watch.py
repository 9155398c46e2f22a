"""The one place where runs are timed and told of: a decorator on every verb of `robert_pipeline.runs`.

What verbs of one run do is gathered by the run's id, and sent when the outermost of them ends, however it ends. Without
an endpoint in the environment a verb is called as if it were not decorated.
"""

import functools
import inspect
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, ParamSpec, TypeVar

from robert_pipeline.errors import ClaimError
from robert_pipeline.telemetry.export import check, is_on, push
from robert_pipeline.telemetry.instruments import (
    DOCUMENTS,
    RUN_DOCUMENTS,
    RUN_DURATION,
    RUN_REJECTS,
    RUN_TOKENS,
    STAGE_DURATION,
    TOKENS,
    Measured,
    Point,
    partition_label,
)

P = ParamSpec("P")
R = TypeVar("R")
Verb = Literal[
    "backfill",
    "calibrate",
    "diff",
    "embed",
    "evaluate",
    "finetune",
    "fit",
    "gc",
    "import",
    "label",
    "maintain",
    "plan",
    "predict",
    "promote",
    "publish",
    "replay",
    "rollback",
    "score",
    "train",
    "verify",
]
Outcome = Literal["ok", "failed", "skipped", "stopped"]
"""'skipped': another run works on the partition; 'stopped': by Ctrl-C or a signal."""

STAGES = ("plan", "embed", "train", "score", "publish")
_ACCOUNTS = ("publish", "predict", "embed")
"""The stage whose documents are the run's: the first of these that it has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """Which run works on what."""

    run_id: str = ""
    partitions: tuple[str, ...] = ()


@dataclass(kw_only=True, slots=True)
class _Run:
    verb: Verb
    subject: Subject
    since: float = 0.0
    """When the outermost of its verbs began that are at work, by the monotonic clock."""
    seconds: float = 0.0
    """At work; what passes between planning and what is planned for is not."""
    depth: int = 0
    points: list[Point] = field(default_factory=list)


_lock = threading.Lock()
_runs: dict[str, _Run] = {}
"""Runs of this process that have not been told of, by their ids."""


def observed(verb: Verb) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Have calls of a verb timed and told of, with the points of its report where it is `Measured`.

    Whose call it is stands in its arguments: one that has a `subject`, else `run_id` with `partitions` or `partition`.
    Raises ConfigError, before any work, where metrics are asked for that cannot be sent.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*arguments: P.args, **named: P.kwargs) -> R:
            if not is_on():
                return function(*arguments, **named)
            check()
            subject = _subject(signature.bind(*arguments, **named).arguments)
            with _watching(verb, subject) as reported:
                result = function(*arguments, **named)
                reported.append(result)
            return result

        return call

    return decorate


def _subject(given: Mapping[str, object]) -> Subject:
    for argument in given.values():
        if isinstance(found := getattr(argument, "subject", None), Subject):
            return found
    names = given.get("partitions") or given.get("partition") or ()
    partitions = (
        (names,) if isinstance(names, str) else tuple(map(str, names)) if isinstance(names, list | tuple) else ()
    )
    return Subject(run_id=str(given.get("run_id", "")), partitions=partitions)


@contextmanager
def _watching(verb: Verb, subject: Subject) -> Iterator[list[object]]:
    run = _enter(verb, subject)
    started = time.monotonic()
    reported: list[object] = []
    outcome: Outcome = "ok"
    try:
        yield reported
    except ClaimError:
        outcome = "skipped"
        raise
    except Exception:
        outcome = "failed"
        raise
    except BaseException:
        outcome = "stopped"
        raise
    finally:
        _leave(run, verb, subject, outcome, reported, seconds=time.monotonic() - started)


def _enter(verb: Verb, subject: Subject) -> _Run:
    with _lock:
        run = _runs.get(subject.run_id) or _Run(verb=verb, subject=subject)
        if run.depth == 0:
            run.verb, run.subject, run.since = verb, subject, time.monotonic()
        if subject.run_id:
            _runs[subject.run_id] = run
        run.depth += 1
        return run


def _leave(
    run: _Run, verb: Verb, subject: Subject, outcome: Outcome, reported: list[object], *, seconds: float
) -> None:
    with _lock:
        for report in reported:
            seconds = getattr(report, "seconds", seconds)  # what the user is shown
            if isinstance(report, Measured):
                run.points += report.points()
        if verb in STAGES:
            partition = partition_label(subject.partitions)
            run.points.append(STAGE_DURATION.point(seconds, stage=verb, partition=partition, outcome=outcome))
        run.depth -= 1
        if run.depth == 0:
            run.seconds += time.monotonic() - run.since
        # Planning alone is told of with what is planned for.
        if run.depth or (verb == "plan" and outcome == "ok"):
            return
        _runs.pop(subject.run_id, None)
    push(_merged([*run.points, *_totals(run, outcome)]))


def _totals(run: _Run, outcome: Outcome) -> Iterator[Point]:
    whose = {"verb": run.verb, "partition": partition_label(run.subject.partitions), "run_id": run.subject.run_id}
    yield RUN_DURATION.point(run.seconds, outcome=outcome, **whose)
    documents = [point for point in run.points if point.instrument is DOCUMENTS]
    stages = {point.attribute("stage") for point in documents}
    account = next((stage for stage in _ACCOUNTS if stage in stages), None)
    if account is not None:
        counted = [point for point in documents if point.attribute("stage") == account]
        yield RUN_DOCUMENTS.point(sum(point.value for point in counted), **whose)
        yield RUN_REJECTS.point(sum(p.value for p in counted if p.attribute("result") == "rejected"), **whose)
    tokens = [point for point in run.points if point.instrument is TOKENS and point.attribute("result") == "encoded"]
    if tokens:
        yield RUN_TOKENS.point(sum(point.value for point in tokens), **whose)


def _merged(points: list[Point]) -> list[Point]:
    """One point a series: a stage may have run more than once. What is no number is left out."""
    merged: dict[tuple[str, tuple[tuple[str, str], ...]], Point] = {}
    for point in points:
        key = point.instrument.name, point.attributes
        before = merged[key].value if point.instrument.adds and key in merged else 0.0
        merged[key] = Point(instrument=point.instrument, value=point.value + before, attributes=point.attributes)
    return [point for point in merged.values() if math.isfinite(point.value)]
