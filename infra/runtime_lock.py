"""`python infra/runtime_lock.py`: requirements.lock without what only development needs, hashes and all, on stdout.

A package stays where pyproject.toml names it outside of `dev`, or where one that stays asks for it: the lock says who
does. Needs nothing but Python, so that an image can be built with it.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def main() -> None:
    """Print the lock."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    sys.stdout.write(runtime_lock(lock, named(project)))


def named(project: dict[str, dict[str, list[str]]]) -> set[str]:
    """Packages that pyproject.toml names outside of `dev`."""
    extras = project["optional-dependencies"]
    texts = [*project["dependencies"], *(text for name, more in extras.items() if name != "dev" for text in more)]
    return {match.group().lower().replace("_", "-").replace(".", "-") for text in texts if (match := _NAME.match(text))}


def runtime_lock(lock: str, wanted: set[str]) -> str:
    """The entries of a lock that `wanted` is made of, all the way down."""
    entries: dict[str, list[str]] = {}
    for line in lock.splitlines(keepends=True):
        if line[:1].isalnum():
            entries[line.partition("==")[0]] = block = []
        if entries:
            block.append(line)
    askers = {name: {_asker(line) for line in block} for name, block in entries.items()}
    kept = set(wanted)
    while more := {name for name, who in askers.items() if name not in kept and who & kept}:
        kept |= more
    return "".join(line for name, block in entries.items() if name in kept for line in block)


def _asker(line: str) -> str:
    words = line.split()
    return words[-1] if words[:1] == ["#"] and words[-1] != "via" else ""


if __name__ == "__main__":
    main()
