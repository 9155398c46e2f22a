"""Workers report, whoever listens in the same process hears."""

import threading
import time

from robert_pipeline.runs.embed import embed
from robert_pipeline.runs.label import label
from robert_pipeline.runs.plan import plan
from robert_pipeline.stages.progress import Done, listening, report
from tests.projects import LABEL, elsewhere


def test_a_listener_hears_while_it_listens_and_not_after():
    """A finished progress bar would be drawn again, or a running one would stand still."""
    heard = []
    report(Done(stage="embedding", documents=1))
    with listening(heard.append):
        report(Done(stage="embedding", documents=2))
        worker = threading.Thread(target=report, args=[Done(stage="scoring", documents=3)])
        worker.start()
        worker.join()
    report(Done(stage="embedding", documents=4))
    assert [done.documents for done in heard] == [2, 3]


def test_a_listener_is_told_one_thing_at_a_time():
    """Rows are written in one thread while another encodes: tokens on the bar would be lost between the two."""
    heard = [0]

    def count(done):
        before = heard[0]
        time.sleep(0.001)  # the other thread's turn
        heard[0] = before + done.tokens

    def work():
        for _ in range(20):
            report(Done(stage="embedding", tokens=1))

    with listening(count):
        workers = [threading.Thread(target=work) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert heard == [40]


def test_listeners_do_not_outlive_an_error():
    """Every failed run in one process would leave a listener behind."""
    heard = []
    try:
        with listening(heard.append):
            raise ValueError
    except ValueError:
        report(Done(stage="embedding"))
    assert heard == []


def test_a_run_reports_every_row_of_each_stage_once(project, tmp_path):
    """The bar would stop before the end, or run over it."""
    settings = elsewhere(project, tmp_path)
    heard = []
    with listening(heard.append):
        done = label(settings, plan(settings, partitions=[LABEL], run_id="r"))
    assert sum(d.documents for d in heard if d.stage == "embedding") == 10
    assert sum(d.documents for d in heard if d.stage == "scoring") == 5
    assert sum(d.tokens for d in heard) >= done.embed.counts.tokens
    again = []
    with listening(again.append):
        embed(settings, partitions=[LABEL], run_id="r")
    assert again == []
