"""The store against a plain dictionary, through any history of embedding, change, crash, damage, gc and verify."""

import contextlib
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from corpora import SMALL_CHUNKS
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from stores import (
    CountingEncoder,
    counting_encoder,
    embed_missing,
    hash_of,
    missing_units,
    settings_of,
    stored,
    write_partition,
)

from robert_pipeline.core.chunk import cut
from robert_pipeline.runs.store_gc import Reason, collect_garbage
from robert_pipeline.runs.store_verify import verify_store
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.shards import open_shard
from robert_pipeline.storage.store import open_store

PARTITIONS = ["day=1", "day=2", "day=3"]
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
TEXTS = [" ".join(WORDS[(n * k) % 10] for k in range(1, 5 + 6 * n)) for n in range(9)]
texts = st.lists(st.one_of(st.sampled_from(TEXTS), st.sampled_from([None, "  "])), min_size=1, max_size=10)


class Killed(BaseException):
    """Stands for kill -9: nobody catches it."""


@contextlib.contextmanager
def killed_at(operation):
    """Kill the process at its n-th change of a file, before or after it is made."""
    changes = 0
    writing, delete = Files.writing, Files.delete

    def count():
        nonlocal changes
        changes += 1
        if changes == operation:
            raise Killed

    @contextlib.contextmanager
    def deadly_writing(files, path):
        with writing(files, path) as place:
            yield place
            count()
        count()

    def deadly_delete(files, path):
        count()
        delete(files, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Files, "writing", deadly_writing)
        patch.setattr(Files, "delete", deadly_delete)
        with contextlib.suppress(Killed):
            yield


class StoreMachine(RuleBasedStateMachine):
    """`corpus` is the model: partition to texts. What the store must hold follows from it."""

    tokenizer = None

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="store-model-"))
        self.encoder = counting_encoder(self.tokenizer)
        self.settings = settings_of(self.folder / "corpus", self.folder / "store")
        self.store = open_store(self.settings.store)
        self.corpus = {}
        self.revision = 0

    def teardown(self):
        shutil.rmtree(self.folder)

    @initialize(texts=texts)
    def begin(self, texts):
        self.change("day=1", texts)

    @rule(partition=st.sampled_from(PARTITIONS), texts=texts)
    def change(self, partition, texts):
        """Write a partition, new or in place of another."""
        self.revision += 1
        self.corpus[partition] = texts
        # Row groups of another size, so that the file is another one even where the texts are the same.
        write_partition(self.settings.corpus, partition, texts, row_group_rows=1 + self.revision % 4)

    @precondition(lambda self: len(self.corpus) > 1)
    @rule(data=st.data())
    def drop_a_partition(self, data):
        partition = data.draw(st.sampled_from(sorted(self.corpus)))
        del self.corpus[partition]
        shutil.rmtree(Path(self.settings.corpus) / partition)

    @rule()
    def embed(self):
        """Afterwards every text is there, and exactly those that no shard held were paid for, once."""
        held = self.texts_in_store()
        planned = {unit.partition: 0 for unit in missing_units(self.settings, self.encoder)}
        wanted = {t for partition in planned for t in self.usable(partition)}
        before = self.encoder.encoder.sequences
        embed_missing(self.settings, self.encoder)
        spent = self.encoder.encoder.sequences - before
        new = [t for t in wanted if hash_of(t) not in held]
        assert spent == self.chunk_count(new)
        documents, rejected = stored(self.settings, self.encoder)
        assert {place: hashed for place, (hashed, _) in documents.items()} == {
            (partition, f"d{row}"): hash_of(t)
            for partition, texts in self.corpus.items()
            for row, t in enumerate(texts)
            if t and t.strip()
        }
        for hashed, vectors in documents.values():
            assert vectors == self.vectors()[hashed]
        assert Counter(partition for partition, _, _ in rejected) == Counter(
            partition for partition, texts in self.corpus.items() for t in texts if not (t and t.strip())
        )

    @rule()
    def embed_again(self):
        """Whatever came before, what was embedded is not paid for twice."""
        self.embed()
        before = self.encoder.encoder.sequences
        for partition in self.corpus:
            self.change(partition, self.corpus[partition])
        self.embed()
        assert self.encoder.encoder.sequences == before

    @rule(operation=st.integers(1, 25))
    def crash(self, operation):
        with killed_at(operation):
            embed_missing(self.settings, self.encoder)
        self.store.files.write_bytes("embeddings/x.parquet", b"")  # so that the folder is there
        self.store.files.delete("embeddings/x.parquet")
        (Path(self.settings.store) / "embeddings" / f"x.{self.revision}.tmp").write_bytes(b"half")

    @rule(keep=st.sampled_from([None, 0.0]))
    def gc(self, keep):
        """No text is lost, unless the old ones are let go; nothing that is planned is touched."""
        held = self.texts_in_store()
        present = len(missing_units(self.settings, self.encoder))
        report = collect_garbage(
            self.settings, delete=True, older_than_hours=-1, superseded_days=None if keep is None else -1
        )
        assert len(missing_units(self.settings, self.encoder)) == present
        assert self.store.files.list_temporary() == []
        if keep is None:
            assert self.texts_in_store() == held
            assert all(item.reason is not Reason.SUPERSEDED for item in report.garbage)
        else:
            assert report.kept_superseded_shards == 0
        assert collect_garbage(self.settings, older_than_hours=-1).garbage == ()

    @precondition(lambda self: self.store.shards("embeddings"))
    @rule(shard=st.integers(0, 1_000), bit=st.integers(0, 1_000_000))
    def damage(self, shard, bit):
        """A flipped bit is found, whoever reads, and what verify sets aside is embedded again."""
        places = self.store.shards("embeddings")
        place = places[shard % len(places)]
        content = bytearray(self.store.files.read_bytes(place.entry.path))
        content[bit // 8 % len(content)] ^= 1 << bit % 8
        self.store.files.write_bytes(place.entry.path, bytes(content))
        report = verify_store(self.settings, check_only=True, run_id="check")
        assert [finding.path for finding in report.findings] == [place.entry.path]
        self.store.set_aside(place.entry.path)

    @rule()
    def lose_the_index(self):
        for entry in self.store.files.list("index"):
            self.store.files.delete(entry.path)

    @invariant()
    def what_is_there_is_whole(self):
        assert verify_store(self.settings, check_only=True, run_id="check").findings == ()

    def usable(self, partition):
        return [t for t in self.corpus[partition] if t and t.strip()]

    def chunk_count(self, texts):
        return len(cut(self.tokenizer(texts).token_counts_B, SMALL_CHUNKS)) if texts else 0

    def texts_in_store(self):
        """Hashes of the texts of all shards, read without the index."""
        return {
            row["text_hash"]
            for place in self.store.shards("embeddings")
            for table in open_shard(self.store.files, place.entry.path).batches()
            for row in table.rows.select(["text_hash"]).to_pylist()
        }

    def vectors(self):
        """Text hash to the vectors that its text has, whatever the store says."""
        if not _VECTORS:
            for text in TEXTS:
                ids = self.tokenizer([text]).token_ids
                spans = cut(np.array([len(ids)]), SMALL_CHUNKS)
                batch = self.tokenizer.frame.batch(ids, spans.start_N, spans.count_N)
                _VECTORS[hash_of(text)] = CountingEncoder()(batch).astype(np.float16).tolist()
        return _VECTORS


_VECTORS = {}


@pytest.mark.timeout(900)  # Hypothesis takes up to 300 s to make a failure small
def test_the_store_is_a_dictionary_from_text_to_vectors(tiny):
    """Some history of runs, crashes and clean-ups would lose a document, pay twice, or give it other vectors."""
    StoreMachine.tokenizer = tiny.tokenizer
    run_state_machine_as_test(StoreMachine, settings=settings(max_examples=12, stateful_step_count=12, deadline=None))
