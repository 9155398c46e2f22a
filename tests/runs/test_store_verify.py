"""Verifying a store: whatever is wrong with a file is found, said, set aside and made anew."""

import errno
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robert_pipeline.errors import StoreError
from robert_pipeline.runs import store_verify
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.score import score
from robert_pipeline.runs.store_verify import Outcome, verify_store
from robert_pipeline.storage.audit import audit
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.predictions import open_predictions, prediction_writer
from robert_pipeline.storage.rejects import reject_rows, write_rejects
from robert_pipeline.storage.shards import ShardWriter, open_shard
from robert_pipeline.storage.store import QUARANTINE, Store, open_store
from robert_pipeline.types import Reject, Stamp
from schemas import PREDICTIONS
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


@pytest.mark.parametrize("kind", ["embeddings", "rejects", "predictions", "contributions"])
def test_no_flipped_bit_of_a_footer_ends_a_verification(scored, kind):
    """The very damage that is looked for would be an error without a file name, and mend nothing."""
    chance = random.Random(7)  # noqa: S311 - not for secrets
    store = open_store(scored.store)
    place = next(place for place in store.shards(kind) if place.partition_folder == LABEL)
    path = Path(scored.store, place.entry.path)
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for _ in range(400):
        bit = chance.randrange(8 * footer, 8 * len(whole))
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(StoreError, match=r"damaged|not an embedding shard"):
            audit(store, place)


@pytest.mark.parametrize("often", [1, 1000])
def test_a_read_that_fails_is_no_damage(scored, monkeypatch, often):
    """Over a bucket that is slow for a minute, sound vectors would be set aside and paid for again."""
    path, failed, read = place_of(scored, "embeddings"), [], Files.read_buffer

    def failing(files, wanted):
        if wanted == path and len(failed) < often:
            failed.append(wanted)
            raise StoreError(f"cannot reach {wanted}: SLOW_DOWN", transient=True)
        return read(files, wanted)

    monkeypatch.setattr(Files, "read_buffer", failing)
    with pytest.raises(StoreError, match="SLOW_DOWN"):
        verify_store(scored, run_id="second")
    assert Path(scored.store, path).exists()
    assert not Path(scored.store, QUARANTINE).exists()


def test_an_error_of_the_disk_says_that_it_cannot_be_reached(scored, monkeypatch):
    """An outage would send its reader to a command that sets shards aside."""

    class Broken:
        def __getattr__(self, name):
            raise OSError(5, "Input/output error")

    files = open_store(scored.store).files
    monkeypatch.setitem(files.__dict__, "_resolved", (Broken(), files.root))
    with pytest.raises(StoreError, match="cannot reach") as failed:
        open_shard(files, place_of(scored, "embeddings")).load()
    assert failed.value.transient


def test_two_that_verify_at_once_mend_once(scored, monkeypatch):
    """The second would end in an error, and what the first has set aside never be made anew."""
    path = place_of(scored, "embeddings")
    flip(Path(scored.store, path))
    aside = Store.set_aside

    def faster(store, wanted):
        aside(store, wanted)  # the other one
        return aside(store, wanted)

    monkeypatch.setattr(Store, "set_aside", faster)
    (finding,) = verify_store(scored, run_id="second").findings
    assert (finding.path, finding.outcome) == (path, Outcome.REBUILT)


def test_predictions_that_lack_their_rejects_are_found(scored):
    """A verification killed between two files would leave a unit that can never be published."""
    path = place_of(scored, "predictions")
    rows = pq.read_table(Path(scored.store, path)).slice(1)
    with open_store(scored.store).files.writing(path) as temporary, prediction_writer(temporary, path) as writer:
        writer.write_table(rows.cast(PREDICTIONS.schema))
    (finding,) = verify_store(scored, run_id="second").findings
    assert (finding.path, finding.outcome) == (path, Outcome.REBUILT)
    assert "4 labelled and 0 rejected of 5 embedded documents" in finding.problem


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


def fail_to_read(monkeypatch, failing):
    """Let a file be there, and every attempt to read it fail."""
    original = Files.open

    def refuse(self, path):
        if path == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(self, path)

    monkeypatch.setattr(Files, "open", refuse)


@pytest.mark.parametrize("kind", ["embeddings", "rejects", "predictions", "contributions"])
def test_a_footer_that_cannot_be_read_is_no_damage(scored, kind, monkeypatch):
    """While a bucket is away, every shard of it would be called damaged, and those that it gives back set aside."""
    path = place_of(scored, kind)
    fail_to_read(monkeypatch, path)
    with pytest.raises(StoreError, match=rf"cannot reach .*{kind}/.*Input/output error") as failed:
        verify_store(scored, run_id="second")
    assert failed.value.transient
    assert Path(scored.store, path).exists()
    assert not Path(scored.store, QUARANTINE).exists()


def test_scoring_says_that_a_shard_cannot_be_read_and_may_be_tried_again(scored, monkeypatch):
    """The user would look for damage while the network is down, and a schedule would not try again."""
    shutil.rmtree(Path(scored.store, "predictions"))
    planned = plan(scored, run_id="r")
    fail_to_read(monkeypatch, place_of(scored, "embeddings"))
    with pytest.raises(StoreError, match=r"cannot reach .*embeddings/") as failed:
        score(planned, model=scored.model)
    assert failed.value.transient


def test_what_another_run_has_made_anew_meanwhile_stays(scored, monkeypatch):
    """A shard that was embedded a second ago would be set aside for what was there before."""
    path = Path(scored.store, place_of(scored, "embeddings"))
    whole = path.read_bytes()
    flip(path)
    mend = store_verify._mend
    monkeypatch.setattr(store_verify, "_mend", lambda *given: (path.write_bytes(whole), mend(*given))[1])
    assert verify_store(scored, run_id="second").findings == ()
    assert path.read_bytes() == whole
    assert not Path(scored.store, QUARANTINE).exists()


def test_a_file_that_cannot_be_set_aside_is_said_and_the_others_are_rebuilt(scored):
    """The report would be lost over one file, and what was set aside before it not made anew."""
    moved, stuck = place_of(scored, "embeddings", LEARN), place_of(scored, "embeddings", LABEL)
    for path in (moved, stuck):
        flip(Path(scored.store, path))
    in_the_way = Path(scored.store, QUARANTINE, stuck).parent
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_bytes(b"a file where a folder should be")
    findings = {finding.path: finding for finding in verify_store(scored, run_id="second").findings}
    assert {path: finding.outcome for path, finding in findings.items()} == {
        moved: Outcome.REBUILT,
        stuck: Outcome.FOUND,
    }
    assert "cannot write" in findings[stuck].why_not
    assert Path(scored.store, stuck).exists()


def write_unscored(settings):
    """A reject of scoring beside the day's predictions."""
    (place,) = [p for p in open_store(settings.store).shards("predictions") if p.partition_folder == LABEL]
    path = place.beside("unscored")
    reject = Reject(doc_id="d0", file="f", row=0, reason="not_finite", detail="")
    rows = reject_rows([reject], partition=LABEL, stamp=Stamp(run_id="r", at_us=0))
    write_rejects(open_store(settings.store).files, path, rows)
    return path


def test_a_kill_between_rejects_of_scoring_and_predictions_leaves_the_unit_unscored(scored, monkeypatch):
    """Predictions without the rejects beside them would count as done, and publish would fail for ever."""
    path = write_unscored(scored)
    truncate(Path(scored.store, path))

    def kill(_store, _path):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Store, "set_aside", kill)
        with pytest.raises(SystemExit):
            verify_store(scored, run_id="second")
    assert not [p for p in open_store(scored.store).shards("predictions") if p.partition_folder == LABEL]
    (finding,) = verify_store(scored, run_id="third").findings
    assert (finding.path, finding.outcome) == (path, Outcome.REBUILT)
    assert open_predictions(open_store(scored.store).files, place_of(scored, "predictions")).row_count == 5


def test_a_document_that_is_labelled_and_rejected_is_found(scored):
    """It would be published twice, or nothing would be published at all."""
    write_unscored(scored)
    (finding,) = verify_store(scored, run_id="second").findings
    assert (finding.path, finding.outcome) == (place_of(scored, "predictions"), Outcome.REBUILT)
    assert "5 labelled and 1 rejected of 5 embedded documents" in finding.problem
    assert open_store(scored.store).shards("unscored") == []
