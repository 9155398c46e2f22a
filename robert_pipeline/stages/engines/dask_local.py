"""A Dask cluster of this machine's own: one worker a GPU, or one a core, each kept to its part of the machine.

One process a core beats one process with as many threads, and a GPU is wanted by one process only.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import dask
import torch
from distributed import Nanny, Scheduler, SpecCluster
from distributed.system import MEMORY_LIMIT

from robert_pipeline.cores import usable_cores
from robert_pipeline.errors import EngineError, first_line
from robert_pipeline.stages.at_once import units_at_once

CORES_VARIABLE = "ROBERT_WORKER_CORES"
WORKER_START = "robert_pipeline.stages.engines.dask_pinned"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One worker's part of the machine: its cores, and its GPU as CUDA_VISIBLE_DEVICES names it."""

    cores: tuple[int, ...]
    device: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What the worker's process is started with."""
        own = {CORES_VARIABLE: ",".join(map(str, self.cores))}
        own |= dict.fromkeys(THREAD_VARIABLES, str(len(self.cores)))
        return own if self.device is None else {**own, "CUDA_VISIBLE_DEVICES": self.device}


def share_out(cores: Sequence[int], devices: Sequence[str], workers: int | None) -> list[Place]:
    """Equal parts of the machine, no core in two of them unless there are more workers than cores."""
    count = workers or len(devices) or len(cores)
    edges = [len(cores) * i // count for i in range(count + 1)]
    return [
        Place(
            cores=tuple(cores[edges[i] : edges[i + 1]]) or (cores[i % len(cores)],),
            device=devices[i % len(devices)] if devices else None,
        )
        for i in range(count)
    ]


def machine_cores() -> list[int]:
    """Cores that this process may use, as many as its quota allows."""
    return usable_cores()[: max(1, dask.system.CPU_COUNT)]


def machine_devices() -> list[str]:
    """GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] or [str(index) for index in range(count)]


@contextlib.contextmanager
def local_cluster(workers: int | None, *, patience_seconds: int) -> Iterator[str]:
    """The address of a scheduler in this process, with workers of their own processes, for the block."""
    places = share_out(machine_cores(), machine_devices(), workers)
    spec = {
        index: {
            "cls": Nanny,
            "options": {
                "name": f"robert-{index}",
                "nthreads": units_at_once("cpu" if place.device is None else "cuda"),
                "env": place.environment,
                "preload": [WORKER_START],
                "memory_limit": MEMORY_LIMIT // len(places),
                "silence_logs": logging.CRITICAL,
            },
        }
        for index, place in enumerate(places)
    }
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard": False}}
    try:
        cluster = SpecCluster(workers=spec, scheduler=scheduler, silence_logs=logging.CRITICAL)
    except (RuntimeError, OSError, TimeoutError) as error:
        raise EngineError(
            f"cannot start {len(places)} Dask workers on this machine: {first_line(error)}",
            fix="Give fewer with --engine-workers; a script that starts them needs `if __name__ == '__main__':`",
        ) from error
    try:
        yield cluster.scheduler_address
    finally:
        cluster.close(timeout=patience_seconds)
