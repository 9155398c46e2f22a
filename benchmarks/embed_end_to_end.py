"""`robert embed` against the bare loop: what reading, planning, Beam and writing cost beside the encoder.

Both embed the same documents, each in a process of its own, in turns. The bare loop holds its texts in memory, has its
encoder loaded, and calls `embed_texts` on blocks as large as the run's; vectors are thrown away. The run is timed
whole: plan, Beam and the encoder loaded, corpus read from Parquet, shards on disk. Both rates count documents' tokens,
the first by the clock; the second, by the processor time of the process, does not see what else the machine
is doing.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.corpora import articles, encoder_folder, write_corpus
from benchmarks.harness import Figure, in_turn, options, show

RUN = """
import sys, time
corpus, store, encoder = sys.argv[1:]
started, cpu = time.perf_counter(), time.process_time()
from robert_pipeline.config import EncoderSource, Settings
from robert_pipeline.runs.embed import embed
report = embed(Settings(corpus=corpus, store=store, encoder=EncoderSource(name=encoder)), run_id="benchmark")
assert report.counts.documents == report.counts.embedded
print(report.counts.tokens, time.perf_counter() - started, time.process_time() - cpu)
"""

BARE_LOOP = """
import sys, time
import pyarrow.parquet as pq
from robert_pipeline.config import Chunking, Embedding, EncoderSource
from robert_pipeline.core.embed import BatchBudget, embed_texts
from robert_pipeline.core.reading import read_texts
from robert_pipeline.storage.encoders import load_encoder
corpus, _, encoder = sys.argv[1:]
loaded = load_encoder(EncoderSource(name=encoder))
texts = pq.read_table(corpus, columns=["text"])["text"].to_pylist()
blocks, held = [[]], 0
for text in texts:
    blocks[-1].append(text)
    held += len(text.encode())
    if held >= Embedding().block_bytes:
        blocks.append([])
        held = 0
budget = BatchBudget(tokens=loaded.encoder.batch_tokens)
def work(block):
    read = read_texts(block, loaded.tokenizer, Chunking())
    for _ in embed_texts(read, frame=loaded.tokenizer.frame, encoder=loaded.encoder, budget=budget):
        pass
    return int(read.token_counts_B.sum())
work(texts[:20])
started, cpu = time.perf_counter(), time.process_time()
tokens = sum(map(work, blocks))
print(tokens, time.perf_counter() - started, time.process_time() - cpu)
"""


def main() -> None:
    """Measure, print, write."""
    parser = options(__doc__ or "")
    parser.add_argument("--encoder", choices=("minilm", "bert-base"), default="minilm")
    parser.add_argument("--documents", type=int, help="[20,000; 300 with --quick]")
    parser.add_argument("--repeats", type=int, help="[3; 1 with --quick]")
    chosen = parser.parse_args()
    documents = chosen.documents or (300 if chosen.quick else 20_000)
    texts = articles()
    with tempfile.TemporaryDirectory(prefix="robert-end-to-end-") as name:
        folder = Path(name)
        encoder = encoder_folder(chosen.encoder, folder / "encoder", texts.documents)
        write_corpus(folder / "corpus", texts.documents, documents)
        by_processor: dict[str, list[float]] = {}

        def measure(contender: str, code: str) -> float:
            store = tempfile.mkdtemp(dir=folder)
            command = [sys.executable, "-W", "ignore", "-c", code, str(folder / "corpus"), store, str(encoder)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            tokens, seconds, cpu_seconds = map(float, done.stdout.split())
            by_processor.setdefault(contender, []).append(tokens / cpu_seconds)
            return tokens / seconds

        taken = in_turn(
            {
                "bare loop": lambda: measure("bare loop", BARE_LOOP),
                "robert embed": lambda: measure("robert embed", RUN),
            },
            repeats=chosen.repeats or (1 if chosen.quick else 3),
            warm_up=False,
        )
    figures = {name: Figure(name=name, unit="tokens/s", values=values) for name, values in taken.items()}
    processor = {
        name: Figure(name=f"{name}, processor time", unit="tokens/s", values=tuple(values))
        for name, values in by_processor.items()
    }
    show(
        f"embedding {documents:,} documents of {texts.name} with {chosen.encoder}, end to end",
        [*figures.values(), *processor.values()],
        {
            "ratio_bare_loop": figures["robert embed"].median / figures["bare loop"].median,
            "ratio_bare_loop_processor_time": processor["robert embed"].median / processor["bare loop"].median,
        },
        json_file=chosen.json,
    )


if __name__ == "__main__":
    main()
