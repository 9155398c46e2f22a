"""What would change if another head labelled: both heads score the same embedded documents; nothing is embedded.

Writes `diff.json` and `diff.html` into a folder, and nothing else anywhere.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from robert_pipeline.config import Settings
from robert_pipeline.core.examples import Integers
from robert_pipeline.core.flips import Flip, FlipTally, HeadAnswers, HeadDiff, Outcome, answers_of, joined
from robert_pipeline.core.gate import Measure, measure
from robert_pipeline.core.model import TrainedHead
from robert_pipeline.core.split import text_fractions, text_keys
from robert_pipeline.core.targets import label_parts
from robert_pipeline.core.threads import in_threads
from robert_pipeline.errors import ConfigError, GateError
from robert_pipeline.pages.diff import DiffPage, diff_page, to_json
from robert_pipeline.runs.plan import PartitionPlan, plan_embedded
from robert_pipeline.stages.embedding import EmbedJob
from robert_pipeline.stages.scoring import check_shard, score_table
from robert_pipeline.storage.corpus import open_corpus
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.heads import load_head, load_learned_keys
from robert_pipeline.storage.registry import current_head
from robert_pipeline.storage.shards import ChunkTable, EmbeddingShard, open_shard
from robert_pipeline.storage.store import open_store
from robert_pipeline.telemetry.watch import observed
from robert_pipeline.types import Document, WorkUnit

JSON_FILE = "diff.json"
PAGE_FILE = "diff.html"

OnDocuments = Callable[[int], None]
"""Told how many more documents have been compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """A head, the folder it was read from, and the keys of the texts it learned from; None where nobody knows."""

    folder: str
    head: TrainedHead
    learned_keys: Integers | None


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffReport:
    """What was found, beside the limits, and where it is written."""

    before: Contestant
    candidate: Contestant
    partitions: tuple[str, ...]
    diff: HeadDiff
    measures: tuple[Measure, ...]
    json_path: str
    page_path: str

    @property
    def is_within_limits(self) -> bool:
        """Whether the candidate may be promoted."""
        return all(each.is_kept for each in self.measures)


def read_contestant(folder: str) -> Contestant:
    """Raises ModelError where there is no head, or a damaged one."""
    return Contestant(folder=folder, head=load_head(folder), learned_keys=load_learned_keys(folder))


@observed("diff")
def diff(
    settings: Settings,
    *,
    candidate: str | None = None,
    partitions: Sequence[str] = (),
    sample: int | None = None,
    out: str,
    run_id: str,
    on_documents: OnDocuments = lambda _: None,
) -> DiffReport:
    """Compare the head in folder `candidate` (else `settings.model`) with the one that labels.

    See `compare_heads`. Raises ModelError where one of the two is missing, GateError where both are the same.
    """
    before = read_contestant(current_head(settings).model)
    after = read_contestant(candidate or settings.model)
    if before.head.fingerprint == after.head.fingerprint:
        raise GateError(
            f"the candidate, {after.folder}, is the head that labels now ({before.head.fingerprint})",
            fix="Name another one with --candidate",
        )
    return compare_heads(
        settings,
        before,
        after,
        partitions=partitions,
        sample=sample,
        out=out,
        run_id=run_id,
        on_documents=on_documents,
    )


def compare_heads(
    settings: Settings,
    before: Contestant,
    candidate: Contestant,
    *,
    partitions: Sequence[str] = (),
    sample: int | None = None,
    out: str,
    run_id: str,
    on_documents: OnDocuments = lambda _: None,
) -> DiffReport:
    """Score the named partitions, or all, with both heads, and write what changes into folder `out`.

    With `sample`, about so many documents are compared, chosen by a hash of their text. The heads may have been made
    for different encoders: each reads its own vectors. Accuracy is taken of documents with a label in the corpus from
    which neither head has learned. Raises StoreError where a partition is not embedded, GateError where there is no
    document to compare.
    """
    if sample is not None and sample < 1:
        raise ConfigError(f"the sample is {sample} documents", fix="Give at least 1, or leave it out")
    read = [
        plan_embedded(settings, side.head.origin, partitions=partitions, run_id=run_id) for side in (before, candidate)
    ]
    (job, planned), (candidate_job, _) = read
    documents = sum(partition.document_count for partition in planned)
    share = 1.0 if sample is None else min(1.0, sample / max(1, documents))
    comparison = _Comparison(
        settings=settings, before=before, candidate=candidate, job=job, candidate_job=candidate_job, share=share
    )
    tally = FlipTally()
    for partition in planned:
        comparison.add(tally, partition, on_documents)
    found = tally.result()
    if not found.documents:
        raise GateError(
            f"none of {documents} documents is labelled by both heads", fix="Name other partitions, or a larger sample"
        )
    found = replace(found, top_flips=tuple(_with_passages(settings, planned, found.top_flips)))
    return _write(comparison, [partition.partition for partition in planned], found, out)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Comparison:
    """Two heads, and where the vectors of each are."""

    settings: Settings
    before: Contestant
    candidate: Contestant
    job: EmbedJob
    candidate_job: EmbedJob
    share: float

    def add(self, tally: FlipTally, partition: PartitionPlan, on_documents: OnDocuments) -> None:
        """Compare a partition, unit by unit: units are cut from the corpus, the same for every encoder."""
        truth = self._truth(partition.partition)
        for unit in partition.units:
            heads = (self.before.head, self.candidate.head)
            if self.job.key == self.candidate_job.key:
                (before, after), keys = _answers(self._shard(self.job, unit), heads, self.share)
            else:
                (before,), keys = _answers(self._shard(self.job, unit), heads[:1], self.share)
                (after,), _ = _answers(self._shard(self.candidate_job, unit), heads[1:], self.share)
            tally.add(partition.partition, before, after, truth=truth, fresh=self._fresh(keys))
            on_documents(unit.document_count)

    def _shard(self, job: EmbedJob, unit: WorkUnit) -> EmbeddingShard:
        store = open_store(job.store)
        return open_shard(store.files, store.embedding_path(job.key, unit.partition, unit.unit_id))

    def _truth(self, partition: str) -> dict[str, Outcome]:
        corpus = open_corpus(self.settings.corpus, self.settings.columns)
        if not corpus.has_labels(partition):
            return {}
        multilabel = "multilabel" in (self.before.head.config.output, self.candidate.head.config.output)
        separator = self.settings.training.label_separator
        named = ((doc_id, (label or "").strip()) for doc_id, label in corpus.labels(partition))
        return {
            doc_id: tuple(sorted(set(label_parts(label, separator)))) if multilabel else (label,)
            for doc_id, label in named
            if label
        }

    def _fresh(self, keys: dict[str, int]) -> set[str]:
        learned = [side.learned_keys for side in (self.before, self.candidate) if side.learned_keys is not None]
        known_B = np.isin(np.fromiter(keys.values(), np.int64, len(keys)), np.concatenate([*learned, []]))
        return {doc_id for doc_id, known in zip(keys, known_B.tolist(), strict=True) if not known}


def _answers(
    shard: EmbeddingShard, heads: Sequence[TrainedHead], share: float
) -> tuple[list[HeadAnswers], dict[str, int]]:
    """What each head says of a share of the shard's documents, and the key of each document's text."""
    for head in heads:
        check_shard(head, shard)
    # A unit all of whose rows are rejected has no table of chunks.
    parts = [[_no_answers(head)] for head in heads]
    keys: dict[str, int] = {}

    def read(table: ChunkTable) -> tuple[dict[str, int], list[HeadAnswers]]:
        sampled, found = _sampled(table, share)
        return found, [_table_answers(head, sampled, tuple(found)) for head in heads]

    for found, answers in in_threads(read, shard.batches()):
        keys |= found
        for part, each in zip(parts, answers, strict=True):
            part.append(each)
    return [joined(part) for part in parts], keys


def _sampled(table: ChunkTable, share: float) -> tuple[ChunkTable, dict[str, int]]:
    """The documents whose text's hash is in the share, and their text keys by doc_id, in order."""
    firsts = np.cumsum(table.lengths_B) - table.lengths_B
    ids = table.rows.column("doc_id").take(pa.array(firsts)).to_pylist()
    key_B = text_keys(table.rows.column("text_hash").take(pa.array(firsts)).to_pylist())
    kept_B = text_fractions(key_B, "diff") < share
    found = {doc_id: key for doc_id, key, kept in zip(ids, key_B.tolist(), kept_B.tolist(), strict=True) if kept}
    if kept_B.all():
        return table, found
    kept_N = np.repeat(kept_B, table.lengths_B)
    return (
        ChunkTable(
            rows=table.rows.filter(pa.array(kept_N)),
            vectors_ND=table.vectors_ND[kept_N],
            lengths_B=table.lengths_B[kept_B],
        ),
        found,
    )


def _table_answers(head: TrainedHead, table: ChunkTable, doc_ids: Sequence[str]) -> HeadAnswers:
    if not len(doc_ids):
        return _no_answers(head)
    scores = score_table(head, table)
    start_B, end_B = (table.rows.column(name).to_numpy()[scores.passage_B] for name in ("char_start", "char_end"))
    return answers_of(head, scores, doc_ids, start_B, end_B)


def _no_answers(head: TrainedHead) -> HeadAnswers:
    none = np.empty(0, np.int64)
    return HeadAnswers(
        labels=head.labels,
        doc_ids=(),
        given=(),
        chosen=(),
        probabilities_BK=np.empty((0, len(head.labels))),
        probability_B=np.empty(0),
        passage_start_B=none,
        passage_end_B=none,
    )


def _with_passages(settings: Settings, planned: Sequence[PartitionPlan], flips: Sequence[Flip]) -> Iterator[Flip]:
    """The flips with the texts of their passages, for which the units that hold them are read."""
    wanted = {(flip.partition, flip.doc_id) for flip in flips}
    texts: dict[tuple[str, str], str] = {}
    corpus = open_corpus(settings.corpus, settings.columns)
    for partition in planned:
        for unit in partition.units:
            if not any(name == partition.partition for name, _ in wanted - texts.keys()):
                break
            for row in corpus.read(unit):
                place = (partition.partition, row.doc_id or "")
                if place in wanted and isinstance(row, Document):
                    texts[place] = row.text
    for flip in flips:
        text = texts[flip.partition, flip.doc_id]
        yield replace(
            flip, passage_before=text[slice(*flip.passage_before)], passage_after=text[slice(*flip.passage_after)]
        )


def _write(comparison: _Comparison, partitions: Sequence[str], found: HeadDiff, out: str) -> DiffReport:
    settings, before, candidate = comparison.settings, comparison.before, comparison.candidate
    measures = measure(found, settings.gate)
    content = DiffPage(
        before=before.head.fingerprint,
        candidate=candidate.head.fingerprint,
        diff=found,
        measures=measures,
        facts=tuple(_facts(comparison, partitions)),
    )
    files = Files(out)
    files.write_bytes(JSON_FILE, to_json(content).encode())
    files.write_bytes(PAGE_FILE, diff_page(content).encode())
    return DiffReport(
        before=before,
        candidate=candidate,
        partitions=tuple(partitions),
        diff=found,
        measures=measures,
        json_path=files.describe(JSON_FILE),
        page_path=files.describe(PAGE_FILE),
    )


def _facts(comparison: _Comparison, partitions: Sequence[str]) -> Iterator[tuple[str, str]]:
    settings = comparison.settings
    for name, side in (("head before", comparison.before), ("candidate", comparison.candidate)):
        origin = side.head.origin
        yield name, f"{side.head.fingerprint}, read from {side.folder}"
        yield (
            f"{name} reads",
            f"vectors of encoder {origin.encoder_fingerprint}, chunking {origin.chunking_fingerprint}",
        )
        if side.learned_keys is None:
            yield f"{name} learned from", "nobody knows; where it was these documents, its accuracy flatters it"
    yield "corpus", settings.corpus
    yield "partitions", ", ".join(partitions)
    if comparison.share < 1:
        yield "sample", f"{comparison.share:.2%} of the documents, chosen by a hash of their text"
