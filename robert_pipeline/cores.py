"""How many cores there are to use. Imports nothing of ours."""

import os


def usable_cores() -> list[int]:
    """The numbers of the cores that this process may run on, in order; at least one."""
    if hasattr(os, "sched_getaffinity"):  # not macOS
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
