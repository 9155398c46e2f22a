"""Plots as inline SVG: numbers in, markup out. Colours are the page's; marks also differ in shape, and tell their value
when pointed at."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from robert_pipeline.pages.page import text

SERIES = 5
"""Colours there are; more series start over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A value, what it may range over, and what is said when it is pointed at."""

    value: float
    low: float
    high: float
    tip: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Points of one name, one for each category."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """From values to pixels, with ticks at round values."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """Where `value` lies."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def scale(values: Sequence[float], start: float, end: float, *, top: float = math.inf, ticks: int = 5) -> Scale:
    """A scale that shows all `values` between round ends, none above `top`."""
    low, high = min(values), max(values)
    pad = max((high - low) * 0.1, 0.005)
    low, high = low - pad, min(high + pad, top)
    rough = (high - low) / ticks
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * times for times in (1, 2, 5, 10) if unit * times >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Scale(
        low=first * step,
        high=last * step,
        start=start,
        end=end,
        ticks=tuple(round(each * step, 10) for each in range(first, last + 1)),
    )


def ranges(rows: Sequence[Series], *, label: str, top: float = math.inf) -> str:
    """One line a series: its first point as a mark, its range as a bar, on a common horizontal axis."""
    left, width, line = 190, 720, 34
    height = line * len(rows) + 40
    values = [value for row in rows for value in (row.points[0].low, row.points[0].high)]
    x = scale(values, left, width - 30, top=top)
    parts = [
        f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="8" y2="{height - 28}"/>'
        f'<text class="quiet" x="{x(tick):.1f}" y="{height - 10}" text-anchor="middle">{percent(tick)}</text>'
        for tick in x.ticks
    ]
    for number, row in enumerate(rows):
        y = 8 + line * (number + 0.5)
        point = row.points[0]
        parts.append(f'<text x="{left - 12}" y="{y + 4:.1f}" text-anchor="end">{text(row.name)}</text>')
        parts.append(
            f'<line x1="{x(point.low):.1f}" x2="{x(point.high):.1f}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="{_colour(number)}" stroke-width="3" stroke-linecap="round" opacity="0.45"/>'
        )
        parts.append(_mark(number, x(point.value), y, point.tip))
    return _svg(width, height, label, parts)


def lines(series: Sequence[Series], categories: Sequence[tuple[str, str]], *, label: str, top: float = math.inf) -> str:
    """A line a series over categories (name, what is in it), with the range of every point."""
    width, height, left, foot = 720, 340, 56, 74
    values = [value for each in series for point in each.points for value in (point.low, point.high)]
    y = scale(values, height - foot, 34, top=top)
    step = (width - left - 30) / max(1, len(categories))
    places = [left + step * (number + 0.5) for number in range(len(categories))]
    parts = [
        f'<line class="grid" x1="{left}" x2="{width - 20}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text class="quiet" x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{percent(tick)}</text>'
        for tick in y.ticks
    ]
    for place, (name, content) in zip(places, categories, strict=True):
        parts.append(f'<text x="{place:.1f}" y="{height - foot + 22}" text-anchor="middle">{text(name)}</text>')
        parts.append(
            f'<text class="quiet" x="{place:.1f}" y="{height - foot + 40}" text-anchor="middle">{text(content)}</text>'
        )
    for number, each in enumerate(series):
        # Side by side, so that ranges do not hide one another.
        shift = (number - (len(series) - 1) / 2) * min(7.0, step / (len(series) + 1))
        spots = [(place + shift, y(point.value), point) for place, point in zip(places, each.points, strict=True)]
        path = " ".join(f"{spot_x:.1f},{spot_y:.1f}" for spot_x, spot_y, _ in spots)
        colour = _colour(number)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5" opacity="0.7"/>')
        for spot_x, spot_y, point in spots:
            parts.append(
                f'<line x1="{spot_x:.1f}" x2="{spot_x:.1f}" y1="{y(point.low):.1f}" y2="{y(point.high):.1f}" '
                f'stroke="{colour}" stroke-width="2" opacity="0.45"/>'
            )
            parts.append(_mark(number, spot_x, spot_y, point.tip))
    parts += _legend([each.name for each in series], left)
    return _svg(width, height, label, parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """Points (x, y, weight) from 0 to 1, in the order of x; `tips` say what each is."""

    name: str
    points: tuple[tuple[float, float, float], ...]
    tips: tuple[str, ...]


def against_diagonal(filled: Curve, rings: Curve, *, x_name: str, label: str) -> str:
    """Two curves in the unit square, with the line on which x and y agree; the area of a mark is its weight."""
    width, height, left, right, top, foot = 306, 334, 44, 288, 46, 290

    def x(value: float) -> float:
        return left + value * (right - left)

    def y(value: float) -> float:
        return foot - value * (foot - top)

    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        across, up = f"{x(tick):.1f}", f"{y(tick):.1f}"
        parts += [
            f'<line class="grid" x1="{across}" x2="{across}" y1="{top}" y2="{foot}"/>',
            f'<line class="grid" x1="{left}" x2="{right}" y1="{up}" y2="{up}"/>',
            f'<text class="quiet" x="{across}" y="{foot + 17}" text-anchor="middle">{percent(tick)}</text>',
            f'<text class="quiet" x="{left - 7}" y="{y(tick) + 4:.1f}" text-anchor="end">{percent(tick)}</text>',
        ]
    parts.append(f'<line class="axis" x1="{left}" y1="{foot}" x2="{right}" y2="{top}" stroke-dasharray="4 4"/>')
    parts.append(f'<text class="quiet" x="{x(0.5)}" y="{foot + 36}" text-anchor="middle">{text(x_name)}</text>')
    legend = left + 6.0
    for curve, colour, style in (
        (rings, _colour(1), f'fill="none" stroke="{_colour(1)}" stroke-width="1.8"'),
        (filled, _colour(0), f'fill="{_colour(0)}" fill-opacity="0.75"'),
    ):
        path = " ".join(f"{x(px):.1f},{y(py):.1f}" for px, py, _ in curve.points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1" opacity="0.5"/>')
        total = sum(weight for _, _, weight in curve.points) or 1.0
        for (px, py, weight), tip in zip(curve.points, curve.tips, strict=True):
            radius = 2.5 + 9.5 * math.sqrt(weight / total)
            place = f'cx="{x(px):.1f}" cy="{y(py):.1f}" r="{radius:.1f}"'
            parts.append(f"<circle {place} {style}><title>{text(tip)}</title></circle>")
        parts.append(f'<circle cx="{legend}" cy="14" r="5" {style}/>')
        parts.append(f'<text x="{legend + 11}" y="18">{text(curve.name)}</text>')
        legend += 36 + 7.1 * len(curve.name)
    return _svg(width, height, label, parts)


def heat(matrix: Sequence[Sequence[float]], names: Sequence[str], *, label: str) -> str:
    """A square of cells, each shaded by its share of its row; rows are the truth, columns what was given."""
    count = len(names)
    cell = 46 if count <= 12 else max(14, 560 // count)
    margin = 12 + 7 * min(24, max(len(name) for name in names))
    shown = [name if len(name) <= 24 else name[:23] + "…" for name in names]
    left, top = margin, margin
    parts = []
    for row, values in enumerate(matrix):
        total = sum(values)
        y = top + row * cell
        parts.append(
            f'<text x="{left - 8}" y="{y + cell / 2 + 4:.1f}" text-anchor="end">{text(shown[row])}</text>'
            f'<text transform="translate({left + row * cell + cell / 2 + 4:.1f},{top - 8}) rotate(-90)">'
            f"{text(shown[row])}</text>"
        )
        for column, value in enumerate(values):
            share = value / total if total else 0.0
            x = left + column * cell
            tip = f"{names[row]} taken for {names[column]}: {value:g} ({share:.1%} of the row)"
            colour = _colour(0 if row == column else 1)
            parts.append(
                f'<rect x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" fill="{colour}" '
                f'fill-opacity="{0.04 + 0.86 * share:.3f}"><title>{text(tip)}</title></rect>'
            )
            if cell >= 30 and value:
                # The ink of the page on pale cells, its paper on strong ones.
                ink = "var(--paper)" if share > 0.5 else "var(--ink)"
                parts.append(
                    f'<text x="{x + cell / 2 - 0.5}" y="{y + cell / 2 + 4}" text-anchor="middle" style="fill:{ink}" '
                    f'pointer-events="none">{value:g}</text>'
                )
    side = margin + count * cell + 8
    return f'<div class="wide">{_svg(side, side, label, parts, shrink=count <= 12)}</div>'


def percent(value: float) -> str:
    """A tick: as many digits as it needs."""
    return f"{round(100 * value, 6):g}%"


def _colour(number: int) -> str:
    return f"var(--series-{number % SERIES})"


def _mark(number: int, x: float, y: float, tip: str) -> str:
    """Circle, square, triangle, diamond or bar: told apart without colour."""
    shapes = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5"',
        f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10"',
        f'<path d="M{x:.1f},{y - 6:.1f} l6,11 l-12,0 z"',
        f'<path d="M{x:.1f},{y - 7:.1f} l7,7 l-7,7 l-7,-7 z"',
        f'<rect x="{x - 2.5:.1f}" y="{y - 7:.1f}" width="5" height="14"',
    )
    return f'{shapes[number % SERIES]} fill="{_colour(number)}"><title>{text(tip)}</title>{_closing(number)}'


def _closing(number: int) -> str:
    return f"</{('circle', 'rect', 'path', 'path', 'rect')[number % SERIES]}>"


def _legend(names: Sequence[str], left: float) -> list[str]:
    parts, x = [], left + 8.0
    for number, name in enumerate(names):
        parts.append(_mark(number, x, 14, name))
        parts.append(f'<text x="{x + 12:.1f}" y="18">{text(name)}</text>')
        x += 36 + 7.1 * len(name)
    return parts


def _svg(width: float, height: float, label: str, parts: Sequence[str], *, shrink: bool = True) -> str:
    size = f'width="{width:.0f}" height="{height:.0f}"' + ("" if shrink else ' style="max-width:none"')
    return (
        f'<svg {size} viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{text(label)}">\n'
        + "\n".join(parts)
        + "\n</svg>"
    )
