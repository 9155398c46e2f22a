"""No credential in a setting, a log, a run parameter or an error: a canary is given, and looked for everywhere."""

import json
import logging
import os
import subprocess
import sys
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from rest_catalog import serving
from warehouses import ROOT

from robert_pipeline.config import Settings, Warehouse
from robert_pipeline.errors import ConfigError, RobertError, WarehouseError
from robert_pipeline.secrets import refuse_secret
from robert_pipeline.storage.warehouse import open_warehouse
from robert_pipeline.storage.warehouse.addresses import read_address

CANARY = "c4nary p@ss/w:rd%zz"

WAREHOUSES = {
    "password": Warehouse(sink="postgres", uri="postgresql://robert:${CANARY}@127.0.0.1:1/labels"),
    "parameter": Warehouse(sink="postgres", uri="postgresql://robert@127.0.0.1:1/labels?password=${CANARY}"),
    "whole address": Warehouse(sink="postgres", uri="${WHOLE}"),
    "not an address": Warehouse(sink="postgres", uri="${BROKEN}"),
    "environment": Warehouse(sink="postgres", uri="postgresql://robert@127.0.0.1:1/labels"),
    "catalog": Warehouse(uri="w", catalog="postgresql://robert:${CANARY}@127.0.0.1:1/labels"),
    "delta on S3": Warehouse(sink="delta", uri="s3://bucket/tables"),
    "iceberg on S3": Warehouse(uri="s3://bucket/tables", catalog="postgresql://robert@127.0.0.1:1/labels"),
    "bigquery": Warehouse(sink="bigquery", uri="bigquery://project"),
    "a file in a folder that is none": Warehouse(sink="parquet", uri="key/tables"),
    "no database": Warehouse(sink="duckdb", uri="key"),
    "broken catalog": Warehouse(uri="w", catalog="${BROKEN}"),
}


@pytest.fixture
def canary(monkeypatch, tmp_path):
    for name, value in {
        "CANARY": CANARY,
        "PGPASSWORD": CANARY,
        "WHOLE": "postgresql://robert:c4nary%20p%40ss@127.0.0.1:1/labels",
        "BROKEN": f"postgresql://robert:{CANARY}@127.0.0.1:1/labels",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": CANARY,
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_REGION": "eu",
        "AWS_ALLOW_HTTP": "true",
        "PYICEBERG_CATALOG__ROBERT__S3__SECRET_ACCESS_KEY": CANARY,
        "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "key"),
    }.items():
        monkeypatch.setenv(name, value)
    # No key that Google's library could use; it must not be quoted.
    (tmp_path / "key").write_text(json.dumps({"type": "service_account", "private_key": CANARY, "token": CANARY}))


@pytest.mark.parametrize("case", WAREHOUSES)
def test_no_credential_is_in_a_log_an_error_or_a_parameter(canary, caplog, capfd, tmp_path, monkeypatch, case):
    """Whoever reads a log, a failed run or its parameters could read the whole database."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)
    warehouse = WAREHOUSES[case]
    with pytest.raises(RobertError) as caught:
        open_warehouse(warehouse).check()
    parameters = TypeAdapter(Settings).dump_json(Settings(warehouse=warehouse)).decode()
    seen = [caplog.text, *capfd.readouterr(), repr(warehouse), parameters]
    seen += traceback.format_exception(caught.value)
    for text in seen:
        assert "c4nary" not in text, text
        assert "%zz" not in text, text


@pytest.mark.parametrize("case", ["password", "not an address"])
def test_no_credential_is_in_what_the_command_line_prints(canary, tmp_path, case):
    """A screenshot of an error, with --debug or without, would give the password away."""
    settings = f'[warehouse]\nsink = "postgres"\nuri = {json.dumps(WAREHOUSES[case].uri)}\n'
    (tmp_path / "robert.toml").write_text(settings)
    for flags in ([], ["--debug"]):
        done = subprocess.run(
            [sys.executable, "-c", "from robert_pipeline.cli import main; main()", "query", "select 1", *flags],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 1
        assert "c4nary" not in done.stdout + done.stderr
        assert "127.0.0.1" in done.stderr or "not an address" in done.stderr


def test_a_token_of_a_rest_catalog_is_not_told(tmp_path):
    """The token would stand in the error of a catalog that refuses it."""
    with serving(tmp_path / "tables", token="another") as server:
        code = (
            "import logging\nlogging.basicConfig(level=logging.DEBUG)\n"
            "from robert_pipeline.config import Warehouse\n"
            "from robert_pipeline.storage.warehouse import open_warehouse\n"
            f"open_warehouse(Warehouse(uri='any', catalog={server.address!r})).check()"
        )
        environment = {"PYTHONPATH": str(ROOT), "PYICEBERG_CATALOG__ROBERT__TOKEN": CANARY}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=100
        )
    assert "WarehouseError" in done.stderr
    assert "c4nary" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://user:secret@host/db",
        "postgresql://user:pa/ss@host/db",
        "s3://key:secret@bucket/warehouse",
        "postgresql://host/db?user=me&password=secret",
        "postgresql://host/db?sslpassword=secret",
        "https://catalog/api?token=secret",
        "https://catalog/api?api_key=secret",
        "host=db user=me password=secret",
        "s3://bucket/x?secret_key=secret&access_key=a",
    ],
)
@pytest.mark.parametrize("field", ["uri", "catalog"])
def test_a_secret_in_an_address_is_refused_without_repeating_it(address, field):
    """A password would go into settings files, run parameters and every message that names the warehouse."""
    with pytest.raises(ConfigError, match=rf"warehouse\.{field} holds a password or another secret") as caught:
        Warehouse(**{field: address})
    assert "secret@" not in str(caught.value)
    assert "=secret" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "warehouse",
        "/data/my:folder@home/warehouse",
        "postgresql://user@host:5432/db",
        "postgresql://host:5432/db?user=me@x",
        "postgresql://postgres:@/postgres?host=/tmp/pg",
        "postgresql://user:${PASSWORD}@host/db",
        "postgresql://host/db?password=${PASSWORD}&sslmode=require",
        "${DSN}",
        "https://catalog/api?warehouse=x",
        "bigquery://project?location=EU",
        "s3://bucket/token/passwords",
    ],
)
def test_addresses_without_a_secret_are_taken(address):
    """A harmless address would be refused."""
    refuse_secret("warehouse.uri", address)


@given(st.text(min_size=1).filter(lambda s: "\0" not in s))
def test_a_password_of_any_characters_arrives_and_stays_hidden(password):
    """A password with an @ or a % would not be accepted by the server, or be shown."""
    from unittest import mock
    from urllib.parse import unquote, urlsplit

    try:
        password.encode()
    except UnicodeEncodeError:
        return
    password = f"canary{password}"  # which stands in no other word of what is shown
    with mock.patch.dict(os.environ, {"CANARY": password}):
        address = read_address("warehouse.uri", "postgresql://robert:${CANARY}@host/db")
    assert unquote(urlsplit(address.used).password) == password
    assert password not in repr(address).replace("postgresql://robert:${CANARY}@host/db", "")
    assert address.hide(f"could not use {address.used}").count("***") >= 1


def test_a_variable_that_is_not_set_is_named():
    """A run would connect without a password, and be refused by the server with a riddle."""
    with pytest.raises(ConfigError, match="environment variable NO_SUCH_VARIABLE, which is not set"):
        read_address("warehouse.uri", "postgresql://robert:${NO_SUCH_VARIABLE}@host/db")


@pytest.mark.parametrize("sink", ["iceberg", "delta", "parquet", "duckdb"])
def test_a_variable_in_a_folder_is_refused(sink, tmp_path, monkeypatch):
    """Labels would go into a folder named '${NAME}', where nobody looks for them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLACE", str(tmp_path / "there"))
    with pytest.raises(WarehouseError, match=r"\$\{PLACE\}/labels names an environment variable"):
        open_warehouse(Warehouse(sink=sink, uri="${PLACE}/labels")).check()
    assert not list(tmp_path.iterdir())
