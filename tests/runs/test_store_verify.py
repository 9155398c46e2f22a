"""Verifying a store: whatever is wrong with a file is found, said, set aside and made anew."""

import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robert_pipeline.errors import StoreError
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.score import score
from robert_pipeline.runs.store_verify import Outcome, verify_store
from robert_pipeline.storage.shards import ShardWriter, open_shard
from robert_pipeline.storage.store import QUARANTINE, open_store
from tests.projects import LABEL, LEARN
from tests.stores import write_shard


def place_of(settings, kind, day=LABEL):
    """The day's file of one kind."""
    (place,) = [place for place in open_store(settings.store).shards(kind) if place.partition_folder == day]
    return place.entry.path


def rows_of(settings, path):
    return pq.read_table(Path(settings.store, path))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def replace_by_foreign(path):
    pq.write_table(pa.table({"doc_id": ["d0"], "vector": [[1.0, 2.0]]}), path)


DAMAGES = [flip, truncate, empty, replace_by_foreign]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["embeddings", "rejects", "predictions", "contributions"])
def test_a_damaged_file_is_found_and_rebuilt(scored, kind, damage):
    """A damaged file would become labels, or stop every run from then on."""
    path = place_of(scored, kind)
    whole = rows_of(scored, path)
    damage(Path(scored.store, path))
    damaged = Path(scored.store, path).read_bytes()
    (found,) = verify_store(scored, check_only=True, run_id="check").findings
    assert (found.path, found.outcome) == (path, Outcome.FOUND)
    assert path in found.problem
    (mended,) = verify_store(scored, run_id="second").findings
    assert (mended.path, mended.problem, mended.outcome) == (path, found.problem, Outcome.REBUILT)
    assert Path(scored.store, QUARANTINE, path).read_bytes() == damaged
    assert verify_store(scored, check_only=True, run_id="check").findings == ()
    of_a_run = [name for name in ("run_id", "scored_at", "rejected_at") if name in whole.column_names]
    assert rows_of(scored, path).drop_columns(of_a_run).equals(whole.drop_columns(of_a_run))


def test_one_flipped_bit_in_any_file_of_a_store_is_found(scored):
    """Some byte of some kind of file would be unguarded."""
    chance = random.Random(5)  # noqa: S311 - not for secrets
    places = open_store(scored.store).shards()
    for place in places:
        path = Path(scored.store, place.entry.path)
        whole = path.read_bytes()
        for _ in range(3):
            flipped = bytearray(whole)
            bit = chance.randrange(8 * len(whole))
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            found = verify_store(scored, check_only=True, run_id="check").findings
            assert place.entry.path in [finding.path for finding in found], bit
        path.write_bytes(whole)


def test_a_shard_of_another_encoder_under_the_right_name_is_found_and_rebuilt(scored):
    """Vectors of another encoder would be given to the head."""
    path = place_of(scored, "embeddings")
    other = Path(scored.store, write_shard(scored.store, partition=LABEL, unit_id=Path(path).stem))
    shutil.move(other, Path(scored.store, path))
    with pytest.raises(
        StoreError, match=r"is damaged: it was written as embeddings/e{16}-.* Run `robert store verify`"
    ):
        open_shard(open_store(scored.store).files, path)
    (finding,) = verify_store(scored, run_id="second").findings
    assert (finding.path, finding.outcome) == (path, Outcome.REBUILT)
    assert "was written as" in finding.problem


def test_vectors_that_are_not_finite_are_found(scored, monkeypatch):
    """NaN in the store would be rejected again by every head, for ever."""
    path = place_of(scored, "embeddings")
    shard = open_shard(open_store(scored.store).files, path)
    (table,) = shard.batches()
    vectors = table.vectors_ND.copy()
    vectors[1, 2] = np.nan
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(vectors.reshape(-1)), type=table.rows.schema.field("vector").type
    )
    with open_store(scored.store).files.writing(path) as temporary:
        writer = ShardWriter(temporary, dimension=shard.header.dimension, vector_dtype=shard.header.vector_dtype)
        writer.write(table.rows.set_column(table.rows.num_columns - 1, "vector", column).cast(writer.schema))
        writer.close(shard.header)
    (finding,) = verify_store(scored, run_id="second").findings
    assert "a vector holds NaN or infinity" in finding.problem
    assert finding.outcome is Outcome.REBUILT


def test_lost_rejects_are_found_by_the_counts(scored):
    """Rows would be neither embedded nor rejected, and nothing would say so before a publication fails."""
    Path(scored.store, place_of(scored, "rejects")).unlink()
    (finding,) = verify_store(scored, run_id="second").findings
    assert finding.path == place_of(scored, "embeddings")
    assert "5 rows were rejected" in finding.problem
    assert finding.outcome is Outcome.REBUILT
    assert rows_of(scored, place_of(scored, "rejects")).num_rows == 5


def test_what_no_corpus_can_make_anew_is_set_aside_and_said(scored):
    """A report would claim that everything is mended."""
    path = write_shard(scored.store, partition="day=1999-01-01")
    truncate(Path(scored.store, path))
    (finding,) = verify_store(scored, run_id="second").findings
    assert (finding.path, finding.outcome, finding.is_mended) == (path, Outcome.SET_ASIDE, False)
    assert "no unit of this corpus" in finding.why_not
    assert verify_store(scored, run_id="third").findings == ()


def test_without_its_corpus_a_shard_is_set_aside_with_the_reason(scored, tmp_path):
    """The user would not learn what stands in the way."""
    path = place_of(scored, "embeddings", LEARN)
    empty(Path(scored.store, path))
    (finding,) = verify_store(replace(scored, corpus=str(tmp_path / "gone")), run_id="second").findings
    assert (finding.path, finding.outcome) == (path, Outcome.SET_ASIDE)
    assert "gone does not exist" in finding.why_not


def test_a_damaged_index_is_deleted_since_it_is_derived(scored):
    """A damaged index would be believed, or reported for ever."""
    (entry, *_) = open_store(scored.store).files.list("index")
    flip(Path(scored.store, entry.path))
    (finding,) = verify_store(scored, run_id="second").findings
    assert (finding.path, finding.outcome, finding.is_mended) == (entry.path, Outcome.DELETED, True)


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_label_comes_of_a_damaged_shard(scored, damage):
    """A bit flipped on disk would become a label, before anybody verifies the store."""
    damage(Path(scored.store, place_of(scored, "embeddings")))
    shutil.rmtree(Path(scored.store, "predictions"))
    with pytest.raises(StoreError, match=r"embeddings/.* Run `robert store verify`"):
        score(plan(scored, run_id="r"), model=scored.model)
    assert not [p for p in Path(scored.store).glob("predictions/**/*.parquet") if LABEL in str(p)]
