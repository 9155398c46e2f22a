"""What a person sees: progress with rate and time left, tables, one line a fact."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import pyarrow as pa

    from robert_pipeline.core.train import Epoch

LONGEST_CELL = 60


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
        tokens = task.fields.get("tokens", 0)
        if not seconds or not tokens:
            return Text("")
        return Text(f"{task.completed / seconds:,.0f} documents/s, {tokens / seconds:,.0f} tokens/s")


@contextlib.contextmanager
def embedding_progress(documents: int) -> Iterator[None]:
    """A bar over `documents` while the block runs, fed by the workers of this process."""
    from robert_pipeline.stages.progress import Done, listening

    if documents == 0:
        yield
        return
    columns = (
        TextColumn("embedding"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} documents"),
        _Rate(),
        TextColumn("time left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=error_console(), transient=True) as progress:
        task = progress.add_task("embedding", total=documents, tokens=0)

        def on_done(done: Done) -> None:
            tokens = progress.tasks[0].fields["tokens"] + done.tokens
            progress.update(task, advance=done.documents, tokens=tokens)

        with listening(on_done):
            yield


@contextlib.contextmanager
def training_progress() -> Iterator[Callable[["Epoch"], None]]:
    """A line that follows the epochs: give what it yields to the training."""
    columns = (TextColumn("training"), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=error_console(), transient=True) as progress:
        task = progress.add_task("reading vectors", total=None)

        def on_epoch(epoch: "Epoch") -> None:
            progress.update(task, description=f"epoch {epoch.number}: held-out loss {epoch.validation_loss:.4f}")

        yield on_epoch


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout."""
    table = Table(title=title or None, title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    console().print(table)


def show_arrow(rows: "pa.Table") -> None:
    """An Arrow table on stdout, cells shortened to fit."""
    show_table("", rows.column_names, [list(row.values()) for row in rows.to_pylist()])
    console().print(f"{rows.num_rows:,} row{'s' if rows.num_rows != 1 else ''}")


def say(text: str) -> None:
    """One line on stdout."""
    console().print(text, soft_wrap=True, markup=False)


def megabytes(size_bytes: int) -> str:
    """Bytes as megabytes, with a digit more where there are few."""
    return f"{size_bytes / 1e6:,.1f}" if size_bytes >= 100_000 else f"{size_bytes / 1e6:,.3f}"


def _cell(value: object) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"
