"""What a newcomer installs: the locks cover what the code needs, the wheel holds all of it, importing costs nothing."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import robert_pipeline

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("schemas", "robert_pipeline", "flows")
HEAVY = ("torch", "transformers", "apache_beam", "prefect", "datasets", "sklearn", "pyiceberg", "duckdb")
TORCH_FAMILY = re.compile(r"torch|triton|nvidia-(?!ml-py).+|cuda-.+")

PIN = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>[^ ;\\]+)(?: ; (?P<marker>[^\\]+?))?(?P<more> \\)?")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}(?P<more> \\)?")


def pins(file: str) -> dict[str, list[tuple[Version, Marker | None]]]:
    """The releases that a lock file allows of each package, each with where it applies."""
    found: dict[str, list[tuple[Version, Marker | None]]] = {}
    for line in (ROOT / file).read_text().splitlines():
        if pin := PIN.fullmatch(line):
            marker = Marker(pin["marker"]) if pin["marker"] else None
            found.setdefault(pin["name"], []).append((Version(pin["version"]), marker))
    return found


NOT_INSTALLED = {
    "google": "google-cloud-bigquery",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "sentence_transformers": "sentence-transformers",
}
"""Modules of extras and of peers that the development environment does without, and the packages that bring them."""


def declared(*extras: str) -> list[Requirement]:
    """Every dependency that pyproject.toml names, those of these extras included."""
    optional = [text for extra in extras for text in PROJECT["optional-dependencies"][extra]]
    return [Requirement(text) for text in (*PROJECT["dependencies"], *optional)]


@pytest.mark.parametrize(
    "module",
    ["schemas", "robert_pipeline", "robert_pipeline.config", "robert_pipeline.errors", "robert_pipeline.types"],
)
def test_import_is_light(module: str) -> None:
    """If it failed, `robert --help` would wait seconds for frameworks that it does not use, or start a thread."""
    code = (
        f"import json, sys, threading, {module}\n"
        f"print(json.dumps([[m for m in {HEAVY!r} if m in sys.modules], threading.active_count()]))"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert json.loads(shown) == [[], 1]


def test_lock_lines_are_pins_hashes_or_comments() -> None:
    """If it failed, a lock file would name a registry or a folder of one machine, and would not install elsewhere."""
    for file in ("requirements.lock", "requirements-torch.lock"):
        for line in (ROOT / file).read_text().splitlines():
            stripped = line.strip()
            assert PIN.fullmatch(line) or HASH.fullmatch(line) or stripped.startswith("#"), f"{file}: {line}"
            assert "://" not in line, f"{file}: {line}"
            assert not re.search(r"index|find-links|trusted-host", stripped), f"{file}: {line}"


def test_every_locked_package_has_a_hash() -> None:
    """If it failed, `make install` would stop at the first package without a hash."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    starts = [number for number, line in enumerate(lines) if PIN.fullmatch(line)]
    assert len(starts) > 100
    for number in starts:
        assert HASH.fullmatch(lines[number + 1]), lines[number]


def test_torch_family_is_locked_apart() -> None:
    """If it failed, an environment with the CPU build of torch would be refused for its hash, or pull in CUDA."""
    assert [name for name in pins("requirements.lock") if TORCH_FAMILY.fullmatch(name)] == []
    assert [name for name in pins("requirements-torch.lock") if not TORCH_FAMILY.fullmatch(name)] == []
    assert [str(version) for version, marker in pins("requirements-torch.lock")["torch"] if marker is None] == [
        "2.13.0"
    ]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_lock_satisfies_pyproject(python: str) -> None:
    """If it failed, a dependency would have been added or moved without `make lock`, and installing would miss it."""
    locked = pins("requirements.lock") | pins("requirements-torch.lock")
    environment = {"python_version": python, "python_full_version": f"{python}.7"}
    for requirement in declared("demo", "dev"):
        choices = [
            version
            for version, marker in locked.get(canonicalize_name(requirement.name), [])
            if marker is None or marker.evaluate(environment)
        ]
        assert len(choices) == 1, f"{requirement} on {python}: {choices}"
        assert requirement.specifier.contains(choices[0]), f"{requirement}: locked is {choices[0]}"


def test_every_import_is_declared() -> None:
    """If it failed, the code would lean on a package that only another package's dependencies happen to bring."""
    extras = PROJECT["optional-dependencies"]
    peers = [Requirement(line) for line in (ROOT / "benchmarks" / "peers.txt").read_text().splitlines() if "==" in line]
    names = {canonicalize_name(requirement.name) for requirement in (*declared(*extras), *peers)}
    providers = {**packages_distributions(), **{module: [package] for module, package in NOT_INSTALLED.items()}}
    ours = {*PACKAGES, "benchmarks", "infra", "tests", *(path.stem for path in (ROOT / "tests").rglob("*.py"))}
    undeclared = set()
    for source in (
        path for package in (*PACKAGES, "benchmarks", "infra", "tests") for path in (ROOT / package).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(source.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            for top in {module.partition(".")[0] for module in modules}:
                if top in sys.stdlib_module_names or top in ours:
                    continue
                if names.isdisjoint(map(canonicalize_name, providers.get(top, ()))):
                    undeclared.add(f"{source.relative_to(ROOT)}: {top}")
    assert undeclared == set()


def test_versions_agree() -> None:
    """If it failed, `robert --version` and the installed package would name different releases."""
    assert robert_pipeline.__version__ == PROJECT["version"]


def test_wheel_holds_every_module(tmp_path: Path) -> None:
    """If it failed, an installed package would lack modules, its types or its licence that a checkout has."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    modules = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".cpp")
    }
    assert modules | {f"{package}/py.typed" for package in PACKAGES} <= held
    assert any(name.endswith("licenses/LICENSE") for name in held)
    assert {name.split("/")[0] for name in held if ".dist-info/" not in name} == set(PACKAGES)


def test_extras_are_what_the_tests_use() -> None:
    """If it failed, an extra would bring another release than the one that its tests have seen."""
    extras = PROJECT["optional-dependencies"]
    brought = {str(Requirement(text)) for name in ("delta", "metrics", "postgres") for text in extras[name]}
    assert brought <= {str(Requirement(text)) for text in extras["dev"]}
