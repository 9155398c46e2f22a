"""Encode ahead what more than one document of a run holds, so that units in parallel do not each encode it.

A survey reads every missing unit's texts once and keeps their hashes; the texts found twice or more are embedded into
shards of their own, which the units then copy from; at the end those shards are removed. Memory: the hashes of
`SLICE_DOCUMENTS` documents, 100 MB, and some 40 bytes for each text that is shared.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from robert_pipeline.core.repeats import first_places_of_repeats
from robert_pipeline.stages.embedding import EmbedJob
from robert_pipeline.storage.content_index import refresh_index
from robert_pipeline.storage.hash_runs import RECORD, Records, RunError, open_run
from robert_pipeline.storage.store import SHARED_TEXTS, Store, open_store
from robert_pipeline.types import SharedTexts, WorkUnit

SLICE_DOCUMENTS = 1 << 21
READERS = 8


def embed_shared_texts(units: Sequence[WorkUnit], job: EmbedJob) -> list[SharedTexts]:
    """Find and embed the texts that the missing `units` have more than once; the index knows them afterwards."""
    from robert_pipeline.stages.pipeline import run, shared_pipeline, survey_pipeline

    run(survey_pipeline(units, job))
    shared = list(find_shared_texts(units, job))
    if shared:
        run(shared_pipeline(shared, job))
        refresh_index(open_store(job.store), job.key)
    return shared


def remove_scratch(units: Sequence[WorkUnit], shared: Sequence[SharedTexts], job: EmbedJob) -> None:
    """Delete the surveys, and the shards of shared texts: every unit has its copy now."""
    store = open_store(job.store)
    paths = [store.survey_path(job.key, unit.partition, unit.unit_id) for unit in units]
    paths += [store.embedding_path(job.key, SHARED_TEXTS, texts.name) for texts in shared]
    with ThreadPoolExecutor(READERS, thread_name_prefix="scratch") as workers:
        list(workers.map(store.files.delete, paths))


def find_shared_texts(units: Sequence[WorkUnit], job: EmbedJob) -> Iterator[SharedTexts]:
    """The surveyed texts that occur more than once, in pieces of about a work unit's text, in corpus order."""
    rows_of: dict[int, list[np.ndarray]] = defaultdict(list)
    for records, unit_P in _slices(units, job):
        places = first_places_of_repeats(records["prefix"], unit_P, records["place"].astype(np.int64))
        for number in np.unique(places[0]):
            rows_of[int(number)].append(places[1][places[0] == number])
    picks: list[tuple[WorkUnit, tuple[int, ...]]] = []
    held_bytes = 0
    for number in sorted(rows_of):
        unit, rows = units[number], np.sort(np.concatenate(rows_of[number]))
        picks.append((unit, tuple(rows.tolist())))
        held_bytes += unit.text_bytes * len(rows) // max(1, unit.document_count)
        if held_bytes >= job.embedding.unit_bytes:
            yield SharedTexts(picks=tuple(picks))
            picks, held_bytes = [], 0
    if picks:
        yield SharedTexts(picks=tuple(picks))


def _slices(units: Sequence[WorkUnit], job: EmbedJob) -> Iterator[tuple[Records, np.ndarray]]:
    """The surveys' records, a range of hashes at a time, and the number of the unit that each is of."""
    store = open_store(job.store)
    count = max(1, -(-sum(unit.document_count for unit in units) // SLICE_DOCUMENTS))
    with ThreadPoolExecutor(READERS, thread_name_prefix="survey") as readers:
        for number in range(count):
            low, high = (number << 64) // count, ((number + 1) << 64) // count
            parts = list(readers.map(lambda unit, low=low, high=high: _survey(store, job, unit, low, high), units))
            unit_P = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
            yield np.concatenate([np.empty(0, RECORD), *parts]), unit_P


def _survey(store: Store, job: EmbedJob, unit: WorkUnit, low: int, high: int) -> Records:
    try:
        return open_run(store.files, store.survey_path(job.key, unit.partition, unit.unit_id)).between(low, high)
    except (FileNotFoundError, RunError):
        # Another run embeds the same units and was done sooner. Texts not known to be shared are only encoded twice.
        return np.empty(0, RECORD)
