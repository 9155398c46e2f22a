"""Kill runs of the pipeline with SIGKILL at random moments of plan, embed, score and publish, and run them again.

Night after night the corpus changes, and sometimes the head. Two projects label every night: one undisturbed, one whose
runs are killed. After each kill a reader must see, of every partition, the rows of the night before or of this night,
whole; no shard that was there may be gone. After the last run of a night both tables must be equal, row for row, and
every byte of the store as it was written. The same seed gives the same nights and the same moments, as far as the
machine keeps time.
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import pyarrow as pa

from robert_pipeline.config import Chunking, EncoderSource, Settings, TrainingConfig, Warehouse
from robert_pipeline.runs.embed import embed
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.store_gc import collect_garbage
from robert_pipeline.runs.store_verify import verify_store
from robert_pipeline.runs.train import train
from robert_pipeline.storage.store import open_store
from robert_pipeline.storage.warehouse import open_warehouse
from tests.chaos.work import DONE, PHASES, label_everything
from tests.corpora import write_file
from tests.encoders import write_tiny_encoder
from tests.projects import WORDS, texts

DAYS = ("day=2026-01-01", "day=2026-01-02", "day=2026-01-03")
DOCUMENTS = 24
UNIT_BYTES = 1_500
MOST_KILLS_A_NIGHT = 8
WAIT_SECONDS = 300
OF_A_RUN = ("run_id", "scored_at", "rejected_at")
"""Columns that say which run made a row: not compared."""

processes = multiprocessing.get_context("forkserver")


@dataclass(kw_only=True)
class Tally:
    """What happened."""

    seed: int
    kills: Counter = field(default_factory=Counter)
    nights: int = 0
    rows: int = 0
    leftovers: int = 0

    def __str__(self):
        by_phase = ", ".join(f"{phase} {self.kills[phase]}" for phase in PHASES)
        return (
            f"{self.kills.total()} kills ({by_phase}) in {self.nights} nights, seed {self.seed}: readers saw whole "
            f"partitions only; {self.rows} published rows equal those of undisturbed runs; "
            f"{self.leftovers} leftovers removed by gc"
        )


class Run:
    """A run in a process of its own."""

    def __init__(self, settings):
        self._messages, sender = processes.Pipe(duplex=False)
        self._process = processes.Process(target=label_everything, args=(settings, sender), daemon=True)
        self._process.start()
        sender.close()
        self.moments = {}

    def wait_for(self, phase):
        """Until the phase has begun, or the run has ended; whether it has begun."""
        deadline = time.monotonic() + WAIT_SECONDS
        while phase not in self.moments and self._hear(max(0.0, deadline - time.monotonic())):
            pass
        return phase in self.moments

    def kill(self):
        """End the process at once; gives the phase that it was in, None where it had finished."""
        self._process.kill()
        self._process.join()
        while self._hear(0):
            pass
        phase = list(self.moments)[-1] if self.moments else "plan"
        return None if phase == DONE else phase

    def finish(self):
        """Wait until it is done; gives the seconds that each phase took."""
        done = self.wait_for(DONE)
        self._process.join()
        assert done, f"a run that nobody killed ended in {list(self.moments)[-1:]}, exit {self._process.exitcode}"
        moments = list(self.moments.values())
        return {phase: end - start for phase, (start, end) in zip(PHASES, pairwise(moments), strict=True)}

    def _hear(self, seconds):
        with contextlib.suppress(EOFError):
            if self._messages.poll(seconds):
                phase, moment = self._messages.recv()
                self.moments[phase] = moment
                return True
        return False


class Project:
    """Where things are, and what the nights do to the corpus."""

    def __init__(self, folder, seed):
        self.folder = folder
        self.random = random.Random(seed)  # noqa: S311 - not for secrets
        encoder = EncoderSource(name=str(write_tiny_encoder(folder / "encoder")), precision="float32")
        base = Settings(
            corpus=str(folder / "learn"),
            store=str(folder / "learned"),
            encoder=encoder,
            chunking=Chunking(chunk_tokens=16, overlap_tokens=4),
        )
        for number, label in enumerate(WORDS):
            learned = texts(label, 20, "learn")
            ids = [f"{label}-{i}" for i in range(len(learned))]
            write_file(folder / "learn" / "all" / f"{number}.parquet", doc_id=ids, text=learned, label=[label] * 20)
        embed(base, run_id="learn")
        self.heads = []
        for seed_of_head in range(2):
            settings = replace(base, model=str(folder / f"head-{seed_of_head}"))
            settings = replace(settings, training=TrainingConfig(seed=seed_of_head, epochs=4))
            train(settings, plan(settings, run_id="learn"))
            self.heads.append(settings.model)
        self.base = replace(
            base, corpus=str(folder / "corpus"), embedding=replace(base.embedding, unit_bytes=UNIT_BYTES)
        )
        self.pool = [text for label in WORDS for text in texts(label, 60, "pool")]
        for day in DAYS:
            self.write(day)

    def settings(self, name, head):
        """Those of the project called `name`."""
        place = self.folder / name
        return replace(
            self.base,
            store=str(place / "store"),
            model=self.heads[head],
            warehouse=Warehouse(uri=str(place / "warehouse")),
        )

    def write(self, day):
        """Documents old and new, some of them twice, some of them bad."""
        chosen = self.random.choices(self.pool, k=DOCUMENTS - 3)
        chosen += [f"new {self.random.random()} {chosen[0]}", None, "  "]
        self.random.shuffle(chosen)
        ids = [f"d{i}" for i in range(DOCUMENTS - 1)] + ["d0"]
        place = self.folder / "corpus" / day / "a.parquet"
        write_file(place, doc_id=ids, text=pa.array(chosen, pa.string()), row_group_rows=self.random.randint(5, 9))


def published(settings):
    """(table, partition) to its rows, in order."""
    sink = open_warehouse(settings.warehouse)
    found = {}
    for table, order in (("predictions", ["doc_id"]), ("rejects", ["row", "reason"])):
        if not sink.commit_keys(table):
            continue
        for row in sorted(sink.read(table).read_all().to_pylist(), key=lambda row: [row[name] for name in order]):
            kept = {name: value for name, value in row.items() if name not in OF_A_RUN}
            found.setdefault((table, row["partition"]), []).append(kept)
    return found


def shards(settings):
    """Paths of the shards that stay, whatever happens."""
    places = open_store(settings.store).shards("embeddings", "rejects", "predictions", "unscored")
    return {place.entry.path for place in places if place.partition_folder != ".shared"}


def live_through(folder, *, kills, seed):
    """Nights, until runs have been killed so often. AssertionError where anything is not as it should be."""
    project = Project(folder, seed)
    tally = Tally(seed=seed)
    chance = project.random
    head = 0
    while tally.kills.total() < kills:
        if tally.nights:
            if chance.random() < 0.3:
                head = 1 - head
            if head == 0 or chance.random() < 0.5:
                project.write(chance.choice(DAYS))
        calm, struck = project.settings("calm", head), project.settings("struck", head)
        seconds = Run(calm).finish()
        before, after = published(struck), published(calm)
        for _ in range(min(chance.randint(3, MOST_KILLS_A_NIGHT), kills - tally.kills.total())):
            present = shards(struck)
            phase = _strike(struck, seconds, chance)
            _check_readers(published(struck), before, after)
            assert present <= shards(struck), f"shards are gone: {sorted(present - shards(struck))}"
            if phase is None:
                break
            tally.kills[phase] += 1
        Run(struck).finish()
        assert published(struck) == after, "the table is not that of an undisturbed run"
        assert verify_store(struck, check_only=True, run_id="check").findings == ()
        tally.nights += 1
        tally.rows += sum(map(len, after.values()))
        if tally.nights % 4 == 0 or tally.kills.total() >= kills:
            tally.leftovers += _clean(struck)
        print(f"night {tally.nights}: {tally.kills.total()} of {kills} kills", flush=True)  # noqa: T201
    return tally


def _strike(settings, seconds, chance):
    """Kill a run somewhere in a phase; gives the phase that was hit, None where the run was faster."""
    target = chance.choice(PHASES)
    run = Run(settings)
    if run.wait_for(target):
        time.sleep(chance.uniform(0, seconds[target]))
    return run.kill()


def _check_readers(seen, before, after):
    for place in before.keys() | after.keys() | seen.keys():
        rows = seen.get(place)
        assert rows in (before.get(place), after.get(place)), f"{place} is neither the old nor the new version: {rows}"


def _clean(settings):
    """Remove what the kills left behind; nothing that is planned may go."""
    report = collect_garbage(settings, delete=True, older_than_hours=-1)
    assert open_store(settings.store).files.list_temporary() == []
    planned = plan(settings, run_id="check")
    assert planned.missing == [], "gc has removed live shards"
    return len(report.garbage)


def main():
    """Kill, check, say what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="runs to kill [100]")
    parser.add_argument("--seed", type=int, default=0, help="of the nights and the moments [0]")
    options = parser.parse_args()
    processes.set_forkserver_preload(["tests.chaos.work"])
    folder = Path(tempfile.mkdtemp(prefix="robert-chaos-"))
    try:
        tally = live_through(folder, kills=options.kills, seed=options.seed)
    except AssertionError:
        print(f"seed {options.seed}; what is left is in {folder}")  # noqa: T201 - a program of its own
        raise
    shutil.rmtree(folder)
    print(tally)  # noqa: T201 - a program of its own


if __name__ == "__main__":
    main()
