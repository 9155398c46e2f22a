"""Read `robert.toml` and the command line's options into Settings.

Options win over the file, the file over the defaults. Paths in the file are relative to the file. Whatever is wrong
raises ConfigError naming the file and the field.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from robert_pipeline.config import Plain, Settings
from robert_pipeline.errors import ConfigError

SETTINGS_FILE = "robert.toml"
PATH_FIELDS = (("corpus",), ("store",), ("model",), ("warehouse", "uri"), ("encoder", "name"))

Tree = dict[str, Any]


def load_settings(options: Mapping[str, Plain], *, file: Path | None = None) -> Settings:
    """Settings from `file` (else ./robert.toml where there is one) and `options`, by dotted name: 'encoder.name'.

    An option that is None was not given.
    """
    chosen = file or Path(SETTINGS_FILE)
    if file is not None and not file.is_file():
        raise ConfigError(f"settings file {file} does not exist", fix="Give an existing file with --config")
    tree = _read(chosen) if chosen.is_file() else {}
    for name, value in options.items():
        if value is not None:
            *groups, last = name.split(".")
            place = tree
            for group in groups:
                place = place.setdefault(group, {})
                if not isinstance(place, dict):
                    raise ConfigError(
                        f"{chosen}: setting '{group}' is {place!r}", fix=f"Write it as a table, [{group}]"
                    )
            place[last] = value
    where = f"{chosen}: " if chosen.is_file() else ""
    _refuse_unknown(tree, Settings, where, ())
    try:
        return TypeAdapter(Settings).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise ConfigError(f"{where}setting '{name}' is missing", fix=_how_to_give(name)) from error
        raise ConfigError(f"{where}setting '{name}' is {first['input']!r}", fix=f"{first['msg']}") from error


def _how_to_give(name: str) -> str:
    option = {"warehouse.uri": "warehouse", "encoder.name": "encoder"}.get(name, name.rpartition(".")[2])
    return f"Give --{option.replace('_', '-')}, or {name} in {SETTINGS_FILE}"


def _read(file: Path) -> Tree:
    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}", fix="Correct the line") from error
    for *groups, last in PATH_FIELDS:
        place: Any = tree
        for group in groups:
            place = place.get(group, {}) if isinstance(place, dict) else {}
        if isinstance(place, dict) and isinstance(value := place.get(last), str):
            local = file.parent / Path(value).expanduser()
            # An encoder's name is a folder only where there is one.
            if "://" not in value and (last != "name" or local.is_dir()):
                place[last] = str(local)
    return tree


def _refuse_unknown(tree: Tree, kind: type, where: str, path: tuple[str, ...]) -> None:
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind)]
    for name, value in tree.items():
        full = ".".join((*path, name))
        if name not in known:
            raise ConfigError(f"{where}there is no setting '{full}'", fix=f"Known here: {', '.join(known)}")
        inner = hints[name]
        if is_dataclass(inner) and isinstance(inner, type) and isinstance(value, dict):
            _refuse_unknown(value, inner, where, (*path, name))
