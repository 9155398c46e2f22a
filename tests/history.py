"""A history to label: many small days, and an encoder and a head that are quick."""

from dataclasses import replace

from robert_pipeline.storage.warehouse import open_warehouse
from tests.corpora import write_texts
from tests.projects import WORDS, elsewhere, texts

DOCUMENTS = 4
"""Of each day."""


def days(count):
    """Partitions of so many days."""
    return [f"day=2026-02-{number:02}" for number in range(1, count + 1)]


def write_day(corpus, day, documents=DOCUMENTS):
    """A day of so many documents of every label."""
    found = [text for label in WORDS for text in texts(label, documents // len(WORDS), day)]
    write_texts(corpus / day / "a.parquet", found, prefix=f"{day}-")


def write_history(project, folder, count):
    """Settings of a project with so many days, none of them embedded; its head is the project's."""
    for day in days(count):
        write_day(folder / "corpus", day)
    return replace(elsewhere(project, folder), corpus=str(folder / "corpus"), registry=str(folder / "models"))


def commits(settings):
    """How often each partition of the predictions was committed."""
    found = {}
    sink = open_warehouse(settings.warehouse)
    for version in sink.history("predictions") if sink.commit_keys("predictions") else []:
        if version.partition is not None:
            found[version.partition] = found.get(version.partition, 0) + 1
    return found
