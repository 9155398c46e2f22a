"""One contender of `benchmarks.embed` in a process of its own, so that no library's threads or settings meet another's.

`python -m benchmarks.embed_worker NAME FOLDER CHUNKS.json` answers each line on stdin with a line of JSON on stdout:
`run` with the seconds of one pass over the chunks, `vectors PATH COUNT` after writing the first vectors as .npy.
Imports nothing beyond torch, transformers and numpy for the product and the ceiling.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.embed_peers import PEERS, Peer, SortedModel, Unavailable, Vectors

PRODUCT, CEILING, REFERENCE = "robert_pipeline", "matrix products alone", "reference"
CEILING_SECONDS = 1.0
BLOCK_CHUNKS = 2000
"""About as much text as a block of a work unit."""


class Product(Peer):
    """What a work unit goes through: tokenise and cut a block, batch it by length and encode it while the next is read.

    A text here is one chunk.
    """

    def __init__(self, folder: Path, _device: torch.device) -> None:
        from robert_pipeline.config import Chunking, EncoderSource
        from robert_pipeline.core.embed import BatchBudget
        from robert_pipeline.storage.encoders import load_encoder

        loaded = load_encoder(EncoderSource(name=str(folder), pooling="mean"))
        self._loaded = loaded
        self._chunking = Chunking(chunk_tokens=loaded.max_chunk_tokens, overlap_tokens=0)
        self._budget = BatchBudget(tokens=loaded.encoder.batch_tokens)
        self.way = f"{loaded.encoder.way}, {loaded.encoder.concurrency} batches at once"

    def __call__(self, texts: list[str]) -> Vectors:
        from robert_pipeline.core.embed import embed_texts
        from robert_pipeline.core.reading import read_texts
        from robert_pipeline.stages.overlap import ahead

        tokenizer, encoder = self._loaded.tokenizer, self._loaded.encoder
        starts = range(0, len(texts), BLOCK_CHUNKS)
        blocks = (read_texts(texts[at : at + BLOCK_CHUNKS], tokenizer, self._chunking) for at in starts)
        windows = [
            window.vectors_ND
            for read in ahead(blocks)
            for window in embed_texts(read, frame=tokenizer.frame, encoder=encoder, budget=self._budget)
        ]
        return np.concatenate(windows)


def main() -> None:
    """Load, warm up, answer."""
    name, folder, chunks = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(**values: object) -> None:
        answers.write(json.dumps(values) + "\n")

    texts: list[str] = json.loads(chunks.read_text())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if name == CEILING:
            measure = _ceiling(folder, device)
            answer(way=measure()[1])
            for _ in sys.stdin:
                answer(tokens_per_second=measure()[0])
            return
        peer = _make(name, folder, device)
        if name != REFERENCE:
            _warm_up(peer, texts[: max(40, len(texts) // 4)])
    except (ImportError, Unavailable) as reason:
        answer(unavailable=str(reason))
        return
    answer(way=peer.way + (f", batches of {peer.batch_tokens} tokens" if peer.batch_tokens else ""))
    for line in sys.stdin:
        match line.split():
            case ["vectors", place, count]:
                np.save(place, peer(texts[: int(count)]))
                answer(written=place)
            case _:
                answer(seconds=_seconds(peer, texts))


def _make(name: str, folder: Path, device: torch.device) -> Peer:
    if name == PRODUCT:
        return Product(folder, device)
    if name == REFERENCE:
        return SortedModel(folder, device, torch.float32)
    return PEERS[name][1](folder, device)


def _warm_up(peer: Peer, texts: list[str]) -> None:
    """One pass; with every size of batch where one is to be chosen."""
    if not peer.batch_sizes:
        peer(texts)
        return
    taken = {}
    for size in peer.batch_sizes:
        peer.batch_tokens = size
        peer(texts)
        taken[size] = min(_seconds(peer, texts) for _ in range(2))
    peer.batch_tokens = min(taken, key=lambda size: taken[size])


def _seconds(peer: Peer, texts: list[str]) -> float:
    started = time.perf_counter()
    peer(texts)
    return time.perf_counter() - (started if peer.began is None else peer.began)


def _ceiling(folder: Path, device: torch.device) -> Callable[[], tuple[float, str]]:
    from transformers import AutoConfig, AutoModel

    from robert_pipeline.core.ceiling import ceiling_tokens_per_second, linear_shapes
    from robert_pipeline.core.encoder import CPU_BATCH_TOKENS, CUDA_BATCH_TOKENS, fast_precision

    with torch.device("meta"):
        shapes = linear_shapes(
            AutoModel.from_config(  # type: ignore[no-untyped-call]
                AutoConfig.from_pretrained(folder)
            )
        )
    precision, threads = fast_precision(device), torch.get_num_threads()

    def measure() -> tuple[float, str]:
        rate = ceiling_tokens_per_second(
            shapes,
            device=device,
            dtype=getattr(torch, precision),
            batch_tokens=CUDA_BATCH_TOKENS if device.type == "cuda" else CPU_BATCH_TOKENS,
            threads=threads,
            seconds=CEILING_SECONDS,
        )
        return rate, f"{precision}, {'cuBLAS' if device.type == 'cuda' else f'oneDNN, {threads} threads'}"

    return measure


if __name__ == "__main__":
    main()
