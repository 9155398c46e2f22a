"""The `robert` program: its commands, and what becomes of an error."""

import sys

import typer
from rich.markup import escape

from robert_pipeline.cli import corpora, labels, models, store, tables
from robert_pipeline.errors import RobertError
from robert_pipeline.terminal import error_console

DEBUG_FLAG = "--debug"

app = typer.Typer(
    name="robert",
    help="Label long documents: chunks embedded by BERT, read by an LSTM, published as a table.\n\n"
    "Settings come from options, else from robert.toml in the current folder, else from defaults. "
    "`--debug`, anywhere, shows the traceback of an error.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for group in (corpora, models, labels, tables, store):  # in the order of a first use
    group.register(app)


def main() -> None:
    """Run the command line. An error is one line on stderr and exit code 1."""
    arguments = [argument for argument in sys.argv[1:] if argument != DEBUG_FLAG]
    debug = len(arguments) < len(sys.argv) - 1
    try:
        app(args=arguments)
    except RobertError as error:
        if debug:
            raise
        _fail(str(error))
    except KeyboardInterrupt:
        if debug:
            raise
        error_console().print("stopped; what is done is kept, run the same command again to go on")
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        first = str(error).strip().split("\n")[0]
        _fail(f"unexpected {type(error).__name__}: {first}. Run it again with {DEBUG_FLAG} for the traceback")


def _fail(message: str) -> None:
    error_console().print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True, highlight=False)
    sys.exit(1)
