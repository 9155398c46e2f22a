"""Reject shards: the rows of a unit that cannot be labelled, each with a reason and a place."""

from collections.abc import Sequence

import pyarrow as pa

from robert_pipeline.errors import StoreError
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.sealed import SealedWriter, open_sealed
from robert_pipeline.types import Reject, Stamp
from schemas import REJECTS, ContractError


def reject_rows(rejects: Sequence[Reject], *, partition: str, stamp: Stamp) -> pa.Table:
    """Rows of the rejects contract, in the order given."""
    return pa.table(
        {
            "doc_id": pa.array([r.doc_id for r in rejects], pa.string()),
            "partition": pa.array([partition] * len(rejects), pa.string()),
            "file": pa.array([r.file for r in rejects], pa.string()),
            "row": pa.array([r.row for r in rejects], pa.int64()),
            "reason": pa.array([r.reason for r in rejects], pa.string()),
            "detail": pa.array([r.detail for r in rejects], pa.string()),
            "run_id": pa.array([stamp.run_id] * len(rejects), pa.string()),
            "rejected_at": pa.array([stamp.at_us] * len(rejects), pa.timestamp("us", tz="UTC")),
        },
        schema=REJECTS.schema,
    )


def write_rejects(files: Files, path: str, rows: pa.Table) -> None:
    """Put a reject shard in place, whole."""
    with files.writing(path) as place, SealedWriter(place, rows.schema, name=path, compression="zstd") as writer:
        writer.write_table(rows)


def read_rejects(files: Files, path: str) -> pa.Table:
    """A reject shard's rows; none where there is no shard. Raises StoreError where it is damaged."""
    try:
        rows = open_sealed(files, path).read()
        REJECTS.check(rows.schema, where=files.describe(path))
        return rows.cast(REJECTS.schema)
    except FileNotFoundError:
        return REJECTS.schema.empty_table()
    except (ContractError, pa.ArrowException, OSError, ValueError, KeyError) as error:
        problem = str(error).strip().split("\n")[0].rstrip(".")
        raise StoreError(
            f"rejects {files.describe(path)} are damaged: {problem}",
            fix="Run `robert store verify`, which sets them aside and rejects their rows again",
        ) from error
