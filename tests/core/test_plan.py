"""Work units and repeated ids."""

import itertools

from hypothesis import example, given
from hypothesis import strategies as st

from robert_pipeline.core import plan
from robert_pipeline.core.plan import plan_units, repeated_ids
from robert_pipeline.types import Fragment, RowGroup

row_groups = st.lists(st.builds(RowGroup, row_count=st.integers(0, 40), text_bytes=st.integers(0, 5_000)), max_size=5)
GOLDEN = ["0f4f8cb5282ecbff", "5726cdb4f52742e0", "5b8ca9bbcd1d63c5"]
LARGE = st.dictionaries(st.integers(0, 19), st.integers(6_001, 90_000), max_size=5)
skewed_groups = st.lists(
    st.builds(
        lambda row_count, small_bytes, large: RowGroup(
            row_count=row_count,
            text_bytes=small_bytes + sum(large.values()),
            large_documents=tuple(sorted(large.items())),
        ),
        st.integers(20, 40),
        st.integers(0, 5_000),
        LARGE,
    ),
    max_size=5,
)


def files_of(groups):
    return st.lists(groups, max_size=4).map(
        lambda files: [
            Fragment(file=f"{index}.parquet", revision="r", row_groups=tuple(groups))
            for index, groups in enumerate(files)
        ]
    )


even_fragments = files_of(row_groups)
fragments = even_fragments | files_of(skewed_groups)


def rows_of(fragments):
    """(file, row in file, row group, row in group) of every row there is."""
    found = []
    for fragment in fragments:
        row = itertools.count()
        for index, group in enumerate(fragment.row_groups):
            found += [(fragment.file, next(row), index, in_group) for in_group in range(group.row_count)]
    return found


def rows_in(unit):
    return [
        (part.file, part.first_file_row + offset, part.row_group, part.first_row + offset)
        for part in unit.ranges
        for offset in range(part.row_count)
    ]


@given(fragments, st.integers(1, 6_000))
def test_every_row_is_in_exactly_one_unit_in_corpus_order(fragments, unit_bytes):
    """A document would be lost, or labelled twice."""
    units = plan_units("p", fragments, unit_bytes=unit_bytes)
    assert [row for unit in units for row in rows_in(unit)] == rows_of(fragments)
    assert all(unit.document_count == len(rows_in(unit)) > 0 for unit in units)
    assert len({unit.unit_id for unit in units}) == len(units)
    assert units == plan_units("p", fragments, unit_bytes=unit_bytes)


@given(even_fragments, st.integers(1, 6_000))
@example([Fragment(file="a", revision="r", row_groups=(RowGroup(row_count=3, text_bytes=100),))], 50)
def test_units_are_as_full_as_even_rows_allow(fragments, unit_bytes):
    """A unit would hold more than a crash may cost, or the corpus would fall apart into needless units."""
    units = plan_units("p", fragments, unit_bytes=unit_bytes)
    for unit in units:
        assert unit.text_bytes <= unit_bytes or unit.document_count == 1
    for unit, following in itertools.pairwise(units):
        assert unit.text_bytes + following.text_bytes > unit_bytes
    # Whole bytes: cutting a row group loses less than one a piece.
    text_bytes = sum(group.text_bytes for f in fragments for group in f.row_groups if group.row_count)
    pieces = sum(len(unit.ranges) for unit in units)
    assert text_bytes - pieces <= sum(unit.text_bytes for unit in units) <= text_bytes


@given(files_of(skewed_groups), st.integers(1, 6_000))
def test_a_large_document_is_a_unit_of_its_own(fragments, unit_bytes):
    """One worker would still be busy with it, and with all its neighbours, when the others are done."""
    units = plan_units("p", fragments, unit_bytes=unit_bytes)
    sizes = {rows_in(unit)[0]: unit.text_bytes for unit in units if unit.document_count == 1}
    rows = {(file, group, in_group): (file, row, group, in_group) for file, row, group, in_group in rows_of(fragments)}
    for fragment in fragments:
        for index, group in enumerate(fragment.row_groups):
            for row, text_bytes in group.large_documents:
                assert sizes[rows[fragment.file, index, row]] == text_bytes
    largest = max((size for f in fragments for g in f.row_groups for _, size in g.large_documents), default=0)
    assert max((unit.text_bytes for unit in units), default=0) <= max(largest, unit_bytes, 5_000)


def test_the_units_of_a_corpus_without_large_documents_keep_their_names():
    """Every store would be embedded anew after an update."""
    groups = (RowGroup(row_count=700, text_bytes=9_000), RowGroup(row_count=3, text_bytes=50))
    fragments = [Fragment(file="a.parquet", revision="r", row_groups=groups)]
    units = plan_units("p", fragments, unit_bytes=4_000, duplicates=[("a.parquet", 5)])
    assert [unit.unit_id for unit in units] == GOLDEN


@given(fragments, st.integers(1, 6_000), st.randoms(use_true_random=False))
def test_every_duplicate_lands_in_the_unit_that_holds_its_row(fragments, unit_bytes, random):
    """A repeated doc_id would be published twice."""
    rows = [(file, row) for file, row, _, _ in rows_of(fragments)]
    duplicates = [row for row in rows if random.random() < 0.3]
    units = plan_units("p", fragments, unit_bytes=unit_bytes, duplicates=duplicates)
    for unit in units:
        held = {(file, row) for file, row, _, _ in rows_in(unit)}
        assert list(unit.duplicate_rows) == [row for row in duplicates if row in held]
    assert sum(len(unit.duplicate_rows) for unit in units) == len(duplicates)
    random.shuffle(duplicates)
    assert units == plan_units("p", fragments, unit_bytes=unit_bytes, duplicates=duplicates)


ids = st.lists(st.none() | st.sampled_from([b"", b"a", b"b", b"\xff", "é".encode(), b"c" * 40]) | st.binary(max_size=2))


def naive_repeats(rows):
    seen, repeats = set(), []
    for file, row, doc_id in rows:
        if not doc_id:
            continue
        if doc_id in seen:
            repeats.append((file, row))
        seen.add(doc_id)
    return repeats


@given(ids)
def test_repeated_ids_are_those_a_dictionary_finds(doc_ids):
    """A document would be labelled twice, or one with an id of its own rejected."""
    rows = [(f"{index // 5}.parquet", index % 5, doc_id) for index, doc_id in enumerate(doc_ids)]
    assert repeated_ids(lambda: iter(rows)) == naive_repeats(rows)


@given(ids)
def test_ids_are_compared_where_hashes_collide(doc_ids):
    """Two documents whose ids share a hash would count as one."""
    rows = [("a.parquet", index, doc_id) for index, doc_id in enumerate(doc_ids)]
    plan.hash = len  # a hash that collides often; 64-bit collisions cannot be made here
    try:
        assert repeated_ids(lambda: iter(rows)) == naive_repeats(rows)
    finally:
        del plan.hash


def test_ids_are_read_once_where_none_repeats():
    """Planning would read the ids of every healthy corpus twice."""
    reads = []
    repeated_ids(lambda: reads.append(1) or iter([("a", 0, b"x"), ("a", 1, b"y"), ("a", 2, None), ("a", 3, None)]))
    assert len(reads) == 1
