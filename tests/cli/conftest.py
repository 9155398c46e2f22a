"""Run `robert` in this process, as a shell would."""

import re
import sys
from dataclasses import dataclass

import pytest

from robert_pipeline.cli import main

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a shell sees of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def robert(monkeypatch, capfd, tmp_path):
    """Call the command line in a folder of its own, a hundred columns wide."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["robert", *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        shown = capfd.readouterr()
        return Outcome(code=code, out=ESCAPES.sub("", shown.out), err=ESCAPES.sub("", shown.err))

    return call
