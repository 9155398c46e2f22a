"""What a run shows in Prefect's UI: progress, summaries, tables, events. Values enter; nothing is decided."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.events import emit_event

from robert_pipeline.core.bounds import Looks
from robert_pipeline.core.price import Estimate
from robert_pipeline.runs.partition import PartitionReport
from robert_pipeline.stages.progress import Done, listening

if TYPE_CHECKING:
    from flows.children import Child

UPDATE_SECONDS = 5.0
"""A progress artifact changes no more often."""

OUT_OF_BOUNDS = "robert.partition.out-of-bounds"
FAILED = "robert.partition.failed"
PUBLISHED = "robert.partition.published"

OUT_OF_BOUNDS_STATE = "OutOfBounds"
"""How a run ends that did not publish its partition because of its looks; a kind of Failed."""


def artifact_key(*parts: str) -> str:
    """A key as Prefect wants it: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


class ProgressArtifact:
    """A bar in the UI, from 0 to 100."""

    def __init__(self, key: str, description: str) -> None:
        self._id: UUID = create_progress_artifact(0.0, key=key, description=description)  # type: ignore[assignment]
        self._lock = threading.Lock()
        self._due = 0.0

    def show(self, percent: float, *, now: bool = True) -> None:
        """Move the bar; with `now` unset, only if it has not moved for a while."""
        with self._lock:
            if not now and time.monotonic() < self._due:
                return
            self._due = time.monotonic() + UPDATE_SECONDS
        update_progress_artifact(self._id, min(100.0, percent))

    @contextmanager
    def over(self, documents: int, *, first: float, last: float) -> Iterator[None]:
        """Move from `first` to `last` percent as the workers of this process report documents."""
        done = 0

        def on_done(report: Done) -> None:
            nonlocal done
            done += report.documents
            if report.documents:
                self.show(first + (last - first) * min(1.0, done / max(1, documents)), now=False)

        with listening(on_done):
            yield
        self.show(last)


def partition_summary(report: PartitionReport, looks: Looks, *, model: str, location: str) -> str:
    """A page on one partition: counts, rates, and its labels beside those of the partition before."""
    published, embedded = report.published, report.embed
    before, now = sum(looks.labels_before.values()), sum(looks.labels.values())
    rows = [
        ("documents", f"{published.documents:,}"),
        ("labelled", f"{published.labelled:,}"),
        ("rejected", f"{published.rejected:,} ({looks.reject_share:.1%})"),
        ("embedded in this run", f"{embedded.embedded.documents:,} documents, {embedded.embedded.tokens:,} tokens"),
        ("rate", f"{embedded.documents_per_second:,.1f} documents/s, {embedded.tokens_per_second:,.0f} tokens/s"),
        ("seconds", f"{report.sample.seconds:,.1f}"),
        ("head", f"`{report.score.head_fingerprint}` from `{model}`"),
        ("table", f"{published.commit} in `{location}`"),
        ("run", f"`{report.run_id}`"),
    ]
    lines = [
        f"# {published.partition}",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in rows),
    ]
    lines += ["", "## Labels", ""]
    lines += [f"| label | documents | share | share in {looks.partition_before or 'no partition before'} |"]
    lines += ["| --- | ---: | ---: | ---: |"]
    for label in sorted({*looks.labels, *looks.labels_before}):
        count = looks.labels.get(label, 0)
        earlier = f"{looks.labels_before.get(label, 0) / before:.1%}" if before else ""
        lines.append(f"| {_cell(label)} | {count:,} | {count / now if now else 0:.1%} | {earlier} |")
    if looks.distribution_change is not None:
        lines += ["", f"{looks.distribution_change:.1%} of the labels differ from those of {looks.partition_before}."]
    return "\n".join(lines) + "\n"


def backfill_summary(estimate: Estimate, *, hours: float | None = None, tokens: int | None = None) -> str:
    """The price list of a backfill; with what it took, once it has ended."""
    price = estimate.price_per_hour
    money = None if hours is None or price is None else hours * price
    rows = [
        ("partitions", f"{estimate.partitions:,}", ""),
        ("documents", f"{estimate.documents:,}, {estimate.documents_to_embed:,} to embed", ""),
        ("tokens to embed", _shown(estimate.tokens_to_embed, ",.0f"), _shown(tokens, ",.0f", "")),
        ("embedded already", f"{estimate.embedded_share:.1%} of the text", ""),
        ("hours", _shown(estimate.hours, ".4f"), _shown(hours, ".4f", "")),
        ("money", _shown(estimate.money, ",.2f"), _shown(money, ",.2f", "")),
    ]
    lines = ["| | estimate | actual |", "| --- | ---: | ---: |"]
    return "\n".join([*lines, *(f"| {name} | {planned} | {actual} |" for name, planned, actual in rows)]) + "\n"


def backfill_rows(children: "list[Child]") -> list[dict[str, str | int]]:
    """The table of a backfill: a row a partition."""
    return [
        {"partition": c.partition, "state": c.ending, "attempts": c.attempts, "flow run": c.name, "error": c.error}
        for c in children
    ]


def emit(event: str, partition: str, *, run_id: str, message: str = "") -> None:
    """Tell Prefect, so that an automation can act."""
    resource = {"prefect.resource.id": f"robert.partition.{partition}", "prefect.resource.name": partition}
    emit_event(event, resource=resource, payload={"partition": partition, "run_id": run_id, "message": message})


def _shown(value: float | None, form: str, unknown: str = "unknown") -> str:
    return unknown if value is None else format(value, form)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())[:80]
