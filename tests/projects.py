"""A small project: a corpus of which one day carries labels, and what the commands make of it."""

import random
import shutil
from dataclasses import replace

import pyarrow as pa

from robert_pipeline.config import Chunking, Settings, TrainingConfig, Warehouse
from robert_pipeline.runs.embed import embed
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.train import train
from tests.corpora import invalid_utf8, write_file

LEARN, LABEL = "day=2026-01-01", "day=2026-01-02"
WORDS = {
    "sport": ["match", "goal", "team", "player", "season", "coach", "league", "win", "cup", "score"],
    "business": ["profit", "bank", "shares", "market", "growth", "firm", "sales", "economy", "price", "trade"],
}
DOCUMENTS_TO_LABEL = 10
REJECTED = {"d6": "null_text", "d7": "empty_text", "d8": "invalid_utf8", None: "null_doc_id", "d0": "duplicate_doc_id"}
"""doc_id to reason, of the bad rows among those."""


def texts(label, count, seed):
    """Texts of five to eighty words of one kind."""
    chosen = random.Random(f"{label} {seed}")  # noqa: S311 - not for secrets
    return [" ".join(chosen.choices(WORDS[label], k=chosen.randint(5, 80))) for _ in range(count)]


def write_corpus(folder):
    """Forty documents with labels, in two files, and ten rows to label, half of them bad."""
    for number, label in enumerate(WORDS):
        learned = texts(label, 20, "learn")
        ids = [f"{label}-{i}" for i in range(len(learned))]
        write_file(folder / LEARN / f"{number}.parquet", doc_id=ids, text=learned, label=[label] * len(learned))
    good = [text for label in WORDS for text in texts(label, 3, "label")][:5]
    bad = [b"x", b"  ", b"caf\xe9", b"no id", b"again"]
    column = invalid_utf8([text.encode() for text in good] + bad)
    column = pa.compute.if_else(pa.array([i == 5 for i in range(len(column))]), None, column)
    ids = pa.array([*(f"d{i}" for i in range(5)), "d6", "d7", "d8", None, "d0"], pa.string())
    write_file(folder / LABEL / "a.parquet", doc_id=ids, text=column)


def write_project(folder, encoder):
    """Write the corpus, embed the labelled day and train a head on it; give the settings."""
    write_corpus(folder / "corpus")
    settings = Settings(
        corpus=str(folder / "corpus"),
        store=str(folder / "store"),
        model=str(folder / "model"),
        warehouse=Warehouse(uri=str(folder / "warehouse")),
        encoder=encoder,
        chunking=Chunking(chunk_tokens=16, overlap_tokens=4),
    )
    embed(settings, partitions=[LEARN], run_id="learn")
    train(settings, plan(settings, partitions=[LEARN], run_id="learn"))
    return settings


def train_another_head(settings, folder):
    """The same project with another head."""
    other = replace(settings, model=str(folder), training=TrainingConfig(seed=5))
    train(other, plan(other, partitions=[LEARN], run_id="learn"))
    return other


def elsewhere(settings, folder):
    """The same project with a store and a warehouse of its own, both empty."""
    return replace(settings, store=str(folder / "store"), warehouse=Warehouse(uri=str(folder / "warehouse")))


def copy_of(settings, folder):
    """The same project with a copy of its store, and an empty warehouse."""
    own = elsewhere(settings, folder)
    shutil.copytree(settings.store, own.store)
    return own
