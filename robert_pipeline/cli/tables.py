"""Commands about the published tables: `query`."""

from typing import Annotated

import typer

from robert_pipeline.config import Warehouse
from robert_pipeline.terminal import show_arrow


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("query")(query)


def query(
    sql: Annotated[str, typer.Argument(help="SQL in DuckDB's dialect over `predictions` and `rejects`.")],
    warehouse: Annotated[str, typer.Option("--warehouse", help="Address of the published tables.")] = Warehouse().uri,
) -> None:
    """Ask the published tables.

    Example: `robert query "SELECT label, count(*) AS documents FROM predictions GROUP BY label"`
    """
    from robert_pipeline.runs.query import query as run_query

    show_arrow(run_query(Warehouse(uri=warehouse), sql))
