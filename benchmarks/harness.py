"""What all benchmarks share: options, repeats with medians and spread, a table, the same as JSON.

A benchmark gives figures and ratios; it never judges them.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """Repeated measurements of one thing."""

    name: str
    unit: str
    values: tuple[float, ...]
    note: str = ""

    @property
    def median(self) -> float:
        """The figure to quote."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest."""
        return min(self.values), max(self.values)

    def with_note(self, note: str) -> "Figure":
        """The same figure, explained."""
        return replace(self, note=note)


def options(description: str) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes; add more before parsing."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="less data and fewer repeats: does it run, not how fast")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    return parser


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turn(
    contenders: Mapping[str, Callable[[], float]], *, repeats: int, warm_up: bool = True
) -> dict[str, tuple[float, ...]]:
    """Measure contenders A B A B …, so that a drift of the machine meets all alike; first a round of warm-up."""
    for measure in contenders.values() if warm_up else ():
        measure()
    rounds = [{name: measure() for name, measure in contenders.items()} for _ in range(repeats)]
    return {name: tuple(taken[name] for taken in rounds) for name in contenders}


def show(
    title: str,
    figures: Sequence[Figure],
    ratios: Mapping[str, float],
    *,
    json_file: Path | None,
    absent: Mapping[str, str] | None = None,
) -> None:
    """Print the figures and the ratios of their medians; write them as JSON where asked for.

    `absent` says what was not measured, and why.
    """
    print(title)
    rows: list[tuple[str, ...]] = [("", "median", "lowest", "highest", "unit", "")]
    for figure in figures:
        rows.append((figure.name, *map(_number, (figure.median, *figure.spread)), figure.unit, figure.note))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for name, *numbers, unit, note in rows:
        cells = (number.rjust(width) for number, width in zip(numbers, widths[1:4], strict=True))
        print("  ".join((name.ljust(widths[0]), *cells, unit.ljust(widths[4]), note)).rstrip())
    for name, reason in (absent or {}).items():
        print(f"{name.ljust(widths[0])}  {reason}")
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.{5 if 0.99 < ratio < 1 else 3}f}")
    print(f"{machine()}; {len(figures[0].values) if figures else 0} repeats")
    if json_file is not None:
        content = {
            "title": title,
            "machine": machine(),
            "figures": {
                figure.name: {
                    "median": figure.median,
                    "values": figure.values,
                    "unit": figure.unit,
                    **({"note": figure.note} if figure.note else {}),
                }
                for figure in figures
            },
            **({"absent": dict(absent)} if absent else {}),
            **ratios,
        }
        json_file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def machine() -> str:
    """The processor, in words."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return f"{_device() or model}, {os.cpu_count()} cores, Python {platform.python_version()}"


def _device() -> str:
    """The GPU's name, where a benchmark has loaded torch and there is one."""
    import torch

    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.3g}"
