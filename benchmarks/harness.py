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
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """Repeated measurements of one thing."""

    name: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The figure to quote."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest."""
        return min(self.values), max(self.values)


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


def in_turn(contenders: Mapping[str, Callable[[], float]], *, repeats: int) -> dict[str, tuple[float, ...]]:
    """Measure contenders A B A B …, so that a drift of the machine's speed meets all alike; one round of warm-up."""
    for measure in contenders.values():
        measure()
    rounds = [{name: measure() for name, measure in contenders.items()} for _ in range(repeats)]
    return {name: tuple(taken[name] for taken in rounds) for name in contenders}


def show(title: str, figures: Sequence[Figure], ratios: Mapping[str, float], *, json_file: Path | None) -> None:
    """Print the figures and the ratios of their medians; write them as JSON where asked for."""
    console = Console(width=120, highlight=False)
    table = Table("figure", "median", "lowest", "highest", "unit", title=title, title_justify="left")
    for figure in figures:
        low, high = figure.spread
        table.add_row(figure.name, _number(figure.median), _number(low), _number(high), figure.unit)
    console.print(table)
    for name, ratio in ratios.items():
        console.print(f"{name}: {ratio:.3f}")
    console.print(f"{machine()}; {len(figures[0].values) if figures else 0} repeats", style="dim")
    if json_file is not None:
        content = {
            "title": title,
            "machine": machine(),
            "figures": {
                figure.name: {"median": figure.median, "values": figure.values, "unit": figure.unit}
                for figure in figures
            },
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
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.3g}"
