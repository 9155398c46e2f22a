"""Embedding beside its peers: the same chunks, one contender after the other on the same machine, in turns.

Every contender is a process of its own. All are loaded and warmed up, then measured A B C … A B C …, one at a time
while the others wait, so that a machine that gets slower gets slower for all. Each is given chunks of text (200 tokens,
cut from real articles by the product's own chunker), tokenises them and returns one vector a chunk; its rate counts
tokens that are not padding. The ceiling is what the encoder's matrix products alone would reach: oneDNN or cuBLAS in
the machine's fast precision, measured in the same turns.

Vectors are compared with transformers in float32; only contenders whose every vector has a cosine of 0.999 or more
count as the best peer. A peer that is not installed is named with what to install; `benchmarks/peers.txt` has them all.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpora import articles, encoder_folder, repeated
from benchmarks.embed_peers import PEERS
from benchmarks.embed_worker import CEILING, PRODUCT, REFERENCE
from benchmarks.harness import Figure, options, show
from robert_pipeline.config import Chunking

MIN_COSINE = 0.999
TITLES = {"minilm": "MiniLM-L6", "bert-base": "BERT-base"}


@dataclass(kw_only=True, slots=True)
class Contender:
    """A process that answers, or the reason why there is none."""

    name: str
    process: "subprocess.Popen[str]"
    errors: IO[bytes]
    way: str = ""
    absent: str = ""
    rates: list[float] = field(default_factory=list)
    cosines: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def ask(self, line: str) -> dict[str, str]:
        """Its answer; {} where it has died, and then `absent` says of what."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            if line:
                self.process.stdin.write(line + "\n")
                self.process.stdin.flush()
            answer: dict[str, str] = json.loads(self.process.stdout.readline())
        except (OSError, ValueError):
            self.errors.seek(0)
            said = self.errors.read().decode(errors="replace").strip().splitlines()
            self.absent = f"failed: {said[-1][:90] if said else 'no word'}"
            return {}
        return answer


def main() -> None:
    """Measure, print, write."""
    parser = options(__doc__ or "")
    parser.add_argument("--encoder", choices=list(TITLES), default="minilm")
    parser.add_argument(
        "--chunks", type=int, help="chunks in one pass [400 MiniLM, 100 BERT-base; a GPU 40 times that]"
    )
    parser.add_argument("--repeats", type=int, help="passes of each contender [7; 2 with --quick]")
    parser.add_argument("--only", action="append", help="of the peers, this one; may be repeated", choices=list(PEERS))
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the peers [this one]")
    chosen = parser.parse_args()
    count = chosen.chunks or _chunk_count(chosen.encoder, quick=chosen.quick)
    texts = articles()
    with tempfile.TemporaryDirectory(prefix="robert-embed-") as name:
        folder = Path(name)
        encoder = encoder_folder(chosen.encoder, folder / "encoder", texts.documents)
        chunks, tokens = _chunks(encoder, texts.documents, count)
        (folder / "chunks.json").write_text(json.dumps(chunks))
        _say(f"{len(chunks):,} chunks of {texts.name}, {tokens:,} tokens; {TITLES[chosen.encoder]} in {encoder}")
        contenders = [
            _start(name, encoder, folder, chosen.python) for name in (PRODUCT, CEILING, *(chosen.only or PEERS))
        ]
        _compare_vectors(contenders, encoder, folder, chosen.python, min(count, 40 if chosen.quick else 200))
        _measure(contenders, tokens, repeats=chosen.repeats or (2 if chosen.quick else 7))
        for contender in contenders:
            contender.process.kill()
            contender.process.wait()
    _report(f"embedding {texts.name} with {TITLES[chosen.encoder]}", contenders, chosen.json)


def _chunk_count(encoder: str, *, quick: bool) -> int:
    import torch

    count = {"minilm": 400, "bert-base": 100}[encoder] * (40 if torch.cuda.is_available() else 1)
    return count // 5 if quick else count


def _chunks(encoder: Path, documents: Sequence[str], count: int) -> tuple[list[str], int]:
    """`count` chunks of text, and their tokens with [CLS] and [SEP]."""
    from transformers import AutoTokenizer

    from robert_pipeline.core.chunk import cut
    from robert_pipeline.core.tokenize import Tokenizer

    tokenizer = Tokenizer(AutoTokenizer.from_pretrained(encoder).backend_tokenizer, pad_id=0)
    found: list[str] = []
    for text in repeated(list(documents), count):
        read = tokenizer([text])
        spans = cut(read.token_counts_B, Chunking())
        for start, length in zip(spans.start_N, spans.count_N, strict=True):
            first, last = read.characters(0, int(start), int(length))
            found.append(text[first:last])
        if len(found) >= count:
            break
    found = found[:count]
    return found, int((tokenizer(found).token_counts_B + len(tokenizer.frame)).sum())


def _start(name: str, encoder: Path, folder: Path, python: str) -> Contender:
    """Start, load and warm up."""
    errors = (folder / f"{len(list(folder.iterdir()))}.log").open("w+b")
    process = subprocess.Popen(
        [python, "-W", "ignore", "-m", "benchmarks.embed_worker", name, str(encoder), str(folder / "chunks.json")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env={"TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1", **os.environ},
    )
    contender = Contender(name=name, process=process, errors=errors)
    answer = contender.ask("")
    contender.way = answer.get("way", "")
    if reason := answer.get("unavailable"):
        packages = PEERS[name][0] if name in PEERS and reason.startswith("No module") else ""
        contender.absent = f"not installed: pip install {packages}" if packages else reason
    _say(f"{name}: {contender.absent or contender.way}")
    return contender


def _compare_vectors(contenders: list[Contender], encoder: Path, folder: Path, python: str, count: int) -> None:
    place = folder / "vectors.npy"
    reference = _start(REFERENCE, encoder, folder, python)
    reference.ask(f"vectors {place} {count}")
    theirs_ND = np.load(place).astype(np.float64)
    reference.process.kill()
    reference.process.wait()
    for contender in contenders:
        if contender.absent or contender.name == CEILING or not contender.ask(f"vectors {place} {count}"):
            continue
        ours_ND = np.load(place).astype(np.float64)
        norms_N = np.linalg.norm(ours_ND, axis=1) * np.linalg.norm(theirs_ND, axis=1)
        contender.cosines = (ours_ND * theirs_ND).sum(1) / norms_N


def _measure(contenders: list[Contender], tokens: int, *, repeats: int) -> None:
    for turn in range(repeats):
        _say(f"turn {turn + 1} of {repeats}")
        for contender in contenders:
            if contender.absent or not (answer := contender.ask("run")):
                continue
            rate = answer.get("tokens_per_second")
            contender.rates.append(tokens / float(answer["seconds"]) if rate is None else float(rate))


def _report(title: str, contenders: list[Contender], json_file: Path | None) -> None:
    figures, ratios = {}, {}
    for contender in contenders:
        if contender.absent:
            continue
        figures[contender.name] = Figure(
            name=contender.name, unit="tokens/s", values=tuple(contender.rates), note=_note(contender)
        )
    product = figures[PRODUCT]
    fair = [c.name for c in contenders if c.name in PEERS and not c.absent and c.cosines.min() >= MIN_COSINE]
    absent = {c.name: c.absent for c in contenders if c.absent}
    if fair:
        best = max(fair, key=lambda name: figures[name].median)
        figures[best] = figures[best].with_note(f"best peer; {figures[best].note}")
        ratios["ratio_best_peer"] = product.median / figures[best].median
    ratios["ratio_ceiling"] = product.median / figures[CEILING].median
    ratios["min_cosine"] = float(next(c.cosines.min() for c in contenders if c.name == PRODUCT))
    show(title, list(figures.values()), ratios, json_file=json_file, absent=absent)


def _note(contender: Contender) -> str:
    if not len(contender.cosines):
        return contender.way
    low, mean = contender.cosines.min(), contender.cosines.mean()
    doubt = "" if low >= MIN_COSINE else f", below {MIN_COSINE}: not counted"
    return f"cosine {low:.5f} (mean {mean:.5f}){doubt}; {contender.way}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
