"""Objects of JSON files: one a line (.jsonl, .ndjson), or all in one list (.json). Line by line, but for a list.

A path enters; objects with their places leave, or the type of every key. Raises ValueError, naming the place.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

BATCH_ROWS = 1_000

Object = dict[str, object]


def json_types(path: Path) -> dict[str, pa.DataType]:
    """The type of every key of a file, in the order of their first appearance: all values are looked at.

    Text where some values are text and others are numbers or truth values; null where there is nothing else.
    """
    found: dict[str, pa.DataType] = {}
    for _, row in _objects(path):
        for key, value in row.items():
            found[key] = _joint(found.get(key, pa.null()), value)
    return found


def json_tables(path: Path, keys: Sequence[str]) -> Iterator[pa.Table]:
    """The values of `keys` as text, some rows at a time; a key that an object leaves out is null."""
    schema = pa.schema([(key, pa.string()) for key in keys])
    held: list[dict[str, str | None]] = []
    for _, row in _objects(path):
        held.append({key: _as_text(row.get(key)) for key in keys})
        if len(held) == BATCH_ROWS:
            yield pa.Table.from_pylist(held, schema)
            held = []
    yield pa.Table.from_pylist(held, schema)


def _objects(path: Path) -> Iterator[tuple[str, Object]]:
    with path.open(encoding="utf-8-sig") as file:
        start = file.read(1)
        while start.isspace():
            start = file.read(1)
        file.seek(0)
        if start == "[":
            for number, item in enumerate(json.load(file), start=1):
                yield f"item {number}", _object(item, f"item {number}")
            return
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"line {number}", _object(_parsed(line, number), f"line {number}")


def _parsed(line: str, number: int) -> object:
    try:
        return json.loads(line.rstrip("\r\n"))
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from None


def _object(item: object, place: str) -> Object:
    if isinstance(item, str):  # a list of texts
        return {"text": item}
    if not isinstance(item, dict):
        raise ValueError(f"{place} is no JSON object")
    return item


def _joint(so_far: pa.DataType, value: object) -> pa.DataType:
    if value is None:
        return so_far
    if isinstance(value, str):
        found = pa.string()
    elif isinstance(value, bool):
        found = pa.bool_()
    elif isinstance(value, int):
        found = pa.int64()
    elif isinstance(value, float):
        found = pa.float64()
    else:
        found = pa.list_(pa.null()) if isinstance(value, list) else pa.struct([])
    if pa.types.is_null(so_far) or so_far.equals(found):
        return found
    others = [kind for kind in (so_far, found) if not pa.types.is_string(kind)]
    # What is no text at all is what the caller has to know of.
    worst = [kind for kind in others if pa.types.is_nested(kind) or pa.types.is_floating(kind)]
    return worst[0] if worst else pa.string()


def _as_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return str(value).lower() if isinstance(value, bool) else str(value)
