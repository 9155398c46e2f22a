"""Sorted runs: files of text hashes and where each was seen, searched without being read whole.

A run is written once, whole, and never changed. Layout, little-endian:

    records      16 bytes each, sorted: the hash's first 64 bits, a source (a number into the names), a place in it
    directory    for each of 2^bits equal ranges of hashes, the first record that is not below it
    names        JSON, a [name, size] for every source, oldest first
    trailer      counts, offsets, checksums, magic

A look-up reads the ranges that its hashes fall in, about 4 kB each. In memory are the directory, an eighth of a byte a
record, and the names. Axes: Q queries, R records.
"""

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from robert_pipeline.storage.files import Files

RECORD: Final = np.dtype([("prefix", "<u8"), ("source", "<u4"), ("place", "<u4")])
RANGE_RECORDS = 256
"""Records of one range of the directory, on average: 4 kB."""

MOST_READ_RECORDS = 1 << 18
"""Records read at once, 4 MB; ranges that lie close together are read in one request up to this."""

NEAR_RECORDS = 1 << 12
"""Records between two ranges that are rather read than asked for separately: 64 kB."""

_MAGIC = b"robert/1"
_TRAILER = struct.Struct("<QQQQII8s")  # records, bits, names offset, file size, checksums of records and of the rest
_UINT64 = 1 << 64

Prefixes = NDArray[np.uint64]
Records = NDArray[np.void]
Name = tuple[str, int]


class RunError(ValueError):
    """A file is not a run, or not what was written."""


class RunGoneError(RunError):
    """A run was deleted since it was opened: another process has merged it with others."""


def prefixes(text_hashes: Sequence[str]) -> Prefixes:
    """The first 64 bits of hexadecimal hashes."""
    return np.frombuffer(bytes.fromhex("".join(text_hash[:16] for text_hash in text_hashes)), ">u8").astype(np.uint64)


def sorted_records(records: Records) -> Records:
    """By hash, then source, then place; each once."""
    ordered = records[np.lexsort((records["place"], records["source"], records["prefix"]))]
    is_new = np.ones(len(ordered), bool)
    is_new[1:] = ordered[1:] != ordered[:-1]
    unique: Records = ordered[is_new]
    return unique


@dataclass(frozen=True, kw_only=True, slots=True)
class Hits:
    """Where queries were found: one entry a find, a query's newest source first."""

    query_H: NDArray[np.int64]
    source_H: NDArray[np.int64]
    place_H: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class HashRun:
    """A run opened for searching. May be used by several threads."""

    path: str
    names: tuple[Name, ...]
    count: int
    _bits: int
    _first_record_of: NDArray[np.uint64] = field(repr=False)
    _checksum: int
    _files: Files = field(repr=False)
    _file: pa.NativeFile = field(repr=False)

    def find(self, sorted_prefixes_Q: Prefixes) -> Hits:
        """Look up hashes in ascending order. Raises RunGoneError or StoreError, as all that reads records does."""
        range_Q = _range_of(sorted_prefixes_Q, self._bits)
        start_Q = self._first_record_of[range_Q].astype(np.int64)
        stop_Q = self._first_record_of[range_Q + 1].astype(np.int64)
        found: list[NDArray[np.int64]] = []
        for first, last in _reads(start_Q, stop_Q):
            records = self._read(int(start_Q[first]), int(stop_Q[last - 1]))
            wanted = sorted_prefixes_Q[first:last]
            lower = np.searchsorted(records["prefix"], wanted, "left")
            counts = np.searchsorted(records["prefix"], wanted, "right") - lower
            query = np.repeat(np.arange(first, last), counts)
            ends = np.cumsum(counts)
            # Backwards, since sources are named oldest first.
            record = np.repeat(lower + counts - 1 + (ends - counts), counts) - np.arange(int(counts.sum()))
            found.append(np.stack([query, records["source"][record], records["place"][record]]))
        query_H, source_H, place_H = np.concatenate([np.empty((3, 0), np.int64), *found], axis=1)
        return Hits(query_H=query_H, source_H=source_H, place_H=place_H)

    def slices(self, count: int) -> Iterator[Records]:
        """All records, in `count` pieces of equal ranges of hashes."""
        edges = [(_UINT64 * i) // count for i in range(count + 1)]
        for low, high in pairwise(edges):
            yield self.between(low, high)

    def between(self, low: int, high: int) -> Records:
        """The records whose hash is at least `low` and below `high`."""
        first, last = (low * (1 << self._bits)) // _UINT64, -(-high * (1 << self._bits) // _UINT64)
        records = self._read(int(self._first_record_of[first]), int(self._first_record_of[last]))
        start = np.searchsorted(records["prefix"], np.uint64(low), "left")
        stop = len(records) if high == _UINT64 else np.searchsorted(records["prefix"], np.uint64(high), "left")
        return records[start:stop]

    def check(self) -> None:
        """Read all of it. Raises RunError where the records are not those that were written."""
        checksum = 0
        for start in range(0, self.count, MOST_READ_RECORDS):
            checksum = zlib.crc32(self._read(start, min(self.count, start + MOST_READ_RECORDS)).data, checksum)
        if checksum != self._checksum:
            raise RunError("its records are not those that were written")

    def _read(self, start: int, stop: int) -> Records:
        size = (stop - start) * RECORD.itemsize
        try:
            with self._files.reading(self.path):
                content = self._file.read_at(size, start * RECORD.itemsize)
        except FileNotFoundError as error:  # an object store keeps no file for those who have it open
            # As no OSError: whoever writes a file meanwhile would take it for one of writing.
            raise RunGoneError("it has been deleted") from error
        if len(content) != size:
            raise RunError("it has become shorter")
        return np.frombuffer(content, RECORD)


def _range_of(prefixes_Q: Prefixes, bits: int) -> NDArray[np.int64]:
    if bits == 0:
        return np.zeros(len(prefixes_Q), np.int64)
    ranges: NDArray[np.int64] = (prefixes_Q >> np.uint64(64 - bits)).astype(np.int64)
    return ranges


def _reads(start_Q: NDArray[np.int64], stop_Q: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Queries [first, last) to answer with one read each: cut where ranges lie apart, or where it gets too much."""
    if not len(start_Q):
        return
    apart = np.flatnonzero(start_Q[1:] > stop_Q[:-1] + NEAR_RECORDS) + 1
    for first, last in zip([0, *apart.tolist()], [*apart.tolist(), len(start_Q)], strict=True):
        at = first
        while at < last:
            limit = start_Q[at] + MOST_READ_RECORDS
            until = max(at + 1, int(np.searchsorted(stop_Q[at:last], limit, "right")) + at)
            yield at, until
            at = until


class RunWriter:
    """Writes one run: records in ascending order, piece by piece, then `close`. `count`: about how many."""

    def __init__(self, place: Path, *, count: int) -> None:
        self._sink = place.open("wb")
        self._bits = max(0, (max(1, count) // RANGE_RECORDS).bit_length() - 1)
        self._per_range = np.zeros((1 << self._bits) + 1, np.uint64)
        self._count = 0
        self._checksum = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._sink.close()

    def write(self, records: Records) -> None:
        """Append sorted records, none below those before."""
        ranges = _range_of(records["prefix"], self._bits)
        self._per_range[1:] += np.bincount(ranges, minlength=1 << self._bits).astype(np.uint64)
        content = np.ascontiguousarray(records)
        self._checksum = zlib.crc32(content.data, self._checksum)
        self._sink.write(content.data)
        self._count += len(records)

    def close(self, names: Sequence[Name]) -> None:
        """Finish the file."""
        directory = np.cumsum(self._per_range, dtype=np.uint64).tobytes()
        listed = json.dumps(names).encode()
        names_offset = self._count * RECORD.itemsize + len(directory)
        size = names_offset + len(listed) + _TRAILER.size
        rest = zlib.crc32(listed, zlib.crc32(directory))
        trailer = _TRAILER.pack(self._count, self._bits, names_offset, size, self._checksum, rest, _MAGIC)
        self._sink.write(directory + listed + trailer)
        self._sink.close()


def write_run(files: Files, path: str, records: Records, names: Sequence[Name]) -> None:
    """Sort records that are all in memory and put them in place as a run."""
    ordered = sorted_records(records)
    with files.writing(path) as temporary, RunWriter(temporary, count=len(ordered)) as writer:
        writer.write(ordered)
        writer.close(names)


def open_run(files: Files, path: str) -> HashRun:
    """Open a run. Raises RunError where it is not one, FileNotFoundError, StoreError where it cannot be read."""
    with files.reading(path):
        file = files.open(path)
        size = file.size()
        trailer = file.read_at(_TRAILER.size, max(0, size - _TRAILER.size))
    if len(trailer) < _TRAILER.size:
        raise RunError("it is too short")
    *numbers, magic = _TRAILER.unpack(trailer)
    count, bits, names_offset, stated_size, checksum, rest = numbers
    start = count * RECORD.itemsize
    if magic != _MAGIC or stated_size != size or bits > 48 or not start < names_offset <= size - _TRAILER.size:
        raise RunError("it is not a run, or not all of it")
    with files.reading(path):
        content = file.read_at(size - _TRAILER.size - start, start)
    if zlib.crc32(content) != rest or names_offset - start != ((1 << bits) + 1) * 8:
        raise RunError("its directory is not the one that was written")
    directory = np.frombuffer(content[: names_offset - start], np.uint64)
    return HashRun(
        path=path,
        names=tuple((name, size) for name, size in json.loads(content[names_offset - start :])),
        count=count,
        _bits=bits,
        _first_record_of=directory,
        _checksum=checksum,
        _files=files,
        _file=file,
    )
