"""Help: what a newcomer reads first. Golden files in tests/golden/help hold every word of it.

`ROBERT_WRITE_GOLDEN=1 python -m pytest tests/cli/test_help.py` writes them anew.
"""

import inspect
import os
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from robert_pipeline.cli.app import app

GOLDEN = Path(__file__).parents[1] / "golden" / "help"


def leaves(group, path=()):
    """Every command by what is typed to call it: 'train', 'table history'."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(leaves(get_command(app)))
EXAMPLE = re.compile(r"Example: `robert (.+?)`", re.DOTALL)


def example(name):
    """The arguments of a command's example."""
    found = EXAMPLE.search(inspect.cleandoc(COMMANDS[name].help or ""))
    assert found, f"robert {name} --help has no line 'Example: `robert {name} …`'"
    return shlex.split(" ".join(found.group(1).split()))


def test_a_use_of_every_verb_has_its_command():
    """A step of the pipeline could be run from Python only."""
    verbs = {"import", "plan", "embed", "train", "score", "publish", "label", "predict", "query"}
    assert verbs <= COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_parses(name):
    """The first thing that a newcomer copies would be refused."""
    words = example(name)
    typed = name.split()
    assert words[: len(typed)] == typed
    COMMANDS[name].make_context(name, words[len(typed) :])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is_for(name):
    """A newcomer would have to guess."""
    for parameter in COMMANDS[name].params:
        assert parameter.help or parameter.name == "help", f"robert {name}: {parameter.name}"


@pytest.mark.parametrize("name", ["robert", *COMMANDS])
def test_help_is_what_it_was(robert, name):
    """Help would change, or lose its form, without anybody looking at it."""
    shown = robert(*([] if name == "robert" else name.split()), "--help")
    assert shown.code == 0
    assert shown.err == ""
    text = "\n".join(line.rstrip() for line in shown.out.strip().splitlines()) + "\n"
    golden = GOLDEN / f"{name.replace(' ', '-')}.txt"
    if os.environ.get("ROBERT_WRITE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_every_golden_file_is_of_a_command():
    """Help of a command that is gone would stay among the golden files."""
    assert {path.stem for path in GOLDEN.iterdir()} == {"robert", *(name.replace(" ", "-") for name in COMMANDS)}


def test_without_arguments_help_is_shown(robert):
    """A first call would look like a program that does nothing."""
    shown = robert()
    assert "Usage: robert" in shown.out + shown.err
    assert "import" in shown.out + shown.err
