"""Commands about the published tables: `query`."""

from pathlib import Path
from typing import Annotated

import typer

from robert_pipeline.terminal import show_arrow, show_csv


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("query")(query)


def query(
    sql: Annotated[str, typer.Argument(help="SQL in DuckDB's dialect over `predictions` and `rejects`.")],
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, every value whole.")] = False,
    warehouse: Annotated[
        str | None, typer.Option("--warehouse", help="Address of the published tables [warehouse].")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Settings file [./robert.toml].")] = None,
) -> None:
    """Ask the published tables.

    Example: `robert query "SELECT label, count(*) AS documents FROM predictions GROUP BY label"`
    """
    from robert_pipeline.runs.query import query as run_query
    from robert_pipeline.storage.settings import load_settings

    settings = load_settings({"warehouse.uri": warehouse}, file=config)
    rows = run_query(settings.warehouse, sql)
    if csv:
        show_csv(rows)
    else:
        show_arrow(rows)
