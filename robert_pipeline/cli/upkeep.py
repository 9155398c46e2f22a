"""Commands that look after the published tables: `table history`, `table maintain`; and what they are: `schemas`."""

from typing import Annotated, Literal

import typer

from robert_pipeline.cli.table_options import ConfigOption, SinkOption, WarehouseOption, warehouse_of
from robert_pipeline.terminal import say, show_table


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    table = typer.Typer(help="Look after the published tables.", no_args_is_help=True)
    table.command("history")(history)
    table.command("maintain")(maintain)
    app.add_typer(table, name="table")
    app.command("schemas")(schemas)


def history(
    table: Annotated[str, typer.Argument(help="predictions, rejects or promotions.")] = "predictions",
    warehouse: WarehouseOption = None,
    sink: SinkOption = None,
    config: ConfigOption = None,
) -> None:
    """List the versions of a table that can still be read, for --as-of.

    Example: `robert table history predictions --warehouse warehouse`
    """
    from robert_pipeline.runs.maintain import history as run_history

    versions = run_history(warehouse_of(warehouse, sink, config), table)
    show_table(
        "",
        ("version", "from", "partition", "commit key"),
        [(v.id, f"{v.at:%Y-%m-%d %H:%M:%S %Z}", v.partition or "", v.commit_key or "") for v in versions],
    )


def maintain(
    apply: Annotated[bool, typer.Option("--apply", help="Do it. Without it nothing changes.")] = False,
    keep_days: Annotated[
        float, typer.Option("--keep-days", help="Versions younger than this stay readable.", min=0)
    ] = 7.0,
    stray_hours: Annotated[
        float, typer.Option("--stray-hours", help="Spare younger files that no version names: of a writer at work.")
    ] = 72.0,
    small_file_mb: Annotated[int, typer.Option("--small-file-mb", help="What is worth gathering.", min=0)] = 64,
    warehouse: WarehouseOption = None,
    sink: SinkOption = None,
    config: ConfigOption = None,
) -> None:
    """Show, and with --apply do, what keeps the tables small and quick.

    Partitions in several small files are written anew; versions that are no longer wanted are forgotten and their
    files removed, and so is what killed writers left. Readers and writers may go on meanwhile.

    Example: `robert table maintain --warehouse warehouse --keep-days 7`

    Then the same with `--apply`.
    """
    from robert_pipeline.runs.maintain import maintain as run_maintain
    from robert_pipeline.storage.warehouse.sink import Upkeep

    upkeep = Upkeep(keep_days=keep_days, stray_hours=stray_hours, small_file_bytes=small_file_mb << 20)
    reports = run_maintain(warehouse_of(warehouse, sink, config), upkeep, dry_run=not apply)
    show_table(
        "gathered, forgotten, removed" if apply else "to gather, to forget, to remove",
        ("table", "partitions", "small files", "old versions", "files", "MB", ""),
        [
            (
                report.table,
                report.compacted_partitions,
                report.compacted_files,
                report.expired_versions,
                report.deleted_files,
                f"{report.deleted_bytes / 1e6:,.1f}",
                report.note,
            )
            for report in reports
        ],
    )
    if not apply:
        say("nothing was changed; --apply does it")


def schemas(
    name: Annotated[str | None, typer.Argument(help="One contract [all].", show_default=False)] = None,
    form: Annotated[Literal["markdown", "json", "sql"], typer.Option("--format", help="What to print.")] = "markdown",
    dialect: Annotated[
        Literal["postgres", "duckdb", "bigquery", "spark"], typer.Option("--dialect", help="Of SQL.")
    ] = "postgres",
    version: Annotated[int | None, typer.Option("--version", help="An earlier version [the latest].")] = None,
) -> None:
    """Print the data contracts: what every column means, as documentation or as statements that make the tables.

    Example: `robert schemas predictions --format sql --dialect duckdb`
    """
    from robert_pipeline.runs.contracts import render_contracts

    say(render_contracts(name, form, dialect=dialect, version=version))
