"""What a person sees: bars only on a terminal, tables that fit it, everything whole elsewhere."""

import io
import re

import pyarrow as pa
import pytest
from rich.console import Console

from robert_pipeline import terminal
from robert_pipeline.stages.progress import Done, report


@pytest.fixture
def screens(monkeypatch):
    """Consoles of a terminal: stdout 50 columns wide, stderr 150."""
    made = [Console(file=io.StringIO(), force_terminal=True, width=w, highlight=False) for w in (50, 150)]
    monkeypatch.setattr(terminal, "console", lambda: made[0])
    monkeypatch.setattr(terminal, "error_console", lambda: made[1])
    return [console.file for console in made]


def seen(screen):
    """What was written, without colours and movements of the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())


def run_work(documents=3):
    with terminal.work_progress({"embedding": documents, "scoring": documents}):
        for stage in ("embedding", "scoring"):
            report(Done(stage=stage, tokens=50))
            report(Done(stage=stage, documents=documents))


def test_progress_is_shown_on_a_terminal_s_stderr(screens):
    """A long run would look as if it hung, or its bar would be part of its results."""
    run_work()
    out, err = map(seen, screens)
    assert out == ""
    for words in ("embedding", "scoring", "3 of 3 documents", " documents/s, ", " tokens/s", "time left"):
        assert words in err


def test_nothing_is_drawn_where_there_is_no_terminal(capfd):
    """Log files of scheduled runs would fill with bars and empty lines."""
    run_work()
    with terminal.training_progress():
        pass
    with terminal.import_progress() as on_rows:
        on_rows(1, None)
    assert capfd.readouterr() == ("", "")


def test_import_progress_knows_the_end_or_not(screens):
    """A source of unknown length could not be imported with a bar."""
    for total in (None, 10):
        with terminal.import_progress() as on_rows:
            on_rows(5, total)
    assert "5 documents" in seen(screens[1])


def test_work_of_a_stage_that_is_not_shown_is_passed_over():
    """`robert embed` would fail where somebody scores in the same process."""
    with terminal.work_progress({"embedding": 1}):
        report(Done(stage="scoring", documents=1))


def test_rates_say_nothing_before_there_is_something_to_say(screens):
    """The first rate shown would be a division by zero."""
    with terminal.work_progress({"embedding": 0}):
        pass


def test_a_table_fits_the_terminal_and_marks_what_it_cut(screens):
    """A long text would fill the screen, or be cut without a sign."""
    terminal.show_table("", ["a"], [["x" * 200], ["one\n two"], [0.123456], [None]])
    shown = seen(screens[0])
    assert "…" in shown
    assert "one two" in shown
    assert "0.1235" in shown
    assert max(map(len, shown.splitlines())) == 50


def test_a_table_is_whole_where_there_is_no_terminal(capfd):
    """A file made of a table would hold cut cells."""
    terminal.show_table("", ["a", "b"], [["x" * 200, "y" * 200]])
    shown = capfd.readouterr().out
    assert "x" * 200 in shown
    assert "y" * 200 in shown


def test_an_arrow_table_is_shown_with_its_number_of_rows(capfd):
    """A result without rows would look like no result."""
    for rows, words in ((pa.table({"a": []}), "0 rows"), (pa.table({"a": [1]}), "1 row")):
        terminal.show_arrow(rows)
        assert capfd.readouterr().out.splitlines()[-1] == words


def test_csv_can_be_read_back(capfd):
    """Quotes, line breaks, nulls or nested values would shift the columns of a report."""
    rows = pa.table({"a": ['x,"y"\n', None], "b": pa.array([[1, 2], None]), "c": pa.array([{"k": "é"}, None])})
    terminal.show_csv(rows)
    assert capfd.readouterr().out == 'a,b,c\n"x,""y""\n","[1, 2]","{""k"": ""é""}"\n,,\n'


def test_marks_in_a_text_are_not_styles(capfd):
    """A path with brackets would lose them."""
    terminal.say("[bold]x[/] [red")
    assert capfd.readouterr().out == "[bold]x[/] [red\n"


@pytest.mark.parametrize(("count", "words"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (12_345, "12,345 rows")])
def test_counts_agree_with_their_noun(count, words):
    """'1 documents' would be read on every screen."""
    assert terminal.counted(count, "row") == words
