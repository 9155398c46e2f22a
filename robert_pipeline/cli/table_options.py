"""The options of commands that need the published tables and nothing else, turned into a Warehouse."""

from pathlib import Path
from typing import Annotated

import typer

from robert_pipeline.config import Settings, Warehouse

WarehouseOption = Annotated[
    str | None, typer.Option("--warehouse", help="Address of the published tables [warehouse].", show_default=False)
]
SinkOption = Annotated[
    str | None,
    typer.Option("--sink", help="iceberg, delta, parquet, postgres, duckdb or bigquery [iceberg].", show_default=False),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Settings file [./robert.toml].", show_default=False)
]
AsOfOption = Annotated[
    str | None,
    typer.Option(
        "--as-of", help="A time (2026-01-31, or with hours; UTC) or a version of `robert table history` [now]."
    ),
]


def settings_of(warehouse: str | None, sink: str | None, config: Path | None) -> Settings:
    """What the settings file says, with the warehouse that options name. Raises ConfigError."""
    from robert_pipeline.storage.settings import load_settings

    return load_settings({"warehouse.uri": warehouse, "warehouse.sink": sink}, file=config)


def warehouse_of(warehouse: str | None, sink: str | None, config: Path | None) -> Warehouse:
    """The warehouse that options and settings file name. Raises ConfigError."""
    return settings_of(warehouse, sink, config).warehouse
