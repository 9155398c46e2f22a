"""Peak memory of embedding and of scoring a corpus with one document of 5, 20 and 50 MB, and what finding it costs.

Each step runs in a process of its own, whose peak resident memory the operating system reports; 0 MB is the same corpus
without the document, 1 MB of articles. The encoder has MiniLM's width and one layer of random weights: its time says
nothing. Texts are BBC News, words shuffled. The head is RoBERT's LSTM of 100, with random weights. `seconds to plan`
are those of a partition of 256 MB of common articles in one row group: all of it is read to find no large document.
"""

import random
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.corpora import articles, small_encoder
from benchmarks.harness import Figure, options, show

SIZES_MB = (5, 20, 50)
PLANNED_MB = 256

EMBED = """
import resource, sys
from robert_pipeline.config import EncoderSource, Settings
from robert_pipeline.runs.embed import embed
corpus, store, encoder = sys.argv[1:]
report = embed(Settings(corpus=corpus, store=store, encoder=EncoderSource(name=encoder)), run_id="benchmark")
assert report.counts.documents == report.counts.embedded
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""

SCORE = """
import resource, sys
import torch
from robert_pipeline.config import EncoderSource, HeadConfig, Settings
from robert_pipeline.core.family import build_head
from robert_pipeline.core.model import TrainedHead, default_thresholds, no_calibration, weights_sha256
from robert_pipeline.core.origin import VectorOrigin
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.score import score
from robert_pipeline.storage.heads import save_head
corpus, store, encoder = sys.argv[1:]
settings = Settings(corpus=corpus, store=store, model=store + "-head", encoder=EncoderSource(name=encoder))
planned = plan(settings, run_id="benchmark")
config, dimension = HeadConfig().resolved(3), planned.encoder.dimension
torch.manual_seed(0)
module = build_head(config, dimension=dimension, label_count=3)
save_head(settings.model, TrainedHead(
    module=module, config=config, labels=("a", "b", "c"), dimension=dimension,
    origin=VectorOrigin(
        encoder=settings.encoder, encoder_fingerprint=planned.encoder.fingerprint, chunking=settings.chunking
    ),
    calibration=no_calibration(module.out.out_features), thresholds=default_thresholds(3),
    weights_sha256=weights_sha256(module),
))
score(planned, model=settings.model)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""

PLAN = """
import sys, time
from robert_pipeline.config import Columns, Embedding
from robert_pipeline.storage.corpus import open_corpus
corpus = open_corpus(sys.argv[1], Columns())
fragments = corpus.fragments("all")
started = time.perf_counter()
corpus.find_large(fragments, above_bytes=Embedding().unit_bytes)
print(time.perf_counter() - started)
"""


def main() -> None:
    """Measure, print, write."""
    parser = options(__doc__ or "")
    parser.add_argument("--megabytes", type=int, nargs="+", default=SIZES_MB, help="sizes of the document [5 20 50]")
    chosen = parser.parse_args()
    sizes, planned_mb = ((2,), 16) if chosen.quick else (chosen.megabytes, PLANNED_MB)
    texts = articles()
    with tempfile.TemporaryDirectory(prefix="robert-long-") as name:
        folder = Path(name)
        encoder = str(small_encoder(folder / "encoder"))
        figures: list[Figure] = []
        for size in (0, *sizes):
            corpus, store = folder / f"corpus-{size}", folder / f"store-{size}"
            long = ["\n".join(_shuffled(texts.documents, size))] if size else []
            _write(corpus, [*texts.documents[:400], *long])
            for step, program in (("embed", EMBED), ("score", SCORE)):
                peak = _printed(program, str(corpus), str(store), encoder)
                figures.append(Figure(name=f"{step}, a document of {size} MB", unit="MB peak", values=(peak,)))
        _write(folder / "many", list(_shuffled(texts.documents, planned_mb)))
        seconds = tuple(_printed(PLAN, str(folder / "many")) for _ in range(3))
        figures.append(Figure(name=f"find large documents in {planned_mb} MB", unit="seconds to plan", values=seconds))
    show(f"one long document among {texts.name}", figures, {}, json_file=chosen.json)


def _shuffled(documents: list[str], megabytes: int) -> list[str]:
    """Articles of so much text together, words shuffled."""
    chooser = random.Random(0)  # noqa: S311 - not for secrets
    made: list[str] = []
    left = megabytes * 1_000_000
    while left > 0:
        words = documents[chooser.randrange(len(documents))].split()
        chooser.shuffle(words)
        made.append(" ".join(words))
        left -= len(made[-1]) + 1
    return made


def _write(folder: Path, texts: list[str]) -> None:
    """A corpus of one row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    rows = pa.table({"doc_id": [f"{number:07}" for number in range(len(texts))], "text": texts})
    pq.write_table(rows, folder / "part-0.parquet", compression="zstd")


def _printed(program: str, *arguments: str) -> float:
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
