"""What machine this is, for rates: they hold for machines of one kind."""

import platform
from functools import cache
from pathlib import Path

from robert_pipeline.cores import usable_cores


@cache
def machine_name() -> str:
    """The accelerator or processor and how many cores there are to use, such as 'Intel Xeon, 2 cores'."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{_processor()}, {len(usable_cores())} cores"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()
