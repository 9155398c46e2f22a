"""Embed with a batch budget far above the address space that is left; print the budget that worked."""

import resource
import sys
from pathlib import Path

import numpy as np

from robert_pipeline.config import Chunking, EncoderSource
from robert_pipeline.core.embed import BatchBudget, embed_texts
from robert_pipeline.core.reading import read_texts
from robert_pipeline.native.allocator import give_back_memory
from robert_pipeline.storage.encoders import load_encoder

loaded = load_encoder(EncoderSource(name=sys.argv[1], precision="float32"))
budget = BatchBudget(tokens=4_000_000, give_back=give_back_memory)


def embed(text):
    (embedded,) = embed_texts(
        read_texts([text], loaded.tokenizer, Chunking(chunk_tokens=100, overlap_tokens=0)),
        frame=loaded.tokenizer.frame,
        encoder=loaded.encoder,
        budget=budget,
    )
    return embedded


embed("bank " * 10_000)  # threads and buffers that every later run needs
pages = int(Path("/proc/self/statm").read_text().split()[0])
left_bytes = 300 << 20
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + left_bytes,) * 2)
vectors = embed("bank " * 400_000).vectors_ND
sys.stdout.write(f"{budget.tokens} {len(vectors)} {np.isfinite(vectors).all()}\n")
