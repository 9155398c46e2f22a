"""Prediction shards: one Parquet file a scored embedding shard, a row a labelled document."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from robert_pipeline.errors import StoreError
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.sealed import SealedWriter, SealError, open_sealed
from schemas import PREDICTIONS, ContractError

_REBUILD = "Run `robert store verify`, which sets it aside, and `robert score` again"


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionShard:
    """A shard whose footer was found in its contract's shape."""

    files: Files
    path: str
    row_count: int

    def batches(self, *, check_pages: bool = False) -> Iterator[pa.RecordBatch]:
        """The rows, in corpus order, in the contract's schema. Raises StoreError, before the first, for any damage."""
        try:
            with open_sealed(self.files, self.path, check_pages=check_pages) as file:
                for batch in file.iter_batches():
                    yield batch.cast(PREDICTIONS.schema)
        except (SealError, pa.ArrowException, OSError) as error:
            raise _damaged(self.files.describe(self.path), error) from error


def open_predictions(files: Files, path: str) -> PredictionShard:
    """Read a shard's footer and check it against the contract. Raises StoreError."""
    place = files.describe(path)
    try:
        with pq.ParquetFile(files.open(path)) as file:
            PREDICTIONS.check(file.schema_arrow, where=place)
            return PredictionShard(files=files, path=path, row_count=file.metadata.num_rows)
    except FileNotFoundError as error:
        raise StoreError(f"prediction shard {place} does not exist", fix="Run `robert score`") from error
    except (ContractError, pa.ArrowException, OSError) as error:
        raise _damaged(place, error) from error


def prediction_writer(place: Path, path: str) -> SealedWriter:
    """A writer of the predictions contract; the shard is going to be at `path`."""
    repeated = ["partition", "label", "candidate_label", "labels.list.element", "probabilities.key_value.key"]
    constant = ["encoder_fingerprint", "chunking_fingerprint", "head_fingerprint", "code_version", "run_id"]
    return SealedWriter(
        place,
        PREDICTIONS.schema,
        name=path,
        compression="zstd",
        compression_level=1,
        use_dictionary=[*repeated, *constant, "scored_at"],
    )


def _damaged(place: str, error: Exception) -> StoreError:
    problem = str(error).strip().split("\n")[0].rstrip(".")
    return StoreError(f"prediction shard {place} is damaged: {problem}", fix=_REBUILD)
