"""A process that publishes, run by the tests: python writer.py WAREHOUSE_JSON ACTION ARGUMENTS..."""

import json
import os
import resource
import signal
import sys
import time

from published_rows import predictions

from robert_pipeline.config import Warehouse
from robert_pipeline.errors import WarehouseError
from robert_pipeline.storage.warehouse import open_warehouse


def say(text):
    """Tell the parent at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def replace(sink, partition, key, rows, head):
    """Publish `rows` rows and print what became of it."""
    say(sink.replace_partition("predictions", partition, [predictions(partition, int(rows), head)], key))


def hang(sink, partition, key):
    """Begin to publish and never end: the parent kills this process once it has read 'writing'."""

    def rows():
        for i in range(4):
            yield predictions(partition, 40_000, "killed", first=40_000 * i)
        say("writing")
        time.sleep(600)

    sink.replace_partition("predictions", partition, rows(), key)


def die_at(sink, place, partition, key):
    """Publish, and be killed before or after the first run of a method: `after=module:Class.method`."""
    when, _, name = place.partition("=")
    module, _, path = name.partition(":")
    owner_name, method_name = path.split(".")
    owner = getattr(__import__(module, fromlist=["_"]), owner_name)
    method = getattr(owner, method_name)

    def deadly(*args, **kwargs):
        if when == "after":
            method(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, method_name, staticmethod(deadly) if method_name == "_write_metadata" else deadly)
    sink.replace_partition("predictions", partition, [predictions(partition, 5, "killed")], key)


def churn(sink, partition, rounds, rows):
    """Replace a partition again and again, each time by rows of another head."""
    for i in range(int(rounds)):
        sink.replace_partition("predictions", partition, [predictions(partition, int(rows), f"head-{i}")], f"key-{i}")
    say("done")


def fill_disk(sink, partition, key, file_bytes):
    """Publish where no file may grow beyond `file_bytes`, as on a full disk; print the error."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(file_bytes), int(file_bytes)))
    noise = [predictions(partition, 2_000, os.urandom(200).hex(), first=2_000 * i) for i in range(50)]
    try:
        sink.replace_partition("predictions", partition, noise, key)
    except WarehouseError as error:
        say(f"refused: {error}")


if __name__ == "__main__":
    _, config, action, *arguments = sys.argv
    actions = {f.__name__: f for f in (replace, hang, die_at, churn, fill_disk)}
    actions[action](open_warehouse(Warehouse(**json.loads(config))), *arguments)
