"""Cut a partition into work units of roughly equal text.

Fragments (files and their row groups) enter; work units leave, the same for the same fragments. Reads nothing.
"""

from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from robert_pipeline.types import Fragment, RowGroup, RowRange, WorkUnit

IdRows = Iterator[tuple[str, int, bytes | None]]


def plan_units(
    partition: str,
    fragments: Sequence[Fragment],
    *,
    unit_bytes: int,
    duplicates: Sequence[tuple[str, int]] = (),
) -> list[WorkUnit]:
    """Units in corpus order, each of at most `unit_bytes` of text where rows are of even size.

    A document that is found to be large is a unit of its own. Small row groups are put together, also across files; a
    larger one is cut into equal row counts. Every row of the partition is in exactly one unit.
    """
    repeats = _by_file(duplicates)
    units: list[WorkUnit] = []
    ranges: list[RowRange] = []
    held_bytes = 0

    def close() -> None:
        nonlocal held_bytes
        if ranges:
            units.append(_unit(partition, tuple(ranges), held_bytes, repeats))
            ranges.clear()
            held_bytes = 0

    for part, part_bytes in _pieces(fragments, unit_bytes):
        if held_bytes + part_bytes > unit_bytes:
            close()
        ranges.append(part)
        held_bytes += part_bytes
    close()
    return units


def _pieces(fragments: Sequence[Fragment], unit_bytes: int) -> Iterator[tuple[RowRange, int]]:
    for fragment in fragments:
        first_file_row = 0
        for index, group in enumerate(fragment.row_groups):
            for start, stop, text_bytes in _cuts(group, unit_bytes):
                piece = RowRange(
                    file=fragment.file,
                    revision=fragment.revision,
                    row_group=index,
                    first_row=start,
                    row_count=stop - start,
                    first_file_row=first_file_row + start,
                )
                yield piece, text_bytes
            first_file_row += group.row_count


def _cuts(group: RowGroup, unit_bytes: int) -> Iterator[tuple[int, int, int]]:
    """(first row, one past the last, text bytes): large documents by themselves, even pieces of the rows between."""
    even_rows = group.row_count - len(group.large_documents)
    # A text that repeats may be written once: then the footer knows less than the documents have.
    even_bytes = max(0, group.text_bytes - sum(text_bytes for _, text_bytes in group.large_documents))
    first = 0
    for row, text_bytes in group.large_documents:
        yield from _even_cuts(first, row, even_bytes * (row - first) // max(1, even_rows), unit_bytes)
        yield row, row + 1, text_bytes
        first = row + 1
    last_bytes = even_bytes * (group.row_count - first) // max(1, even_rows)
    yield from _even_cuts(first, group.row_count, last_bytes, unit_bytes)


def _even_cuts(first: int, end: int, text_bytes: int, unit_bytes: int) -> Iterator[tuple[int, int, int]]:
    row_count = end - first
    most_rows = max(1, row_count * unit_bytes // max(1, text_bytes))
    count = max(1, -(-row_count // most_rows))
    for start, stop in pairwise(row_count * i // count for i in range(count + 1)):
        if stop > start:
            yield first + start, first + stop, text_bytes * (stop - start) // row_count


def _by_file(duplicates: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = defaultdict(list)
    for file, row in duplicates:
        rows[file].append(row)
    return {file: sorted(found) for file, found in rows.items()}


def _unit(
    partition: str, ranges: tuple[RowRange, ...], text_bytes: int, repeats: Mapping[str, Sequence[int]]
) -> WorkUnit:
    own: list[tuple[str, int]] = []
    for part in ranges:
        rows = repeats.get(part.file, ())
        first = bisect_left(rows, part.first_file_row)
        last = bisect_left(rows, part.first_file_row + part.row_count)
        own += [(part.file, row) for row in rows[first:last]]
    return WorkUnit(partition=partition, ranges=ranges, duplicate_rows=tuple(own), text_bytes=text_bytes)


def repeated_ids(read_ids: Callable[[], IdRows]) -> list[tuple[str, int]]:
    """(file, row) of every row whose doc_id an earlier row has. Nine bytes of memory a row.

    `read_ids` is called a second time only where 64-bit hashes repeat, to compare the ids themselves.
    """
    hashes = array("q", (hash(doc_id) if doc_id else 0 for _, _, doc_id in read_ids()))
    sorted_hashes = np.frombuffer(hashes, np.int64)
    sorted_hashes.sort()  # in place
    suspects = set(sorted_hashes[1:][sorted_hashes[1:] == sorted_hashes[:-1]].tolist())
    seen: set[bytes] = set()
    repeats: list[tuple[str, int]] = []
    if suspects - {0}:
        for file, row, doc_id in read_ids():
            if doc_id and hash(doc_id) in suspects:
                if doc_id in seen:
                    repeats.append((file, row))
                seen.add(doc_id)
    return repeats
