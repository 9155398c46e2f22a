"""Labelled chunk vectors of many shards, ready to learn from: embedding shards and corpus labels in, one memory-mapped
Arrow file out.

The vectors stay on disk and are paged in as batches are gathered; in memory are some 40 bytes a document (length,
place, label, text key) and the labels of one partition at a time. Never holds the vectors of a corpus.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from robert_pipeline.core.pack import finite_documents
from robert_pipeline.core.split import text_keys
from robert_pipeline.core.targets import LabelledVectors
from robert_pipeline.core.terms import ChunkTokens, DocumentTokens
from robert_pipeline.errors import TrainingError
from robert_pipeline.storage.shards import EmbeddingShard, tokens_of

Integers = NDArray[np.int64]
LabelReader = Callable[[str], Iterable[tuple[str, str | None]]]
"""Partition to (doc_id, label) of its rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSet:
    """Documents with labels. Satisfies `core.examples.DocumentVectors`."""

    path: Path
    parts: tuple[NDArray[np.floating], ...]
    """Views of the file's record batches, (chunks, D) each."""
    part_tokens: tuple[ChunkTokens, ...]
    """The tokens of the same chunks."""
    part_B: Integers
    start_B: Integers
    lengths_B: Integers
    text_key_B: Integers
    """60 bits of each text's SHA-256: equal texts have equal keys."""
    label_names: tuple[str, ...]
    """Distinct values of the label column, sorted."""
    label_B: Integers
    """Index into `label_names`."""
    partition_names: tuple[str, ...]
    partition_B: Integers
    dimension: int
    unlabelled: int
    """Documents of the shards that have no label, and are left out."""
    not_finite: int
    """Labelled documents with NaN or infinity in a vector, left out as well."""

    def __len__(self) -> int:
        return len(self.lengths_B)

    def gather(self, documents: Integers) -> NDArray[np.floating]:
        """Vectors of these documents, one after the other: (sum of their lengths, D), in the shards' dtype."""
        starts, lengths = self.start_B[documents], self.lengths_B[documents]
        pieces = [
            self.parts[part][start:stop]
            for part, start, stop in zip(
                self.part_B[documents].tolist(), starts.tolist(), (starts + lengths).tolist(), strict=True
            )
        ]
        return np.concatenate(pieces) if pieces else np.empty((0, self.dimension), np.float32)

    def tokens(self, documents: Integers) -> DocumentTokens:
        """Tokens of these documents: those of their chunks, each once."""
        pieces: list[NDArray[np.integer]] = [np.empty(0, np.int32)]
        counts: list[int] = []
        ends = [np.concatenate([[0], np.cumsum(part.new_tokens_N)]) for part in self.part_tokens]
        starts, lengths = self.start_B[documents], self.lengths_B[documents]
        for part, start, stop in zip(
            self.part_B[documents].tolist(), starts.tolist(), (starts + lengths).tolist(), strict=True
        ):
            first, last = int(ends[part][start]), int(ends[part][stop])
            pieces.append(self.part_tokens[part].token_ids[first:last])
            counts.append(last - first)
        return DocumentTokens(token_ids=np.concatenate(pieces), tokens_B=np.array(counts, np.int64))

    @property
    def labelled(self) -> LabelledVectors:
        """The documents as the core wants them."""
        return LabelledVectors(
            vectors=self, label_names=self.label_names, label_B=self.label_B, text_key_B=self.text_key_B
        )

    def in_partitions(self, names: Sequence[str]) -> Integers:
        """The documents of these partitions, in order."""
        wanted = [number for number, name in enumerate(self.partition_names) if name in set(names)]
        return np.flatnonzero(np.isin(self.partition_B, wanted))


def build_training_set(shards: Iterable[EmbeddingShard], labels: LabelReader, path: Path) -> TrainingSet:
    """Join shards with labels by doc_id and write the vectors to `path`, in the order of the shards.

    Shards of one partition must follow each other. A document without a label, or with an empty one, is left out and
    counted. Raises TrainingError where no document has a label or the shards do not go together.
    """
    builder = _Builder(path)
    try:
        for shard in shards:
            builder.add(shard, labels)
    finally:
        builder.close()
    return builder.finish()


class _Builder:
    """Appends shards to one Arrow file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sink: pa.NativeFile | None = None
        self._writer: pa.RecordBatchFileWriter | None = None
        self._first: EmbeddingShard | None = None
        self._labels: dict[str, str | None] = {}
        self._names: dict[str, int] = {}
        self._partitions: list[str] = []
        self._columns: dict[str, list[Integers]] = {
            name: [] for name in ("part", "start", "length", "key", "label", "partition")
        }
        self._part_count = 0
        self._unlabelled = 0
        self._not_finite = 0

    def add(self, shard: EmbeddingShard, labels: LabelReader) -> None:
        self._check_alike(shard)
        partition = shard.header.partition
        if not self._partitions or self._partitions[-1] != partition:
            self._partitions.append(partition)
            self._labels = {}
            for doc_id, label in labels(partition):
                self._labels.setdefault(doc_id, label)  # of rows that share an id, the first has the vectors
        for table in shard.batches():
            if len(table.lengths_B):
                self._append(table.rows, table.lengths_B, finite_documents(table.vectors_ND, table.lengths_B))

    def _append(self, rows: pa.Table, lengths_B: Integers, finite_B: NDArray[np.bool_]) -> None:
        firsts = pa.array(np.cumsum(lengths_B) - lengths_B)
        doc_ids: list[str] = rows.column("doc_id").take(firsts).to_pylist()
        names = [(self._labels.get(doc_id) or "").strip() for doc_id in doc_ids]
        labelled_B = np.array([bool(name) for name in names])
        kept_B = labelled_B & finite_B
        self._unlabelled += int((~labelled_B).sum())
        self._not_finite += int((labelled_B & ~finite_B).sum())
        if not kept_B.any():
            return
        hashes = rows.column("text_hash").take(firsts).filter(pa.array(kept_B)).to_pylist()
        lengths = lengths_B[kept_B]
        kept_N = pa.array(np.repeat(kept_B, lengths_B))
        columns = [rows.column(name).combine_chunks().filter(kept_N) for name in ("vector", "token_ids")]
        self._write(pa.record_batch(columns, names=["vector", "token_ids"]))
        ids = [self._names.setdefault(name, len(self._names)) for name, kept in zip(names, kept_B, strict=True) if kept]
        for column, values in (
            ("part", np.full(len(lengths), self._part_count)),
            ("start", np.cumsum(lengths) - lengths),
            ("length", lengths),
            ("key", text_keys(hashes)),
            ("label", np.asarray(ids, np.int64)),
            ("partition", np.full(len(lengths), len(self._partitions) - 1)),
        ):
            self._columns[column].append(values)
        self._part_count += 1

    def _check_alike(self, shard: EmbeddingShard) -> None:
        if self._first is None:
            self._first = shard
        for name in ("encoder_fingerprint", "chunking_fingerprint", "vector_dtype", "dimension"):
            first, other = getattr(self._first.header, name), getattr(shard.header, name)
            if first != other:
                raise TrainingError(
                    f"shards {self._first.files.describe(self._first.path)} ({name} {first}) and "
                    f"{shard.files.describe(shard.path)} ({name} {other}) do not go together",
                    fix="Train on shards of one encoder and one chunking",
                )

    def _write(self, batch: pa.RecordBatch) -> None:
        if self._writer is None:
            self._sink = pa.OSFile(str(self._path), "wb")
            self._writer = pa.ipc.new_file(self._sink, batch.schema)
        self._writer.write_batch(batch)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._sink is not None:
            self._sink.close()

    def finish(self) -> TrainingSet:
        if self._first is None or self._part_count == 0:
            raise TrainingError(
                f"there is nothing to learn from: {self._unlabelled} documents have no label, {self._not_finite} have "
                "vectors with NaN or infinity",
                fix="Name the column that holds the true labels with --label-column",
            )
        reader = pa.ipc.open_file(pa.memory_map(str(self._path)))
        dimension = self._first.header.dimension
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        columns = {name: np.concatenate(values).astype(np.int64) for name, values in self._columns.items()}
        order = sorted(self._names)
        rank = np.empty(len(order), np.int64)
        for new, name in enumerate(order):
            rank[self._names[name]] = new
        return TrainingSet(
            path=self._path,
            parts=tuple(batch.column("vector").flatten().to_numpy().reshape(-1, dimension) for batch in batches),
            part_tokens=tuple(tokens_of(batch.column("token_ids")) for batch in batches),
            part_B=columns["part"],
            start_B=columns["start"],
            lengths_B=columns["length"],
            text_key_B=columns["key"],
            label_names=tuple(order),
            label_B=rank[columns["label"]],
            partition_names=tuple(self._partitions),
            partition_B=columns["partition"],
            dimension=dimension,
            unlabelled=self._unlabelled,
            not_finite=self._not_finite,
        )
