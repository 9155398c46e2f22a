"""Read `robert.toml` and the command line's options into Settings.

Options win over the file, the file over the head where it is asked for, and that over the defaults. Paths in the file
are relative to the file. Whatever is wrong raises ConfigError naming the file and the field.
"""

import tomllib
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from robert_pipeline.config import Plain, Settings
from robert_pipeline.errors import ConfigError, first_line

SETTINGS_FILE = "robert.toml"
PATH_FIELDS = (
    ("corpus",),
    ("store",),
    ("model",),
    ("registry",),
    ("warehouse", "uri"),
    ("encoder", "name"),
    ("operations", "claims"),
)

Tree = dict[str, Any]


def load_settings(options: Mapping[str, Plain], *, file: Path | None = None, like_head: bool = False) -> Settings:
    """Settings from `file` (else ./robert.toml where there is one) and `options`, by dotted name: 'encoder.name'.

    An option that is None was not given; a `model` among the options is the head that labels, whatever is promoted.
    With `like_head`, `model` becomes the head that labels, and an encoder or a chunking that nothing names is that of
    this head. Raises ConfigError; ModelError where the head is missing or damaged, WarehouseError where the ledger
    of promotions cannot be read.
    """
    chosen = file or Path(SETTINGS_FILE)
    if file is not None and not file.exists():
        raise ConfigError(f"settings file {file} does not exist", fix="Give an existing file with --config")
    where = f"{chosen}: " if chosen.exists() else ""
    tree = _read(chosen) if where else {}
    for name, value in options.items():
        if value is not None:
            _put(tree, name, value, where)
    if options.get("model") is not None:
        tree["labelled_by"] = "model"
    _refuse_unknown(tree, Settings, where, ())
    settings = _validate(tree, where, {name for name, value in options.items() if value is not None})
    if like_head:
        settings = _like_head(settings, tree)
    folder = Path(settings.encoder.name).expanduser()
    if folder.is_dir():
        # A head remembers its encoder, and may be used from another folder.
        settings = replace(settings, encoder=replace(settings.encoder, name=str(folder.absolute())))
    return settings


def settings_to_json(settings: Settings) -> str:
    """Settings for another process of this program."""
    return TypeAdapter(Settings).dump_json(settings).decode()


def settings_from_json(text: str) -> Settings:
    """What `settings_to_json` wrote. Raises ConfigError."""
    try:
        return TypeAdapter(Settings).validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"the settings handed over are not whole: {first_line(error)}") from error


def _like_head(settings: Settings, tree: Tree) -> Settings:
    from robert_pipeline.storage.heads import load_head
    from robert_pipeline.storage.registry import with_current_head

    settings = with_current_head(settings)
    origin = load_head(settings.model).origin
    return replace(
        settings,
        encoder=settings.encoder if "encoder" in tree else origin.encoder,
        chunking=settings.chunking if "chunking" in tree else origin.chunking,
    )


def _put(tree: Tree, name: str, value: Plain, where: str) -> None:
    *groups, last = name.split(".")
    place = tree
    for group in groups:
        place = place.setdefault(group, {})
        if not isinstance(place, dict):
            raise ConfigError(f"{where}setting '{group}' is {place!r}", fix=f"Write it as a table, [{group}]")
    place[last] = value


def _validate(tree: Tree, file: str, options: Set[str]) -> Settings:
    def where(name: str) -> str:
        return "" if name in options else file

    try:
        settings = TypeAdapter(Settings).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        fix = f"Write it as a table, [{name}]" if first["type"] == "dataclass_type" else first["msg"]
        raise ConfigError(f"{where(name)}setting '{name}' is {first['input']!r}", fix=fix) from error
    for *groups, last in PATH_FIELDS:
        holder: object = settings
        for group in groups:
            holder = getattr(holder, group)
        value = getattr(holder, last)
        if value is not None and not value.strip():
            # An empty path would mean the current folder.
            name = ".".join((*groups, last))
            raise ConfigError(f"{where(name)}setting '{name}' is empty", fix="Give it a value")
    return settings


def _read(file: Path) -> Tree:
    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {first_line(error)}", fix="Correct the line") from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {first_line(error)}", fix="Remove it, or make it a file") from error
    for *groups, last in PATH_FIELDS:
        place: Any = tree
        for group in groups:
            place = place.get(group, {}) if isinstance(place, dict) else {}
        if isinstance(place, dict) and isinstance(value := place.get(last), str) and value.strip():
            local = file.parent / Path(value).expanduser()
            # An encoder's name is a folder only where there is one; what a REST catalog calls a warehouse is none.
            is_name = (last == "name" and not local.is_dir()) or str(place.get("catalog", "")).startswith("http")
            if "://" not in value and "${" not in value and not is_name:
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
