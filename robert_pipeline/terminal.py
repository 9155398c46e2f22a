"""What a person sees: progress with rate and time left, tables, one line a fact.

Results go to stdout, whole where it is not a terminal; progress and errors go to stderr, progress only where it is one.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from robert_pipeline.stages.progress import Done, Stage, listening

if TYPE_CHECKING:
    import pyarrow as pa

    from robert_pipeline.core.train import Epoch
    from robert_pipeline.runs.embed import EmbedReport

LONGEST_CELL = 60
UNBOUNDED_WIDTH = 1_000_000


@cache
def console() -> Console:
    """Where results go."""
    return Console(highlight=False)


@cache
def error_console() -> Console:
    """Where progress and errors go, so that results can be piped."""
    return Console(stderr=True, highlight=False)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        seconds = task.elapsed or 0.0
        if not seconds or not task.completed:
            return Text("")
        tokens = task.fields["tokens"]
        rate = f"{task.completed / seconds:,.0f} documents/s"
        return Text(f"{rate}, {tokens / seconds:,.0f} tokens/s" if tokens else rate)


def _progress(*columns: ProgressColumn) -> Progress:
    return Progress(*columns, console=error_console(), transient=True, disable=not error_console().is_terminal)


def _documents_progress() -> Progress:
    return _progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} documents"),
        _Rate(),
        TextColumn("time left"),
        TimeRemainingColumn(),
    )


@contextlib.contextmanager
def work_progress(documents: Mapping[Stage, int]) -> Iterator[None]:
    """A bar for each stage over its number of documents, fed by the workers of this process while the block runs."""
    with _documents_progress() as progress:
        tasks = {
            stage: progress.add_task(stage, total=count, tokens=0, start=False) for stage, count in documents.items()
        }

        def on_done(done: Done) -> None:
            if (task := tasks.get(done.stage)) is not None:
                progress.start_task(task)
                tokens = progress.tasks[task].fields["tokens"] + done.tokens
                progress.update(task, advance=done.documents, tokens=tokens)

        with listening(on_done):
            yield


@contextlib.contextmanager
def import_progress() -> Iterator[Callable[[int, int | None], None]]:
    """A bar over rows written: give what it yields to the import, which tells it (rows, rows in all if known)."""
    columns = (TextColumn("importing"), BarColumn(), TextColumn("{task.completed:,.0f} documents"), _Rate())
    with _progress(*columns, TimeRemainingColumn()) as progress:
        task = progress.add_task("importing", total=None, tokens=0)
        yield lambda rows, total: progress.update(task, completed=rows, total=total)


@contextlib.contextmanager
def comparing_progress() -> Iterator[Callable[[int], None]]:
    """A count of documents with its rate: give what it yields to the run, which tells it how many more are done."""
    columns = (TextColumn("comparing"), TextColumn("{task.completed:,.0f} documents"), _Rate())
    with _progress(*columns) as progress:
        task = progress.add_task("comparing", total=None, tokens=0)
        yield lambda documents: progress.update(task, advance=documents)


@contextlib.contextmanager
def training_progress() -> Iterator[Callable[["Epoch"], None]]:
    """A line that follows the epochs: give what it yields to the training."""
    with _progress(TextColumn("training"), BarColumn(), TextColumn("{task.description}")) as progress:
        task = progress.add_task("reading vectors", total=None)

        def on_epoch(epoch: "Epoch") -> None:
            progress.update(task, description=f"epoch {epoch.number}: held-out loss {epoch.validation_loss:.4f}")

        yield on_epoch


@contextlib.contextmanager
def working_progress(name: str) -> Iterator[Callable[[str, float], None]]:
    """A bar that follows what is being done, and how much of all of it (0 to 1): give what it yields to the run."""
    columns = (TextColumn(name), BarColumn(), TextColumn("{task.description}"), TextColumn("time left"))
    with _progress(*columns, TimeRemainingColumn()) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda text, done: progress.update(task, description=text, completed=done)


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout: as wide as the terminal, or as its content where stdout is a file or a pipe."""
    fits = console().is_terminal
    wide = console() if fits else Console(highlight=False, width=UNBOUNDED_WIDTH)
    table = Table(title=title or None, title_justify="left")
    for column in columns:
        table.add_column(column, no_wrap=not fits)
    for row in rows:
        table.add_row(*(Text(_cell(value, LONGEST_CELL if fits else None)) for value in row))
    wide.print(table)


def show_arrow(rows: "pa.Table") -> None:
    """An Arrow table on stdout."""
    show_table("", rows.column_names, [list(row.values()) for row in rows.to_pylist(maps_as_pydicts="strict")])
    say(counted(rows.num_rows, "row"))


def show_csv(rows: "pa.Table") -> None:
    """An Arrow table on stdout as CSV."""
    from robert_pipeline.storage.exports import write_csv

    write_csv(rows, sys.stdout)


def counted(count: int, noun: str) -> str:
    """'1 row', '2 rows'."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def encoder_speed(report: "EmbedReport") -> str:
    """How well a run that embedded something used the machine."""
    use = report.encoder_use
    gpu = f", GPU busy {use.gpu_busy_share:.0%}" if use.gpu_seconds else ""
    return (
        f"{report.encoded_tokens_per_second:,.0f} tokens/s with overlap, {use.padding_share:.1%} padding, "
        f"{use.ceiling_share:.0%} of what the matrix products alone would reach{gpu}; "
        f"{report.hours_per_million_documents:,.1f} hours per million documents"
    )


def say(text: str) -> None:
    """One line on stdout."""
    console().print(text, soft_wrap=True, markup=False)


def megabytes(size_bytes: int) -> str:
    """Bytes as megabytes, with more digits where there are few."""
    return f"{size_bytes / 1e6:,.1f}" if size_bytes >= 100_000 else f"{size_bytes / 1e6:,.3f}"


def _cell(value: object, longest: int | None) -> str:
    text = " ".join((f"{value:.4f}" if isinstance(value, float) else str(value)).split())
    return text if longest is None or len(text) <= longest else text[: longest - 1] + "…"
