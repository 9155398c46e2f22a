"""Iceberg catalogs by configuration: what each makes, and what it says when it cannot."""

import re
import subprocess
import sys

import adbc_driver_postgresql.dbapi as pg
import pytest
from published_rows import predictions
from rest_catalog import serving
from warehouses import ROOT, configured

from robert_pipeline.config import Warehouse
from robert_pipeline.errors import ConfigError, WarehouseError
from robert_pipeline.storage.warehouse import Commit, open_warehouse
from robert_pipeline.storage.warehouse.iceberg import IcebergSink


def test_a_catalog_in_postgres_names_the_tables(request, tmp_path):
    """Tables would be in a catalog that no other engine looks into."""
    warehouse = configured("iceberg-postgres", request, tmp_path)
    open_warehouse(warehouse).replace_partition("predictions", "p", [predictions("p", 1)], "a")
    with pg.connect(warehouse.catalog) as connection, connection.cursor() as cursor:
        cursor.execute(
            "select metadata_location from iceberg_tables where table_namespace = $1", (warehouse.namespace,)
        )
        ((location,),) = cursor.fetchall()
    assert location.startswith(f"{warehouse.uri}/{warehouse.namespace}/predictions/metadata/")
    assert not (tmp_path / "warehouse" / "catalog.db").exists()


def test_looking_into_a_catalog_without_tables_makes_none(request, tmp_path):
    """A look at a mistyped database would leave tables in it."""
    warehouse = configured("iceberg-postgres", request, tmp_path)
    with pg.connect(warehouse.catalog, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(f"create database {warehouse.namespace}")
    empty = re.sub("/postgres(?=[?]|$)", f"/{warehouse.namespace}", warehouse.catalog)
    assert empty != warehouse.catalog
    sink = open_warehouse(Warehouse(uri=warehouse.uri, catalog=empty))
    sink.check()
    assert sink.commit_keys("predictions") == {}
    with pytest.raises(WarehouseError, match="no table 'predictions'"):
        sink.read("predictions")
    with pg.connect(empty) as connection, connection.cursor() as cursor:
        cursor.execute("select count(*) from information_schema.tables where table_name like 'iceberg%'")
        assert cursor.fetchall() == [(0,)]
    assert sink.replace_partition("predictions", "p", [predictions("p", 1)], "a") is Commit.COMMITTED


def test_a_rest_catalog_takes_its_token_from_the_environment(tmp_path):
    """The token would have to stand in a settings file."""
    with serving(tmp_path / "tables", token="open sesame") as server:
        warehouse = Warehouse(uri="analytics", catalog=server.address)
        with pytest.raises(WarehouseError, match="cannot be used") as caught:
            open_warehouse(warehouse).check()
        assert "\n" not in str(caught.value)
        code = (
            "from robert_pipeline.config import Warehouse\n"
            "from robert_pipeline.storage.warehouse import open_warehouse\n"
            f"sink = open_warehouse({warehouse!r})\n"
            "print(sink.replace_partition('predictions', 'p', [], 'key'), sink.commit_keys('predictions'))"
        )
        environment = {"PYTHONPATH": str(ROOT), "PYICEBERG_CATALOG__ROBERT__TOKEN": "open sesame"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=100
        )
        assert done.stdout == "committed {'p': 'key'}\n", done.stderr


@pytest.mark.parametrize("status", [500, 503])
def test_a_rest_catalog_that_fails_half_way_leaves_the_old_version(tmp_path, status):
    """A catalog lost between start and commit would be a traceback, or half a commit."""
    with serving(tmp_path / "tables") as server:
        sink = IcebergSink(Warehouse(uri="any", catalog=server.address), patience_seconds=0.2)
        sink.replace_partition("predictions", "p", [predictions("p", 1)], "a")

        def rows():
            yield predictions("p", 2)
            server.failing = status

        with pytest.raises(WarehouseError) as caught:
            sink.replace_partition("predictions", "p", rows(), "b")
        assert "\n" not in str(caught.value)
        server.failing = 0
        assert sink.read("predictions").read_all().num_rows == 1
        assert sink.replace_partition("predictions", "p", [predictions("p", 2)], "b") is Commit.COMMITTED


@pytest.mark.parametrize("catalog", ["postgresql://robert@127.0.0.1:1/labels", "http://127.0.0.1:1"])
def test_a_catalog_out_of_reach_is_one_clear_error(tmp_path, catalog):
    """A catalog that is down would be found at the end of a night's work, with a traceback."""
    sink = IcebergSink(Warehouse(uri=str(tmp_path / "w"), catalog=catalog), patience_seconds=0.1)
    with pytest.raises(WarehouseError, match="cannot be used") as caught:
        sink.check()
    assert "\n" not in str(caught.value)
    assert catalog in str(caught.value)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("catalog", ["mysql://host/x", "catalog.db"])
def test_an_address_that_is_no_catalog_is_refused(tmp_path, catalog):
    """A mistyped catalog would be ignored, and the tables made elsewhere."""
    with pytest.raises(WarehouseError, match=r"warehouse\.catalog .* is not a catalog"):
        open_warehouse(Warehouse(uri=str(tmp_path), catalog=catalog))


def test_only_iceberg_has_a_catalog():
    """A catalog that nothing reads would be taken for one that is used."""
    with pytest.raises(ConfigError, match=r"warehouse\.catalog is given, but warehouse\.sink is 'delta'"):
        Warehouse(sink="delta", catalog="https://catalog")
