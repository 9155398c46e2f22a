"""The evaluation page: whole in itself, with every figure of the evaluation, whatever the labels are called."""

import dataclasses
from html.parser import HTMLParser

import numpy as np
import pytest

from robert_pipeline.core.judge import Contender, answers_from, evaluate
from robert_pipeline.core.model import default_thresholds, no_calibration
from robert_pipeline.pages.evaluation import evaluation_page, spread_percent, summary

LABELS = ("sport", "<script>alert(1)</script>", "R&D")
VOID = {"meta", "link", "br", "hr", "img", "input", "path", "line", "circle", "rect"}


def evaluation(output="multiclass", *, labels=LABELS, contenders=2, seeds=2, documents=60):
    rng = np.random.default_rng(0)
    truth_BK = np.eye(len(labels), dtype=bool)[rng.integers(0, len(labels), documents)]
    names = [f"model {number}" for number in range(contenders)]
    return evaluate(
        [
            Contender(
                name=name,
                description=f"what {name} is",
                answers=tuple(
                    answers_from(
                        rng.normal(0, 2, truth_BK.shape) + 2 * truth_BK,
                        output,
                        no_calibration(len(labels)),
                        default_thresholds(len(labels)),
                        seed=seed,
                    )
                    for seed in range(seeds)
                ),
            )
            for name in names
        ],
        truth_BK,
        rng.integers(1, 9, documents),
        labels=labels,
        output=output,
        facts=[("corpus", "a <b> & c")],
    )


class Page(HTMLParser):
    """The tags, references and text of a page; every tag must be closed where it was opened."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.references, self.open, self.words = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "xlink:href", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)


@pytest.mark.parametrize("output", ["multiclass", "multilabel"])
@pytest.mark.parametrize("contenders", [1, 5])
def test_the_page_needs_nothing_beside_it(output, contenders):
    """The page of an evaluation would be blank without network, or tell a server that it is read."""
    page = Page(evaluation_page(evaluation(output, contenders=contenders)))
    assert page.open == []
    assert page.references == []
    assert "script" not in page.tags
    assert "svg" in page.tags


def test_every_model_label_and_figure_is_shown():
    """A model that lost, or a label that is never found, could be left out unnoticed."""
    found = evaluation()
    text = Page(evaluation_page(found)).text
    for model in found.models:
        for figure in (model.name, model.description, spread_percent(model.accuracy), spread_percent(model.macro_f1)):
            assert figure in text
    for label in LABELS:
        assert label in text
    assert "a <b> & c" in text
    for sentence in summary(found):
        assert sentence in text


def test_a_corpus_cannot_write_the_page():
    """A label could run a script in the browser of whoever reads the page."""
    html = evaluation_page(evaluation())
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_many_labels_make_no_matrix_that_nobody_can_read():
    """A corpus of hundreds of labels would make a page of a hundred thousand cells."""
    labels = tuple(f"label {number}" for number in range(70))
    assert "takes for what" not in evaluation_page(evaluation(labels=labels, documents=200))


def test_what_is_not_known_is_not_claimed():
    """A head that was trained elsewhere would be said to be judged on documents that it has never seen."""
    found = evaluation()
    assert "that it has not learned from" in summary(found)[0]
    assert "learned" not in summary(dataclasses.replace(found, all_unseen=False))[0]
