"""`robert embed` against the bare loop and the machine's ceiling, from Parquet to shards.

All embed the same documents, each in a process of its own, in turns. The bare loop holds its texts in memory, has its
encoder loaded, and calls `embed_texts` on blocks as large as the run's; vectors are thrown away. The work units are
what a worker of any engine does once its encoder is loaded: `embed_unit` on one after the other, corpus read from
Parquet, shards on disk. The run is timed whole: plan, Beam and the encoder loaded, corpus read, shards written. It
needs Beam; the others need no more than torch, transformers and pyarrow, and run on a bare GPU machine.

Rates count documents' tokens, by the clock and by the processor time of the process, which does not see what else the
machine is doing. Shares of the ceiling count what the encoder read, overlapping chunks twice, against its matrix
products alone.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.corpora import articles, encoder_folder, write_corpus
from benchmarks.harness import Figure, in_turn, options, show

RUN = """
import json, sys, time
corpus, store, encoder = sys.argv[1:]
started, cpu = time.perf_counter(), time.process_time()
from robert_pipeline.config import EncoderSource, Settings
from robert_pipeline.runs.embed import embed
report = embed(Settings(corpus=corpus, store=store, encoder=EncoderSource(name=encoder)), run_id="benchmark")
assert report.counts.documents == report.counts.embedded
seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
print(json.dumps({"tokens": report.counts.tokens, "seconds": seconds, "cpu": cpu}))
"""

UNITS = """
import json, sys, time
from dataclasses import replace
from functools import partial
from robert_pipeline.config import EncoderSource, Settings
from robert_pipeline.runs.plan import plan
from robert_pipeline.stages.at_once import AtOnce, units_at_once
from robert_pipeline.stages.embedding import embed_unit, worker_encoder
from robert_pipeline.types import Counts, EncoderUse
corpus, store, encoder = sys.argv[1:]
planned = plan(Settings(corpus=corpus, store=store, encoder=EncoderSource(name=encoder)), run_id="benchmark")
loaded = worker_encoder(planned.job.encoder, planned.job.encoder_fingerprint)
ceiling = loaded.encoder.ceiling_tokens_per_second
units = planned.missing
embed_unit(units[-1], replace(planned.job, store=store + "-warm"), loaded)
started, cpu = time.perf_counter(), time.process_time()
with AtOnce(units_at_once(loaded.encoder.device.type)) as under_way:
    for unit in units:
        under_way.do(partial(embed_unit, unit, planned.job, loaded))
seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
from robert_pipeline.runs.embed import partition_headers
headers = dict(header for partition in planned.partitions for header in partition_headers(planned, partition))
use = sum((headers[unit.unit_id].encoder_use for unit in units), EncoderUse())
counts = sum((headers[unit.unit_id].counts for unit in units), Counts())
assert counts.documents == counts.embedded
print(json.dumps({
    "tokens": counts.tokens, "seconds": seconds, "cpu": cpu, "way": loaded.encoder.way,
    "ceiling_share": use.encoded_tokens / seconds / ceiling, "ceiling": ceiling,
    "gpu_busy_share": use.gpu_busy_share if use.gpu_seconds else None,
}))
"""

BARE_LOOP = """
import json, sys, time
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
seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
print(json.dumps({"tokens": tokens, "seconds": seconds, "cpu": cpu}))
"""

CONTENDERS = {"bare loop": BARE_LOOP, "work units": UNITS, "robert embed": RUN}
CLOCKS = {"": "seconds", ", processor time": "cpu"}
Answers = dict[str, list[dict[str, Any]]]
"""What each contender said, by its name."""


def main() -> None:
    """Measure, print, write."""
    parser = options(__doc__ or "")
    parser.add_argument("--encoder", choices=("minilm", "bert-base"), default="minilm")
    parser.add_argument("--documents", type=int, help="[20,000; 300 with --quick]")
    parser.add_argument("--repeats", type=int, help="[3; 1 with --quick]")
    parser.add_argument("--only", action="append", help="this contender; may be repeated", choices=list(CONTENDERS))
    chosen = parser.parse_args()
    documents = chosen.documents or (300 if chosen.quick else 20_000)
    absent = {} if find_spec("apache_beam") else {"robert embed": "not installed: pip install apache-beam"}
    names = [name for name in chosen.only or CONTENDERS if name not in absent]
    texts = articles()
    answers: Answers = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="robert-end-to-end-") as name:
        folder = Path(name)
        encoder = encoder_folder(chosen.encoder, folder / "encoder", texts.documents)
        write_corpus(folder / "corpus", texts.documents, documents)

        def measure(contender: str) -> float:
            store = tempfile.mkdtemp(dir=folder)
            command = [sys.executable, "-W", "ignore", "-c", CONTENDERS[contender]]
            done = subprocess.run(
                [*command, str(folder / "corpus"), store, str(encoder)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(done.stderr)
            answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            answers[contender].append(answer)
            rate: float = answer["tokens"] / answer["seconds"]
            return rate

        in_turn(
            {name: partial(measure, name) for name in names},
            repeats=chosen.repeats or (1 if chosen.quick else 3),
            warm_up=False,
        )
    show(
        f"embedding {documents:,} documents of {texts.name} with {chosen.encoder}, end to end",
        list(_figures(answers)),
        _ratios(answers),
        json_file=chosen.json,
        absent=absent,
    )


def _figures(answers: Answers) -> Iterator[Figure]:
    for title, clock in CLOCKS.items():
        for name, of_one in answers.items():
            rates = tuple(answer["tokens"] / answer[clock] for answer in of_one)
            way = of_one[0].get("way", "") if clock == "seconds" else ""
            yield Figure(name=name + title, unit="tokens/s", values=rates, note=way)


def _ratios(answers: Answers) -> dict[str, float]:
    def rate(name: str, clock: str) -> float:
        return float(median(answer["tokens"] / answer[clock] for answer in answers[name]))

    ratios = {}
    if {"bare loop", "robert embed"} <= answers.keys():
        for title, clock in CLOCKS.items():
            ratio = rate("robert embed", clock) / rate("bare loop", clock)
            ratios["ratio_bare_loop" + title.replace(", ", "_").replace(" ", "_")] = ratio
    for share in ("ceiling_share", "gpu_busy_share"):
        if values := [answer[share] for answer in answers.get("work units", []) if answer[share] is not None]:
            ratios[f"units_{share}"] = median(values)
    return ratios


if __name__ == "__main__":
    main()
