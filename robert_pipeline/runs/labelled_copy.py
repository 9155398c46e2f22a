"""A corpus of labelled documents alone: of a large one, a fit embeds only what it learns from."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from robert_pipeline.config import Columns, Settings
from robert_pipeline.runs.plan import Plan
from robert_pipeline.storage.corpus import open_corpus
from robert_pipeline.storage.token_set import nothing_to_learn
from robert_pipeline.types import Document, Reject
from schemas import DOCUMENTS

ROW_GROUP_ROWS = 1_000
ROW_GROUP_CHARACTERS = 8 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledCopy:
    """The settings that read the copy, and what is in it and what is not."""

    settings: Settings
    documents: int
    unlabelled: int
    rejected: int
    """Rows without a usable id or text."""


def copy_labelled(settings: Settings, planned: Plan, folder: Path) -> LabelledCopy:
    """Write the labelled documents of the planned partitions into `folder`, a file for each partition.

    Holds the labels of one partition and the texts of one row group. Raises TrainingError where no document has a
    label, CorpusError.
    """
    counts = {"documents": 0, "unlabelled": 0, "rejected": 0}
    corpus = open_corpus(settings.corpus, settings.columns)
    for number, partition in enumerate(planned.partitions):
        rows = (row for unit in partition.units for row in corpus.read(unit))
        labelled = _labelled(rows, dict(corpus.labels(partition.partition)), counts)
        _write(labelled, folder / f"partition={number:05d}" / "part-00000.parquet")
    if not counts["documents"]:
        raise nothing_to_learn(unlabelled=counts["unlabelled"], rejected=counts["rejected"])
    return LabelledCopy(settings=replace(settings, corpus=str(folder), columns=Columns()), **counts)


def _labelled(
    rows: Iterator[Document | Reject], labels: dict[str, str | None], counts: dict[str, int]
) -> Iterator[tuple[str, str, str]]:
    for row in rows:
        label = None if isinstance(row, Reject) else labels.get(row.doc_id)
        if isinstance(row, Reject):
            counts["rejected"] += 1
        elif label is None or not label.strip():
            counts["unlabelled"] += 1
        else:
            counts["documents"] += 1
            yield row.doc_id, row.text, label


def _write(rows: Iterator[tuple[str, str, str]], path: Path) -> None:
    groups = _row_groups(rows)
    first = next(groups, None)
    if first is None:  # an empty file is no partition
        return
    path.parent.mkdir(parents=True)
    with pq.ParquetWriter(path, DOCUMENTS.schema, compression="zstd") as writer:
        for group in itertools.chain([first], groups):
            writer.write_table(group)


def _row_groups(rows: Iterator[tuple[str, str, str]]) -> Iterator[pa.Table]:
    held: list[tuple[str, str, str]] = []
    characters = 0
    for row in rows:
        held.append(row)
        characters += len(row[1])
        if len(held) == ROW_GROUP_ROWS or characters >= ROW_GROUP_CHARACTERS:
            yield _table(held)
            held, characters = [], 0
    if held:
        yield _table(held)


def _table(held: list[tuple[str, str, str]]) -> pa.Table:
    ids, texts, labels = zip(*held, strict=True)
    return pa.table({"doc_id": ids, "text": texts, "label": labels}, DOCUMENTS.schema)
