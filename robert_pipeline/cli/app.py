"""The `robert` program: its commands, and what becomes of an error."""

import sys
from typing import Annotated

import typer
from rich.markup import escape

from robert_pipeline import __version__
from robert_pipeline.cli import backfills, corpora, evaluations, fitting, gate, labels, models, store, tables, upkeep
from robert_pipeline.errors import RobertError, first_line
from robert_pipeline.terminal import error_console, say

DEBUG_FLAG = "--debug"
INTERRUPTED = 130
"""Exit code of a program that Ctrl-C stopped: 128 and the number of SIGINT."""

app = typer.Typer(
    name="robert",
    help="Label long documents: chunks embedded by BERT, read by an LSTM, published as a table.\n\n"
    "A first use goes through the commands from the top: `import` a data set (or name a folder of Parquet files with "
    "--corpus), `embed` it, `train` a head on its labels, `label` documents that have none, `query` the table.\n\n"
    "Settings come from options, else from robert.toml in the current folder, else from defaults. "
    "`--debug`, anywhere, shows the traceback of an error.\n\n"
    "Example: `robert label --corpus corpus --partition day=2026-01-31`",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
# In the order of a first use.
for group in (corpora, fitting, models, evaluations, labels, backfills, tables, gate, store, upkeep):
    group.register(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"robert {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line. An error is one line on stderr and exit code 1; of wrong usage, 2."""
    arguments = [argument for argument in sys.argv[1:] if argument != DEBUG_FLAG]
    debug = len(arguments) < len(sys.argv) - 1
    try:
        app(args=arguments, prog_name="robert")
    except RobertError as error:
        if debug:
            raise
        _fail(str(error))
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != INTERRUPTED:
            raise
        error_console().print("stopped; what is done is kept: run the same command again to go on")
        sys.exit(INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        _fail(
            f"unexpected {type(error).__name__}: {first_line(error)}. Run it again with {DEBUG_FLAG} for the traceback"
        )


def _fail(message: str) -> None:
    error_console().print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True, highlight=False)
    sys.exit(1)
