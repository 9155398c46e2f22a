"""Prediction shards: one Parquet file a scored embedding shard, a row a labelled document."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from robert_pipeline.errors import StoreError
from robert_pipeline.storage.files import Files
from schemas import PREDICTIONS, ContractError

_REBUILD = "Delete it and run `robert score` again"


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionShard:
    """A shard that was found whole and in its contract's shape."""

    files: Files
    path: str
    row_count: int

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, in corpus order, in the contract's schema: those of an earlier version are upgraded.

        Raises StoreError where a page fails its checksum.
        """
        try:
            with pq.ParquetFile(self.files.open(self.path), page_checksum_verification=True) as file:
                for batch in file.iter_batches():
                    rows = pa.Table.from_batches([batch])
                    yield from PREDICTIONS.upgraded(rows, where=self.path).to_batches()
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self.files.describe(self.path), error) from error


def open_predictions(files: Files, path: str) -> PredictionShard:
    """Read a shard's footer and check it against the contract. Raises StoreError."""
    place = files.describe(path)
    try:
        with pq.ParquetFile(files.open(path)) as file:
            PREDICTIONS.version_of(file.schema_arrow, where=place)
            return PredictionShard(files=files, path=path, row_count=file.metadata.num_rows)
    except FileNotFoundError as error:
        raise StoreError(f"prediction shard {place} does not exist", fix="Run `robert score`") from error
    except (ContractError, pa.ArrowException, OSError) as error:
        raise _damaged(place, error) from error


def _damaged(place: str, error: Exception) -> StoreError:
    problem = str(error).strip().split("\n")[0].rstrip(".")
    return StoreError(f"prediction shard {place} is damaged: {problem}", fix=_REBUILD)
