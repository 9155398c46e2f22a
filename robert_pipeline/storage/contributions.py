"""The side table of contributions: one Parquet file a scored embedding shard, a row a chunk, written on request."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robert_pipeline.core.model import TrainedHead
from robert_pipeline.core.score import Scores
from robert_pipeline.storage.shards import ChunkTable
from robert_pipeline.types import Stamp
from schemas import CONTRIBUTIONS


def contribution_writer(place: str) -> pq.ParquetWriter:
    """A writer of the contributions contract."""
    return pq.ParquetWriter(
        place,
        CONTRIBUTIONS.schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=["doc_id", "partition", "candidate_label", "head_fingerprint", "run_id"],
        write_page_checksum=True,
    )


def contribution_rows(
    table: ChunkTable, scores: Scores, head: TrainedHead, *, partition: str, stamp: Stamp
) -> pa.Table:
    """Rows of the contributions contract for the chunks of the documents of `table` that could be scored."""
    kept_N = np.flatnonzero(np.repeat(scores.finite_B, table.lengths_B))
    candidate_N = np.repeat(scores.candidate_B, table.lengths_B)[kept_N]
    taken = table.rows.select(["doc_id", "chunk_index", "char_start", "char_end"]).take(pa.array(kept_N))
    return pa.table(
        {
            **{name: taken.column(name) for name in taken.column_names},
            "partition": pa.repeat(partition, len(kept_N)),
            "candidate_label": pa.array(head.labels, pa.string()).take(pa.array(candidate_N)),
            "contribution": pa.array(scores.contributions_N[kept_N]),
            "head_fingerprint": pa.repeat(head.fingerprint, len(kept_N)),
            "run_id": pa.repeat(stamp.run_id, len(kept_N)),
        },
        schema=CONTRIBUTIONS.schema,
    )
