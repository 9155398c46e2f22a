"""Where shards lie in a store, and which of them exist. A shard's name says what it holds; existence means committed.

embeddings/<encoder>-<chunking>-<dtype>/<partition>/<unit>.parquet
rejects/<encoder>-<chunking>-<dtype>/<partition>/<unit>.parquet        written before its embedding shard
predictions/<head>/<encoder>-<chunking>-<dtype>/<partition>/<unit>.parquet
unscored/<head>/<encoder>-<chunking>-<dtype>/<partition>/<unit>.parquet    rejects of scoring, before predictions
contributions/<head>/<encoder>-<chunking>-<dtype>/<partition>/<unit>.parquet    on request, before predictions
"""

from dataclasses import dataclass
from urllib.parse import quote

from robert_pipeline.config import fingerprint
from robert_pipeline.storage.files import Files

LONGEST_FOLDER_NAME = 150


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingKey:
    """What besides the text decides a vector."""

    encoder_fingerprint: str
    chunking_fingerprint: str
    vector_dtype: str

    @property
    def folder(self) -> str:
        """The key as a folder name."""
        return f"{self.encoder_fingerprint}-{self.chunking_fingerprint}-{self.vector_dtype}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """The shards under one folder."""

    files: Files

    def embedding_path(self, key: EmbeddingKey, partition: str, unit_id: str) -> str:
        """Place of a unit's embedding shard."""
        return f"embeddings/{key.folder}/{partition_folder(partition)}/{unit_id}.parquet"

    def reject_path(self, key: EmbeddingKey, partition: str, unit_id: str) -> str:
        """Place of the rows of a unit that could not be embedded; there is no file where there are none."""
        return f"rejects/{key.folder}/{partition_folder(partition)}/{unit_id}.parquet"

    def prediction_path(self, head_fingerprint: str, key: EmbeddingKey, partition: str, unit_id: str) -> str:
        """Place of a unit's prediction shard."""
        return f"predictions/{head_fingerprint}/{key.folder}/{partition_folder(partition)}/{unit_id}.parquet"

    def unscored_path(self, head_fingerprint: str, key: EmbeddingKey, partition: str, unit_id: str) -> str:
        """Place of the rows of a unit that could not be scored; there is no file where there are none."""
        return f"unscored/{head_fingerprint}/{key.folder}/{partition_folder(partition)}/{unit_id}.parquet"

    def contribution_path(self, head_fingerprint: str, key: EmbeddingKey, partition: str, unit_id: str) -> str:
        """Place of what every chunk of a unit contributed; there only where it was asked for."""
        return f"contributions/{head_fingerprint}/{key.folder}/{partition_folder(partition)}/{unit_id}.parquet"

    def present(self, paths: list[str]) -> set[str]:
        """Those of `paths`, all of one folder, that exist: one listing, however many there are."""
        if not paths:
            return set()
        folder = paths[0].rpartition("/")[0]
        return {entry.path for entry in self.files.list(folder)} & set(paths)


def open_store(uri: str) -> Store:
    """The store at a folder or object-store address; it need not exist yet."""
    return Store(files=Files(uri))


def partition_folder(partition: str) -> str:
    """A partition's name as one safe folder name; different names never share one."""
    name = quote(partition, safe="=-_ ,+").replace("~", "%7E")  # '~' marks a shortened name
    if name.startswith("."):
        name = name.replace(".", "%2E")  # '.', '..' and hidden names
    if len(name) <= LONGEST_FOLDER_NAME:
        return name
    return f"{name[:100]}~{fingerprint('partition', {'name': partition})}"
