"""`robert embed` against the bare loop and the machine's ceiling, from Parquet to shards.

All embed the same documents, each in a process of its own, side by side in slices of some seconds; with a GPU one
after the other. The bare loop holds its texts in memory, has its encoder loaded, and calls `embed_texts` on blocks as
large as the run's; vectors are thrown away. The work units are what a worker of any engine does once its encoder is
loaded: `embed_unit` on one after the other, corpus read from Parquet, shards on disk. The run is timed whole: plan,
Beam and the encoder loaded, corpus read, shards written. It needs Beam; the others need no more than torch,
transformers and pyarrow, and run on a bare GPU machine.

Rates count documents' tokens. Shares of the ceiling count what the encoder read, overlapping chunks twice, against its
matrix products alone.
"""

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.corpora import articles, encoder_folder, write_corpus
from benchmarks.harness import Figure, options, show
from benchmarks.slices import SLICE_SECONDS, side_by_side

RUN = """
import json, sys, time
corpus, store, encoder = sys.argv[1:]
began = time.monotonic()
from robert_pipeline.config import EncoderSource, Settings
from robert_pipeline.runs.embed import embed
report = embed(Settings(corpus=corpus, store=store, encoder=EncoderSource(name=encoder)), run_id="benchmark")
assert report.counts.documents == report.counts.embedded
print(json.dumps({"tokens": report.counts.tokens, "began": began, "ended": time.monotonic()}))
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
began = time.monotonic()
with AtOnce(units_at_once(loaded.encoder.device.type)) as under_way:
    for unit in units:
        under_way.do(partial(embed_unit, unit, planned.job, loaded))
ended = time.monotonic()
from robert_pipeline.runs.embed import partition_headers
headers = dict(header for partition in planned.partitions for header in partition_headers(planned, partition))
use = sum((headers[unit.unit_id].encoder_use for unit in units), EncoderUse())
counts = sum((headers[unit.unit_id].counts for unit in units), Counts())
assert counts.documents == counts.embedded
print(json.dumps({
    "tokens": counts.tokens, "began": began, "ended": ended, "way": loaded.encoder.way,
    "encoded_tokens": use.encoded_tokens, "ceiling": ceiling,
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
began = time.monotonic()
tokens = sum(map(work, blocks))
print(json.dumps({"tokens": tokens, "began": began, "ended": time.monotonic()}))
"""

CONTENDERS = {"bare loop": BARE_LOOP, "work units": UNITS, "robert embed": RUN}
Answers = list[dict[str, dict[str, Any]]]
"""What the contenders of each turn said, by name."""


def main() -> None:
    """Measure, print, write."""
    parser = options(__doc__ or "")
    parser.add_argument("--encoder", choices=("minilm", "bert-base"), default="minilm")
    parser.add_argument("--documents", type=int, help="[20,000; 300 with --quick]")
    parser.add_argument("--repeats", type=int, default=1, help="turns [1]")
    parser.add_argument("--slice-seconds", type=float, default=SLICE_SECONDS, help=f"[{SLICE_SECONDS}]")
    parser.add_argument("--only", action="append", help="this contender; may be repeated", choices=list(CONTENDERS))
    chosen = parser.parse_args()
    slice_seconds = None if torch.cuda.is_available() else chosen.slice_seconds
    documents = chosen.documents or (300 if chosen.quick else 20_000)
    absent = {} if find_spec("apache_beam") else {"robert embed": "not installed: pip install apache-beam"}
    names = [name for name in chosen.only or CONTENDERS if name not in absent]
    texts = articles()
    answers: Answers = []
    with tempfile.TemporaryDirectory(prefix="robert-end-to-end-") as name:
        folder = Path(name)
        encoder = encoder_folder(chosen.encoder, folder / "encoder", texts.documents)
        write_corpus(folder / "corpus", texts.documents, documents)
        for turn in range(1, chosen.repeats + 1):
            commands = {name: _command(name, folder, encoder) for name in names}
            answers.append({})
            for name, answer in side_by_side(commands, seconds=slice_seconds):
                answers[-1][name] = answer
                print(f"turn {turn} of {chosen.repeats}: {name} {_rate(answer):,.0f} tokens/s", file=sys.stderr)
    show(
        f"embedding {documents:,} documents of {texts.name} with {chosen.encoder}, end to end",
        [_figure(name, [turn[name] for turn in answers]) for name in names],
        _ratios(answers),
        json_file=chosen.json,
        absent=absent,
    )


def _command(contender: str, folder: Path, encoder: Path) -> list[str]:
    store = tempfile.mkdtemp(dir=folder)
    return [sys.executable, "-W", "ignore", "-c", CONTENDERS[contender], str(folder / "corpus"), store, str(encoder)]


def _rate(answer: dict[str, Any], counted: str = "tokens") -> float:
    return float(answer[counted] / answer["seconds"])


def _figure(name: str, answers: list[dict[str, Any]]) -> Figure:
    return Figure(name=name, unit="tokens/s", values=tuple(map(_rate, answers)), note=answers[0].get("way", ""))


def _ratios(answers: Answers) -> dict[str, float]:
    """Medians over the turns: of ratios, as the slices of a turn's contenders lie between each other's."""
    ratios = {
        f"ratio_{name.replace(' ', '_')}_to_bare_loop": median(
            _rate(turn[name]) / _rate(turn["bare loop"]) for turn in answers
        )
        for name in ("work units", "robert embed")
        if {name, "bare loop"} <= answers[0].keys()
    }
    if "work units" in answers[0]:
        units = [turn["work units"] for turn in answers]
        ratios["units_ceiling_share"] = median(_rate(unit, "encoded_tokens") / unit["ceiling"] for unit in units)
        if units[0]["gpu_busy_share"] is not None:
            ratios["units_gpu_busy_share"] = median(unit["gpu_busy_share"] for unit in units)
    return ratios


if __name__ == "__main__":
    main()
