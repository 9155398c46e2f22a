"""Commands about the published tables: `query`."""

from typing import Annotated

import typer

from robert_pipeline.cli.table_options import ConfigOption, SinkOption, WarehouseOption, warehouse_of
from robert_pipeline.terminal import show_arrow, show_csv


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("query")(query)


def query(
    sql: Annotated[str, typer.Argument(help="SQL in DuckDB's dialect over `predictions` and `rejects`.")],
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, every value whole.")] = False,
    warehouse: WarehouseOption = None,
    sink: SinkOption = None,
    config: ConfigOption = None,
) -> None:
    """Ask the published tables.

    Example: `robert query "SELECT label, count(*) AS documents FROM predictions GROUP BY label"`
    """
    from robert_pipeline.runs.query import query as run_query

    rows = run_query(warehouse_of(warehouse, sink, config), sql)
    if csv:
        show_csv(rows)
    else:
        show_arrow(rows)
