"""Read a corpus: Parquet files in a folder, one partition a sub-folder; or one Parquet file.

An address enters; partitions, fragments and documents leave. What concerns the whole corpus raises CorpusError before
any row is read; a row that cannot be labelled leaves as a Reject. Never cuts or skips a row in silence.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from robert_pipeline.config import Columns, fingerprint, text_hash
from robert_pipeline.errors import CorpusError, StoreError, first_line
from robert_pipeline.storage.files import FileEntry, Files
from robert_pipeline.types import Document, Fragment, Reject, RowGroup, RowRange, WorkUnit

WHOLE_CORPUS = "all"
"""The partition of files that lie in no sub-folder."""

BATCH_ROWS = 64
"""Rows decoded at once: a small Parquet file can hold gigabytes of text."""
BATCH_BYTES = 4 << 20
"""Fewer rows are decoded at once where those of a row group have more text than this."""

Values = list[bytes | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """A corpus found at an address, its columns named."""

    files: Files
    columns: Columns
    entries: tuple[FileEntry, ...]

    def partitions(self) -> list[str]:
        """Names of the partitions, sorted: the folders below the root that hold files."""
        return sorted({_partition_of(entry.path) for entry in self.entries})

    def fragments(self, partition: str) -> list[Fragment]:
        """The partition's files, in name order, with their row groups. Raises CorpusError, naming file and column."""
        entries = [entry for entry in self.entries if _partition_of(entry.path) == partition]
        if not entries:
            known = self.partitions()
            shown = ", ".join(known[:5]) + (", …" if len(known) > 5 else "")
            raise CorpusError(f"corpus {self.files.describe()} has no partition '{partition}'", fix=f"It has: {shown}")
        fragments = [self._fragment(entry) for entry in entries]
        if not any(group.row_count for fragment in fragments for group in fragment.row_groups):
            only = f", which is {entries[0].path} alone," if len(entries) == 1 else ""
            raise CorpusError(
                f"partition '{partition}' of corpus {self.files.describe()}{only} holds no rows",
                fix="Write its files again, or leave the partition out",
            )
        return fragments

    def _fragment(self, entry: FileEntry) -> Fragment:
        with self._damage_in(entry.path), self._parquet(entry.path) as file:
            schema = file.schema_arrow
            for column in (self.columns.doc_id, self.columns.text):
                self._check_column(entry.path, schema, column)
            text = [file.schema.column(i).path for i in range(len(file.schema.names))].index(self.columns.text)
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            return Fragment(
                file=entry.path,
                revision=self._revision(entry),
                row_groups=tuple(
                    RowGroup(row_count=g.num_rows, text_bytes=g.column(text).total_uncompressed_size) for g in groups
                ),
            )

    def _revision(self, entry: FileEntry) -> str:
        # What is read from a file depends on the columns too; the true label decides no vector.
        read = fingerprint("columns/1", {"doc_id": self.columns.doc_id, "text": self.columns.text})
        return f"{entry.revision}-{read[:8]}"

    def _check_column(self, file: str, schema: pa.Schema, column: str) -> None:
        place = self.files.describe(file)
        options = {self.columns.label: "label", self.columns.doc_id: "doc-id", self.columns.text: "text"}
        option = options[column]
        if schema.names.count(column) != 1:
            fault = "has no column" if column not in schema.names else "has more than one column"
            raise CorpusError(
                f"{place} {fault} '{column}'",
                fix=f"Name the right one with --{option}-column; the file has: {', '.join(schema.names[:12])}",
            )
        kind = schema.field(column).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        textual = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, *_BINARY)
        allowed, wanted = {
            "text": (textual, "text"),
            "doc-id": ((*textual, pa.types.is_integer), "text or integer"),
            "label": ((*textual, pa.types.is_integer, pa.types.is_boolean, pa.types.is_null), "text or integer"),
        }[option]
        if not any(check(kind) for check in allowed):
            raise CorpusError(
                f"column '{column}' of {place} is {kind}, not {wanted}",
                fix=f"Cast it to string, or name another one with --{option}-column",
            )

    def _parquet(self, file: str) -> pq.ParquetFile:
        place = self.files.describe(file)
        try:
            # Neither whole row groups nor unchecked pages: both files and memory can be worse than they look.
            return pq.ParquetFile(
                self.files.open(file), pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True
            )
        except pa.ArrowInvalid as error:
            raise CorpusError(
                f"{place} is not a Parquet file: {first_line(error)}",
                fix="Remove it, or turn it into a corpus with `robert import`",
            ) from error
        except StoreError as error:
            raise CorpusError(error.problem, fix=error.fix, transient=error.transient) from error
        except OSError as error:
            raise CorpusError(
                f"{place} cannot be read: {first_line(error)}", fix="Restore the file, or fix its permissions"
            ) from error

    def doc_ids(self, fragments: Sequence[Fragment]) -> Iterator[tuple[str, int, bytes | None]]:
        """(file, row in file, doc_id) of every row, in corpus order; reads no text."""
        for fragment in fragments:
            row = 0
            for batch in self._batches(fragment.file, list(range(len(fragment.row_groups))), [self.columns.doc_id]):
                for doc_id in _values(batch.column(0)):
                    yield fragment.file, row, doc_id
                    row += 1

    def find_large(self, fragments: Sequence[Fragment], *, above_bytes: int) -> list[Fragment]:
        """The same fragments, knowing their documents of more than `above_bytes` of text.

        Reads the texts of row groups that are larger than that, in small batches, and no other. Raises CorpusError.
        """
        return [self._find_large(fragment, above_bytes) for fragment in fragments]

    def _find_large(self, fragment: Fragment, above_bytes: int) -> Fragment:
        groups = [
            # No text is longer than all that is stored of its row group.
            replace(group, large_documents=tuple(self._large_rows(fragment.file, number, above_bytes)))
            if group.text_bytes > above_bytes and group.row_count
            else group
            for number, group in enumerate(fragment.row_groups)
        ]
        return replace(fragment, row_groups=tuple(groups))

    def _large_rows(self, file: str, row_group: int, above_bytes: int) -> Iterator[tuple[int, int]]:
        first_row = 0
        for batch in self._batches(file, [row_group], [self.columns.text]):
            for offset, text_bytes in enumerate(_lengths(batch.column(0))):
                if text_bytes > above_bytes:
                    yield first_row + offset, text_bytes
            first_row += batch.num_rows

    def has_labels(self, partition: str) -> bool:
        """Whether every file of the partition has the label column. Raises CorpusError."""
        for fragment in self.fragments(partition):
            with self._damage_in(fragment.file), self._parquet(fragment.file) as file:
                if self.columns.label not in file.schema_arrow.names:
                    return False
        return True

    def labels(self, partition: str) -> Iterator[tuple[str, str | None]]:
        """(doc_id, true label) of the first row of every id. Raises CorpusError where there is no label column."""
        seen: set[str] = set()
        for fragment in self.fragments(partition):
            columns = [self.columns.doc_id, self.columns.label]
            with self._damage_in(fragment.file), self._parquet(fragment.file) as file:
                self._check_column(fragment.file, file.schema_arrow, self.columns.label)
            for batch in self._batches(fragment.file, list(range(len(fragment.row_groups))), columns):
                for doc_id, label in zip(_values(batch.column(0)), _values(batch.column(1)), strict=True):
                    name = _decode(doc_id)
                    if name and name not in seen:
                        seen.add(name)
                        yield name, _decode(label)

    def read(self, unit: WorkUnit) -> Iterator[Document | Reject]:
        """Every row of a work unit, in order, as a document or as a reject. Streams; holds one small batch.

        Raises CorpusError where a file is not the one that was planned, or is damaged.
        """
        repeats = set(unit.duplicate_rows)
        for part in unit.ranges:
            self._check_unchanged(part)
            row_in_group = 0
            last = part.first_row + part.row_count
            for batch in self._batches(part.file, [part.row_group], [self.columns.doc_id, self.columns.text]):
                skipped = max(0, part.first_row - row_in_group)
                wanted = batch.slice(skipped, last - row_in_group - skipped)
                ids, texts = _values(wanted.column(0)), _values(wanted.column(1))
                first_row = part.first_file_row + row_in_group + skipped - part.first_row
                for row, (doc_id, text) in enumerate(zip(ids, texts, strict=True), first_row):
                    yield _read_row(doc_id, text, part.file, row, repeated=(part.file, row) in repeats)
                row_in_group += batch.num_rows
                if row_in_group >= last:
                    break
            if row_in_group < last:
                raise CorpusError(
                    f"{self.files.describe(part.file)} is damaged: row group {part.row_group} ends after "
                    f"{row_in_group} rows",
                    fix="Restore the file and run again",
                )

    def _check_unchanged(self, part: RowRange) -> None:
        try:
            found = self._revision(self.files.entry(part.file))
        except FileNotFoundError:
            found = "nothing"
        if found != part.revision:
            raise CorpusError(
                f"{self.files.describe(part.file)} has changed since the run was planned",
                fix="Run again; units that are done are kept",
            )

    def _batches(self, file: str, row_groups: list[int], columns: list[str]) -> Iterator[pa.RecordBatch]:
        with self._damage_in(file), self._parquet(file) as parquet:
            rows = _batch_rows(parquet, row_groups, columns)
            for batch in parquet.iter_batches(batch_size=rows, row_groups=row_groups, columns=columns):
                yield batch.select(columns)

    @contextlib.contextmanager
    def _damage_in(self, file: str) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise CorpusError(
                f"{self.files.describe(file)} is damaged: {first_line(error)}",
                fix="Restore the file and run again",
            ) from error


_BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)


def open_corpus(uri: str, columns: Columns) -> Corpus:
    """Find the corpus at a folder or a file. Raises CorpusError where there is none, or where it holds other files."""
    files, file = _root(uri)
    if file is not None:
        return Corpus(files=files, columns=columns, entries=(files.entry(file),))
    try:
        entries = tuple(entry for entry in files.list() if not _is_hidden(entry.path))
    except OSError as error:
        raise CorpusError(f"corpus {uri} cannot be listed: {first_line(error)}", fix="Fix its permissions") from error
    for entry in entries:
        if PurePosixPath(entry.path).suffix not in (".parquet", ".pq"):
            raise CorpusError(
                f"{files.describe(entry.path)} is not a Parquet file",
                fix="Remove it, name it *.parquet if it is one, or turn it into a corpus with `robert import`",
            )
    if not entries:
        raise CorpusError(f"corpus {uri} holds no Parquet file", fix="Make one with `robert import`")
    return Corpus(files=files, columns=columns, entries=entries)


def read_unit(uri: str, columns: Columns, unit: WorkUnit) -> Iterator[Document | Reject]:
    """The rows of one work unit of the corpus at `uri`, as `Corpus.read` gives them; lists nothing."""
    return Corpus(files=_root(uri)[0], columns=columns, entries=()).read(unit)


def _root(uri: str) -> tuple[Files, str | None]:
    """The corpus' folder, and the file's name where the corpus is one file."""
    files = Files(uri)
    kind = files.kind()
    if kind == pafs.FileType.NotFound:
        raise CorpusError(f"corpus {uri} does not exist", fix="Give a folder of Parquet files or one Parquet file")
    if kind != pafs.FileType.File:
        return files, None
    address, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    parent, slash, _ = address.rpartition("/")
    # The name from the file system: in an address it may be escaped.
    return Files(f"{parent or slash or '.'}{mark}{query}"), files.root.rpartition("/")[2]


def _partition_of(path: str) -> str:
    folder, _, _ = path.rpartition("/")
    return folder or WHOLE_CORPUS


def _is_hidden(path: str) -> bool:
    # Engines leave _SUCCESS, _metadata and .crc files beside the data.
    return any(part.startswith(("_", ".")) for part in path.split("/"))


def _batch_rows(file: pq.ParquetFile, row_groups: list[int], columns: list[str]) -> int:
    """Rows to decode at once, from what the footer says of these columns."""
    places = [place for place in range(len(file.schema.names)) if file.schema.column(place).path in columns]
    groups = [file.metadata.row_group(number) for number in row_groups]
    held_bytes: int = sum(group.column(place).total_uncompressed_size for group in groups for place in places)
    row_count: int = sum(group.num_rows for group in groups)
    return max(1, min(BATCH_ROWS, BATCH_BYTES * row_count // max(1, held_bytes)))


def _lengths(column: pa.Array) -> list[int]:
    """Bytes of each text of a column, 0 for null."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    lengths: list[int] = pc.fill_null(pc.binary_length(column.cast(pa.large_binary())), 0).to_pylist()
    return lengths


def _values(column: pa.Array) -> Values:
    """A column as bytes: Arrow does not check that strings are UTF-8, and Python stops at the first that is not."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_primitive(column.type):
        column = column.cast(pa.string())
    values: Values = column.cast(pa.large_binary()).to_pylist()
    return values


def _decode(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _read_row(doc_id: bytes | None, text: bytes | None, file: str, row: int, *, repeated: bool) -> Document | Reject:
    name = _decode(doc_id)

    def reject(reason: str, detail: str) -> Reject:
        return Reject(doc_id=name, file=file, row=row, reason=reason, detail=detail)

    if doc_id is None or not doc_id:
        return reject("null_doc_id", "doc_id is null" if doc_id is None else "doc_id is empty")
    if name is None:
        return reject("invalid_utf8", f"doc_id is not UTF-8: {doc_id[:40]!r}")
    if repeated:
        return reject("duplicate_doc_id", f"an earlier row of the partition has doc_id '{name}'")
    if text is None:
        return reject("null_text", "text is null")
    try:
        decoded = text.decode()
    except UnicodeDecodeError as error:
        return reject("invalid_utf8", f"text is not UTF-8: byte {error.start} is 0x{text[error.start]:02x}")
    if not decoded.strip():
        return reject("empty_text", f"text has {len(decoded)} characters, none of them visible")
    return Document(doc_id=name, text=decoded, text_hash=text_hash(text), file=file, row=row)
