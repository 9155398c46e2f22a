"""What a publishing process does, run by the tests in processes of their own: `run(warehouse, action, arguments)`."""

import importlib
import inspect
import os
import resource
import signal
import time
import traceback
from datetime import UTC, datetime

from published_rows import predictions

from robert_pipeline.config import Warehouse
from robert_pipeline.errors import GateError, WarehouseError
from robert_pipeline.storage.promotions import Promotion, add_entry
from robert_pipeline.storage.warehouse import open_warehouse
from robert_pipeline.storage.warehouse.sink import Upkeep

# Loaded once, by the process that all writers are forked from; none of them starts a thread when imported.
for module in ("iceberg", "iceberg_upkeep", "delta", "parquet", "postgres", "duckdb_file"):
    importlib.import_module(f"robert_pipeline.storage.warehouse.{module}")

said = None


def run(warehouse, action, arguments, pipe):
    """Do one action; what it says goes through the pipe, and so does the traceback of an error."""
    global said
    said = pipe.send
    actions = {
        f.__name__: f for f in (replace, add_promotion, hang, die_at, churn, fill_disk, maintain, die_maintaining)
    }
    try:
        actions[action](open_warehouse(Warehouse(**warehouse)), *arguments)
    except BaseException:
        pipe.send(traceback.format_exc())
        raise


def replace(sink, partition, key, rows, head):
    """Publish `rows` rows and say what became of it."""
    said(str(sink.replace_partition("predictions", partition, [predictions(partition, int(rows), head)], key)))


def add_promotion(sink, number, head):
    """Add an entry to the ledger; say whether it was added, or another was faster."""
    entry = Promotion(
        number=int(number),
        action="promote",
        head_fingerprint=head,
        previous_head_fingerprint=None,
        encoder_fingerprint="e",
        chunking_fingerprint="c",
        model="model",
        decided_by="test",
        decided_at=datetime.now(UTC),
        run_id="run",
    )
    try:
        add_entry(sink, entry)
    except GateError:
        said("refused")
    else:
        said("added")


def hang(sink, partition, key):
    """Begin to publish and never end: the parent kills this process once it has read 'writing'."""

    def rows():
        for i in range(4):
            yield predictions(partition, 40_000, "killed", first=40_000 * i)
        said("writing")
        time.sleep(600)

    sink.replace_partition("predictions", partition, rows(), key)


def make_deadly(place):
    """Let the first run of a function kill this process, `before=module:name` or `after=module:[Class.]name`."""
    when, _, name = place.partition("=")
    module, _, path = name.partition(":")
    owner_name, _, method_name = path.rpartition(".")
    owner = importlib.import_module(module)
    owner = getattr(owner, owner_name) if owner_name else owner
    static = isinstance(inspect.getattr_static(owner, method_name), staticmethod)
    method = getattr(owner, method_name)

    def deadly(*args, **kwargs):
        if when == "after":
            method(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, method_name, staticmethod(deadly) if static else deadly)


def die_at(sink, place, partition, key):
    """Publish, and be killed at a place, as `make_deadly` takes it."""
    make_deadly(place)
    sink.replace_partition("predictions", partition, [predictions(partition, 5, "killed")], key)


def churn(sink, partition, rounds, rows):
    """Replace a partition again and again, each time by rows of another head."""
    for i in range(int(rounds)):
        sink.replace_partition("predictions", partition, [predictions(partition, int(rows), f"head-{i}")], f"key-{i}")
    said("done")


def fill_disk(sink, partition, key, file_bytes):
    """Publish where no file may grow beyond `file_bytes`, as on a full disk; say the error."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(file_bytes), int(file_bytes)))
    noise = [predictions(partition, 2_000, os.urandom(200).hex(), first=2_000 * i) for i in range(50)]
    try:
        sink.replace_partition("predictions", partition, noise, key)
    except WarehouseError as error:
        said(f"refused: {error}")


def maintain(sink, rounds):
    """Clean up again and again, as hard as is allowed beside writers."""
    for _ in range(int(rounds)):
        sink.maintain("predictions", Upkeep(keep_days=0, stray_hours=1), dry_run=False)
    said("done")


def die_maintaining(sink, place):
    """Clean up, and be killed at a place, as `make_deadly` takes it."""
    make_deadly(place)
    sink.maintain("predictions", Upkeep(keep_days=0, stray_hours=0), dry_run=False)
