"""What becomes of an error: one line, an exit code, and a traceback only when asked for."""

import sys

import pytest

from robert_pipeline import __version__
from robert_pipeline.cli import main
from robert_pipeline.errors import CorpusError, RobertError
from robert_pipeline.runs import plan as plan_run


def test_the_version_is_told(robert):
    """A bug report could not say which release it is about."""
    assert robert("--version").out == f"robert {__version__}\n"


def test_an_error_is_one_line_on_stderr(robert):
    """A user would read a traceback, or a script would read an error as a result and go on."""
    shown = robert("plan", "--corpus", "nowhere [bold]x[/]")
    assert shown.code == 1
    assert shown.out == ""
    assert shown.err == (
        "error: corpus nowhere [bold]x[/] does not exist. Give a folder of Parquet files or one Parquet file\n"
    )


@pytest.mark.parametrize("place", range(4))
def test_debug_shows_the_traceback_wherever_it_stands(monkeypatch, tmp_path, place):
    """A bug report could not say where the program failed."""
    monkeypatch.chdir(tmp_path)
    arguments = ["plan", "--corpus", "nowhere"]
    arguments.insert(place, "--debug")
    monkeypatch.setattr(sys, "argv", ["robert", *arguments])
    with pytest.raises(CorpusError, match="corpus nowhere does not exist"):
        main()


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ZeroDivisionError("one\ntwo"), "unexpected ZeroDivisionError: one."),
        (MemoryError(), "unexpected MemoryError: MemoryError."),
        (FileNotFoundError(2, "No such file", "x"), "unexpected FileNotFoundError: [Errno 2] No such file: 'x'."),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_nobody_foresaw_is_one_line_too(robert, monkeypatch, error, line):
    """A bug would fill the terminal of somebody who cannot mend it."""
    monkeypatch.setattr(plan_run, "plan", raising(error))
    shown = robert("plan")
    assert (shown.code, shown.out) == (1, "")
    assert shown.err == f"error: {line} Run it again with --debug for the traceback\n"


@pytest.mark.parametrize("kind", RobertError.__subclasses__())
def test_every_error_made_on_purpose_shows_problem_and_fix(robert, monkeypatch, kind):
    """An error would tell what is wrong, and not what to do."""
    monkeypatch.setattr(plan_run, "plan", raising(kind("this is wrong", fix="Do that")))
    assert robert("plan").err == "error: this is wrong. Do that\n"


def test_ctrl_c_says_that_work_is_kept(robert, monkeypatch):
    """Somebody who stops a run would think that all of it is lost, or a script that it ended well."""
    monkeypatch.setattr(plan_run, "plan", raising(KeyboardInterrupt()))
    shown = robert("plan")
    assert (shown.code, shown.out) == (130, "")
    assert shown.err == "stopped; what is done is kept: run the same command again to go on\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope"], "No such command 'nope'"),
        (["plan", "--nope"], "No such option: --nope"),
        (["plan", "--chunk-tokens", "many"], "--chunk-tokens"),
        (["query"], "Missing argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_names_the_program_and_the_fault(robert, arguments, words):
    """A typing error would be answered with a traceback, or with the name of the interpreter."""
    shown = robert(*arguments)
    assert (shown.code, shown.out) == (2, "")
    assert "Usage: robert" in shown.err
    assert words in shown.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "--corpus", ""],
        ["embed", "--corpus", "nowhere"],
        ["train", "--pooling", "max"],
        ["score"],
        ["publish", "--model", "nowhere"],
        ["label", "--chunk-tokens", "0"],
        ["predict", "nowhere.parquet"],
        ["query", "select 1", "--warehouse", "nowhere"],
        ["import", "nowhere.csv"],
        ["import", "nowhere.csv", "--text-column", ""],
        ["plan", "--config", "nowhere.toml"],
    ],
    ids=" ".join,
)
def test_every_command_refuses_in_one_line(robert, arguments, tmp_path):
    """One command's mistakes would look different from another's, or leave something behind."""
    shown = robert(*arguments)
    assert (shown.code, shown.out) == (1, "")
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert "unexpected" not in shown.err
    assert list(tmp_path.iterdir()) == []
