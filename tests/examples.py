"""Examples in Markdown: found, taken apart, and run in order as a reader would who pastes them.

The marker stands on the line above the fence, where rendered Markdown does not show it. In a console block a line that
starts with `$ ` is a command (`\\` at its end continues it), any other line is output and is not compared. A Python
block is a program of its own.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARKER = "<!-- runs -->"
SHELLS = ("console", "sh", "bash", "shell")
FENCE = re.compile(r" {0,3}(?P<ticks>`{3,})(?P<language>[\w-]*)[^`]*")
TIMEOUT_SECONDS = 240


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A fenced block; `line` is the number of its first line of code."""

    language: str
    code: str
    line: int
    runs: bool

    def commands(self) -> list[str]:
        """The commands of a shell block, continued lines joined."""
        lines = re.sub(r"\\\n\s*(> )?", "", self.code).splitlines()
        if self.language == "console":
            return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [line for line in lines if line.strip() and not line.startswith("#")]


def blocks(markdown: str) -> Iterator[Block]:
    """The fenced blocks of a Markdown text, in order."""
    lines = markdown.splitlines()
    number = 0
    while number < len(lines):
        opening = FENCE.fullmatch(lines[number])
        number += 1
        if not opening:
            continue
        start = number
        while number < len(lines) and lines[number].strip() != opening["ticks"]:
            number += 1
        runs = start >= 2 and lines[start - 2].strip() == MARKER
        yield Block(language=opening["language"], code="\n".join(lines[start:number]) + "\n", line=start + 1, runs=runs)
        number += 1


def calls(command: str, program: str) -> list[list[str]]:
    """The arguments of each call of `program` in a shell command, which may be a pipe or set variables first."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    segments: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("();<>|&"):
            segments.append([])
        elif segments[-1] or not re.match(r"\w+=", word):
            segments[-1].append(word)
    return [words[1:] for words in segments if words and words[0].rpartition("/")[2] == program]


def offline_environment(bin_folder: Path) -> dict[str, str]:
    """An environment where `robert` and `python` are this checkout's, and nothing reaches out."""
    bin_folder.mkdir()
    python = shlex.quote(sys.executable)
    for name, arguments in (("python", ""), ("robert", '-c "from robert_pipeline.cli import main; main()"')):
        script = bin_folder / name
        script.write_text(f'#!/bin/sh\nexec {python} {arguments} "$@"\n')
        script.chmod(0o755)
    quiet = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    paths = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return os.environ | quiet | paths | {"PREFECT_HOME": str(bin_folder / "prefect")}


def run(arguments: list[str], *, folder: Path, environment: dict[str, str], place: str) -> str:
    """Run one example; gives what it printed. A non-zero exit fails the test, naming the place in the document."""
    done = subprocess.run(
        arguments,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{place}: exit code {done.returncode}\n{done.stdout[-2000:]}"
    return done.stdout


def run_marked(marked: Sequence[Block], *, document: str, folder: Path, environment: dict[str, str]) -> list[str]:
    """Run examples in order, in one folder; gives what each block printed."""
    printed: list[str] = []
    for block in marked:
        place = f"{document}:{block.line}"
        if block.language == "python":
            printed.append(run([sys.executable, "-c", block.code], folder=folder, environment=environment, place=place))
            continue
        assert block.language in SHELLS, f"{place}: a block of kind '{block.language}' cannot be run"
        assert block.commands(), f"{place}: no command; they start with '$ '"
        said = ""
        for command in block.commands():
            shell = ["bash", "-o", "pipefail", "-c", command]
            said += run(shell, folder=folder, environment=environment, place=f"{place}: {command}")
        printed.append(said)
    return printed
