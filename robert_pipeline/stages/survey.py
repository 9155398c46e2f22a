"""Survey one work unit before it is embedded: which texts it holds that the store does not know.

A unit enters; a run of text hashes, each with the row it was read at, leaves. What several units hold is encoded once,
ahead of them: see `robert_pipeline.runs.shared`. Reading and hashing cost a hundredth of encoding. Knows no engine.
"""

import numpy as np

from robert_pipeline.stages.embedding import EmbedJob
from robert_pipeline.storage.content_index import open_index
from robert_pipeline.storage.corpus import read_unit
from robert_pipeline.storage.hash_runs import RECORD, prefixes, write_run
from robert_pipeline.storage.store import open_store
from robert_pipeline.types import Document, WorkUnit


def survey_unit(unit: WorkUnit, job: EmbedJob) -> None:
    """Write the unit's survey, anew where there is one. Holds 80 bytes a document. Raises CorpusError or StoreError."""
    hashes: list[str] = []
    rows: list[int] = []
    for number, row in enumerate(read_unit(job.corpus, job.columns, unit)):
        if isinstance(row, Document):
            hashes.append(row.text_hash)
            rows.append(number)
    store = open_store(job.store)
    unknown = ~open_index(store, job.key).knows(hashes)
    records = np.zeros(int(unknown.sum()), RECORD)
    records["prefix"] = prefixes(hashes)[unknown]
    records["place"] = np.array(rows, np.uint32)[unknown]
    path = store.survey_path(job.key, unit.partition, unit.unit_id)
    write_run(store.files, path, records, [(unit.unit_id, unit.document_count)])
