"""The side table of contributions: one Parquet file a scored embedding shard, a row a chunk, written on request."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from robert_pipeline.core.model import TrainedHead
from robert_pipeline.core.score import Scores
from robert_pipeline.errors import StoreError
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.sealed import SealedWriter, open_sealed
from robert_pipeline.storage.shards import ChunkTable
from robert_pipeline.types import Stamp
from schemas import CONTRIBUTIONS, ContractError


def contribution_writer(place: Path, path: str) -> SealedWriter:
    """A writer of the contributions contract; the shard is going to be at `path`."""
    return SealedWriter(
        place,
        CONTRIBUTIONS.schema,
        name=path,
        compression="zstd",
        compression_level=1,
        use_dictionary=["doc_id", "partition", "candidate_label", "head_fingerprint", "run_id"],
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


def read_contributions(files: Files, path: str) -> pa.Table:
    """A shard's rows. Raises StoreError where it is damaged or not there."""
    try:
        rows = open_sealed(files, path, check_pages=True).read()
        CONTRIBUTIONS.check(rows.schema, where=files.describe(path))
    except (ContractError, pa.ArrowException, OSError, ValueError, KeyError) as error:
        problem = str(error).strip().split("\n")[0].rstrip(".")
        raise StoreError(
            f"contributions {files.describe(path)} are damaged: {problem}",
            fix="Run `robert store verify`, which sets them aside, and `robert score --contributions` again",
        ) from error
    return rows
