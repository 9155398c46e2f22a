"""Where files lie in a store, and which of them exist. A shard's name says what it holds; existence means committed.

embeddings/<encoder>-<chunking>-<dtype>/<partition>/<unit>.parquet
embeddings/<encoder>-<chunking>-<dtype>/.shared/<name>.parquet         texts that a running embed met more than once
rejects/<encoder>-<chunking>-<dtype>/<partition>/<unit>.parquet        written before its embedding shard
predictions/<head>/<encoder>-<chunking>-<dtype>/<partition>/<unit>.parquet
unscored/<head>/<encoder>-<chunking>-<dtype>/<partition>/<unit>.parquet    rejects of scoring, before predictions
index/<encoder>-<chunking>-<dtype>/<name>.run                          derived: where a text's vectors are
surveys/<encoder>-<chunking>-<dtype>/<partition>/<unit>.run            derived: text hashes, for a running embed
quarantine/<any of these>                                              set aside by `robert store verify`
contributions/<head>/<encoder>-<chunking>-<dtype>/<partition>/<unit>.parquet    on request, before predictions
runs/<partition>/<run>.json                                            what a run took: `run_records`
claims/<partition>.json                                                who works on what, on a disk: `claims`
"""

from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import quote

from robert_pipeline.config import fingerprint
from robert_pipeline.storage.files import FileEntry, Files

LONGEST_FOLDER_NAME = 150

SHARED_TEXTS = ""
"""In place of a partition: of a shard of texts that several documents of a run have. No partition is named so."""

ShardKind = Literal["embeddings", "rejects", "predictions", "unscored", "contributions"]
SHARD_KINDS: tuple[ShardKind, ...] = get_args(ShardKind)
_OF_NO_HEAD: tuple[ShardKind, ...] = ("embeddings", "rejects")
QUARANTINE = "quarantine"


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
class ShardPlace:
    """What the path of a shard says. `head` is None for embeddings and their rejects."""

    kind: ShardKind
    head: str | None
    key: EmbeddingKey
    partition_folder: str
    unit_id: str
    entry: FileEntry

    @property
    def unit(self) -> tuple[str, str, str]:
        """What the shards of one unit and one key have in common."""
        return self.key.folder, self.partition_folder, self.unit_id

    def beside(self, kind: ShardKind) -> str:
        """The path of the same unit's shard of another kind, of the same head where that kind is of one."""
        folders = [kind, *([] if kind in _OF_NO_HEAD else [str(self.head)]), self.key.folder, self.partition_folder]
        return f"{'/'.join(folders)}/{self.unit_id}.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """The shards under one folder."""

    files: Files

    def embedding_folder(self, key: EmbeddingKey) -> str:
        """Where all embedding shards of a key are."""
        return f"embeddings/{key.folder}"

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

    def index_folder(self, key: EmbeddingKey) -> str:
        """Place of the runs of a key's content index."""
        return f"index/{key.folder}"

    def survey_path(self, key: EmbeddingKey, partition: str, unit_id: str) -> str:
        """Place of the text hashes of a unit that is to be embedded."""
        return f"surveys/{key.folder}/{partition_folder(partition)}/{unit_id}.run"

    def contribution_path(self, head_fingerprint: str, key: EmbeddingKey, partition: str, unit_id: str) -> str:
        """Place of what every chunk of a unit contributed; there only where it was asked for."""
        return f"contributions/{head_fingerprint}/{key.folder}/{partition_folder(partition)}/{unit_id}.parquet"

    def present(self, paths: list[str]) -> set[str]:
        """Those of `paths`, all of one folder, that exist: one listing, however many there are."""
        if not paths:
            return set()
        folder = paths[0].rpartition("/")[0]
        return {entry.path for entry in self.files.list(folder)} & set(paths)

    def shards(self, *kinds: ShardKind) -> list[ShardPlace]:
        """Every shard of these kinds, or of all; files that bear no shard's name are left out."""
        found: list[ShardPlace] = []
        for kind in kinds or SHARD_KINDS:
            found += [place for entry in self.files.list(kind) if (place := _place(kind, entry)) is not None]
        return found

    def set_aside(self, path: str) -> str:
        """Move a file out of every reader's way; gives its new place. Raises FileNotFoundError or StoreError."""
        target = f"{QUARANTINE}/{path}"
        self.files.move(path, target)
        return target


def open_store(uri: str) -> Store:
    """The store at a folder or object-store address; it need not exist yet."""
    return Store(files=Files(uri))


def partition_folder(partition: str) -> str:
    """A partition's name as one safe folder name; different names never share one."""
    if partition == SHARED_TEXTS:
        return ".shared"
    name = quote(partition, safe="=-_ ,+").replace("~", "%7E")  # '~' marks a shortened name
    if name.startswith("."):
        name = name.replace(".", "%2E")  # '.', '..' and hidden names
    if len(name) <= LONGEST_FOLDER_NAME:
        return name
    return f"{name[:100]}~{fingerprint('partition', {'name': partition})}"


def _place(kind: ShardKind, entry: FileEntry) -> ShardPlace | None:
    _, *folders, name = entry.path.split("/")
    head = folders.pop(0) if kind not in _OF_NO_HEAD and folders else None
    unit_id, _, suffix = name.partition(".")
    if len(folders) != 2 or suffix != "parquet" or len(parts := folders[0].split("-")) != 3:
        return None
    key = EmbeddingKey(encoder_fingerprint=parts[0], chunking_fingerprint=parts[1], vector_dtype=parts[2])
    return ShardPlace(kind=kind, head=head, key=key, partition_folder=folders[1], unit_id=unit_id, entry=entry)
