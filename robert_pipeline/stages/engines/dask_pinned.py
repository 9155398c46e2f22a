"""What a worker of this machine's own cluster does before all else: keep to its cores. Dask loads it by its name."""

import os

from robert_pipeline.stages.engines import dask_local


def dask_setup(_worker: object) -> None:
    """Dask calls this as the worker starts; threads that start later keep to the same cores."""
    cores = os.environ.get(dask_local.CORES_VARIABLE, "")
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
