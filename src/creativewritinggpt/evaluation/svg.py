"""Pictures of an evaluation as SVG: bars with whiskers, points, their legend and their parts.

Colours are the page's CSS variables, so that a picture follows its light or dark mode.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from ..html_page import escape

WIDTH = 720
LEFT, RIGHT = 190, 60
ROW = 24
_COLOURS = 6
_LONGEST_NAME = 22
"""Letters of a group's name that fit beside the bars."""


@dataclasses.dataclass(frozen=True)
class Bar:
    """A value with its interval; bars of one group stand together.

    Attributes:
        group: The heading of its group.
        series: The number of its colour.
        value: Where it ends.
        interval: Its whisker.
        title: The tooltip.
    """

    group: str
    series: int
    value: float
    interval: Sequence[float] | None
    title: str


@dataclasses.dataclass(frozen=True)
class Dot:
    """A point with its tooltip."""

    x: float
    y: float
    series: int
    title: str


def bars(marks: Sequence[Bar], axis: str, *, points: bool = False) -> str:
    """Horizontal bars from zero, or points beside a zero line, with whiskers.

    Args:
        marks: The bars, those of one group one after another.
        axis: What is measured.
        points: Draw points, for differences.
    """
    edges = [edge for mark in marks for edge in (mark.value, *(mark.interval or ()))]
    low, high = min(0.0, *edges), max(0.0, *edges)
    ticks = ticks_between(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])

    def x(value: float) -> float:
        return LEFT + (value - low) / ((high - low) or 1) * (WIDTH - LEFT - RIGHT)

    groups = list(dict.fromkeys(mark.group for mark in marks))
    height = len(marks) * ROW + len(groups) * 10 + 44
    bottom = height - 40
    parts = [
        line("grid", x(tick), x(tick), 4, bottom)
        + text_at(x(tick), bottom + 16, f"{tick:g}", "middle")
        for tick in ticks
    ]
    y = 10.0
    for group in groups:
        chosen = [mark for mark in marks if mark.group == group]
        middle = y + len(chosen) * ROW / 2 + 4
        parts.append(titled(group, text_at(LEFT - 12, middle, shortened(group), "end")))
        for mark in chosen:
            parts.append(_bar(mark, x, y, points))
            y += ROW
        y += 10
    if points:
        parts.append(line("zero", x(0), x(0), 4, bottom))
    parts.append(text_at((LEFT + WIDTH - RIGHT) / 2, height - 6, axis, "middle"))
    return svg(WIDTH, height, "".join(parts), axis, "min-width:520px;")


def _bar(mark: Bar, x: Callable[[float], float], y: float, points: bool) -> str:
    end, zero = x(mark.value), x(0)
    filled = f'fill="{colour(mark.series)}"'
    if points:
        shape = f'<circle cx="{end:.1f}" cy="{y + 10}" r="5" {filled}/>'
    else:
        left, width = min(end, zero), max(1.0, abs(end - zero))
        shape = (
            f'<rect x="{left:.1f}" y="{y + 1}" width="{width:.1f}" height="18" rx="2" {filled}/>'
        )
    if mark.interval:
        first, last = (x(edge) for edge in mark.interval)
        end = max(end, last)
        shape += (
            f'<path class="whisker" d="M{first:.1f} {y + 10}H{last:.1f}M{first:.1f} {y + 6}v8'
            f'M{last:.1f} {y + 6}v8"/>'
        )
    value = f"{mark.value:+.3f}" if points else f"{mark.value:.3f}"
    return titled(mark.title, shape + text_at(end + 6, y + 14, value))


def scatter(dots: Sequence[Dot], across: str, up: str) -> str:
    """Points of one measure against another on equal axes, with the line where both are equal."""
    values = [value for dot in dots for value in (dot.x, dot.y)]
    ticks = ticks_between(min(values), max(values))
    low, high = min(ticks[0], *values), max(ticks[-1], *values)
    size, left, top = 420.0, 70.0, 10.0
    right, bottom = left + size, top + size

    def place(value: float) -> float:
        return (value - low) / ((high - low) or 1) * size

    parts = []
    for tick in ticks:
        x, y = left + place(tick), bottom - place(tick)
        parts += [
            line("grid", x, x, top, bottom),
            text_at(x, bottom + 16, f"{tick:g}", "middle"),
            line("grid", left, right, y, y),
            text_at(left - 8, y + 4, f"{tick:g}", "end"),
        ]
    parts.append(line("zero", left, right, bottom, top))
    for dot in dots:
        shape = (
            f'<circle cx="{left + place(dot.x):.1f}" cy="{bottom - place(dot.y):.1f}" r="4.5" '
            f'fill="{colour(dot.series)}" fill-opacity="0.75"/>'
        )
        parts.append(titled(dot.title, shape))
    parts.append(text_at(left + size / 2, bottom + 40, across, "middle"))
    parts.append(
        f'<text transform="translate(18 {top + size / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(up)}</text>"
    )
    return svg(right + 20, bottom + 52, "".join(parts), f"{up} against {across}")


def legend(names: Sequence[str], first: int = 0) -> str:
    """The names of the series with their colours, the first's being number ``first``."""
    items = (
        f'<span><i style="background:{colour(number)}"></i>{escape(name)}</span>'
        for number, name in enumerate(names, first)
    )
    return f'<p class="legend">{"".join(items)}</p>'


def shortened(name: str) -> str:
    """A name that fits, without its middle: both ends tell domains apart."""
    if len(name) <= _LONGEST_NAME:
        return name
    half = _LONGEST_NAME // 2
    return f"{name[: half - 1]}…{name[-half:]}"


def ticks_between(low: float, high: float) -> list[float]:
    """Round numbers that span a range, six or so."""
    width = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(width / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if width / (step * factor) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 10) for number in range(first, last + 1)]


def colour(series: int) -> str:
    """The colour of a series of data."""
    return f"var(--s{series % _COLOURS})"


def titled(title: str, content: str) -> str:
    """A shape with a tooltip."""
    return f"<g><title>{escape(title)}</title>{content}</g>"


def line(kind: str, x1: float, x2: float, y1: float, y2: float) -> str:
    """A line of a class of the style sheet."""
    return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def text_at(x: float, y: float, text: str, anchor: str = "start") -> str:
    """A line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def svg(width: float, height: float, content: str, label: str, style: str = "") -> str:
    """A whole picture; ``label`` is read to those who can't see it."""
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" style="{style}max-width:{width:.0f}px" '
        f'role="img" aria-label="{escape(label)}">{content}</svg>'
    )
