"""Peak memory of `robert embed` over 2,000 documents, and over 50,000: the ratio should be 1.

Each size is embedded in a process of its own, whose peak resident memory the operating system reports. The encoder has
MiniLM's width and one layer of random weights unless `--encoder` names another: its weights count towards the peak, its
quality does not. Texts are BBC News, words shuffled in every copy, so that no text repeats.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.corpora import articles, small_encoder, write_corpus
from benchmarks.harness import Figure, options, show

MEASURED = """
import resource, sys
from robert_pipeline.config import EncoderSource, Settings
from robert_pipeline.runs.embed import embed
corpus, store, encoder = sys.argv[1:]
report = embed(Settings(corpus=corpus, store=store, encoder=EncoderSource(name=encoder)), run_id="benchmark")
assert report.counts.documents == report.counts.embedded
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def main() -> None:
    """Measure, print, write."""
    parser = options(__doc__ or "")
    parser.add_argument("--encoder", help="folder or hub name [one random layer]")
    chosen = parser.parse_args()
    repeats, sizes = (1, (300, 2_400)) if chosen.quick else (2, (2_000, 50_000))
    texts = articles()
    with tempfile.TemporaryDirectory(prefix="robert-memory-") as folder:
        encoder = chosen.encoder or str(small_encoder(Path(folder) / "encoder"))
        figures: list[Figure] = []
        for documents in sizes:
            corpus = Path(folder) / f"corpus-{documents}"
            write_corpus(corpus, texts.documents, documents)
            peaks = [_peak_megabytes(corpus, Path(folder) / f"store-{documents}-{i}", encoder) for i in range(repeats)]
            figures.append(Figure(name=f"{documents:,} documents", unit="MB peak", values=tuple(peaks)))
    show(
        f"peak memory of embedding {texts.name}",
        figures,
        {f"ratio_{sizes[1] // sizes[0]}x_to_1x": figures[1].median / figures[0].median},
        json_file=chosen.json,
    )


def _peak_megabytes(corpus: Path, store: Path, encoder: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(corpus), str(store), encoder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
