"""A picture of shares over the number of edits: small panels, a line for each editor, as SVG text.

Lines differ in colour (a palette that colour-blind readers can tell apart) and in the shape of their
marks; the ground is white, whatever the page's is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 250, 200
"""Of the plane of a panel."""
LEFT, TOP, GAP = 46, 62, 40
FONT = "font-family='system-ui, Helvetica, Arial, sans-serif'"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8a6d3b")
SHAPES = ("circle", "square", "triangle", "diamond")
LEGEND_ROW, LEGEND_COLUMN = 24, 210


@dataclass(frozen=True)
class Line:
    """One editor: by panel its points, (number of edits, share); a share may be missing."""

    name: str
    points: Mapping[str, Sequence[tuple[int, float | None]]]


def picture(title: str, panels: Sequence[str], lines: Sequence[Line]) -> str:
    """The whole picture; shares run from 0 to 1, numbers of edits on a logarithmic axis."""
    width = LEFT + len(panels) * WIDTH + (len(panels) - 1) * GAP + 24
    columns = max(1, (width - LEFT) // LEGEND_COLUMN)
    below = TOP + HEIGHT + 52
    height = below + LEGEND_ROW * math.ceil(len(lines) / columns) + 8
    largest = max((t for line in lines for points in line.points.values() for t, _ in points), default=1)
    decades = max(1, math.ceil(math.log10(largest)))
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' "
        f"height='{height}' role='img' aria-label='{escape(title, quote=True)}'>",
        f"<title>{escape(title)}</title>",
        f"<rect width='{width}' height='{height}' fill='#ffffff'/>",
        _text(LEFT, 24, title, 16, "start", "600"),
    ]
    for number, panel in enumerate(panels):
        left = LEFT + number * (WIDTH + GAP)
        parts += _plane(left, panel, decades, labelled=number == 0)
        for index, line in enumerate(lines):
            parts += _curve(left, line.points.get(panel, ()), decades, index)
    for index, line in enumerate(lines):
        x, y = LEFT + index % columns * LEGEND_COLUMN, below + index // columns * LEGEND_ROW
        colour = COLOURS[index % len(COLOURS)]
        parts.append(f"<path d='M{x} {y}h28' stroke='{colour}' stroke-width='2'/>")
        parts += [_mark(x + 14, y, index), _text(x + 36, y + 5, line.name, 14)]
    return "\n".join([*parts, "</svg>", ""])


def place(count: int, value: float, decades: int) -> tuple[float, float]:
    """Where a point lies in a panel, from its upper left corner."""
    return WIDTH * math.log10(count) / decades, HEIGHT * (1 - min(max(value, 0.0), 1.0))


def _plane(left: int, name: str, decades: int, labelled: bool) -> Iterator[str]:
    """A panel without its curves."""
    yield _text(left + WIDTH / 2, TOP - 12, name, 14, "middle", "600")
    for tenth in range(0, 11, 2):
        y = TOP + place(1, tenth / 10, decades)[1]
        yield f"<path d='M{left} {y:g}h{WIDTH}' stroke='#d8d8d8'/>"
        if labelled:
            yield _text(left - 8, y + 4, f"{tenth / 10:g}", 13, "end")
    for decade in range(decades + 1):
        x = left + place(10**decade, 0, decades)[0]
        yield f"<path d='M{x:g} {TOP}v{HEIGHT + 5}' stroke='#d8d8d8'/>"
        yield _text(x, TOP + HEIGHT + 20, f"{10**decade:,}".replace(",", "\u2009"), 13, "middle")
    yield f"<path d='M{left} {TOP}v{HEIGHT}h{WIDTH}' fill='none' stroke='#444444'/>"
    yield _text(left + WIDTH / 2, TOP + HEIGHT + 37, "edits", 13, "middle")


def _curve(left: int, points: Sequence[tuple[int, float | None]], decades: int, index: int) -> Iterator[str]:
    spots = [
        (left + x, TOP + y)
        for x, y in (place(count, share, decades) for count, share in points if share is not None)
    ]
    if len(spots) > 1:
        colour = COLOURS[index % len(COLOURS)]
        track = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        yield f"<polyline points='{track}' fill='none' stroke='{colour}' stroke-width='2'/>"
    yield from (_mark(x, y, index) for x, y in spots)


def _mark(x: float, y: float, index: int) -> str:
    """A small filled shape around a point."""
    style = f"fill='{COLOURS[index % len(COLOURS)]}' stroke='#ffffff'"
    shape = SHAPES[index % len(SHAPES)]
    if shape == "circle":
        return f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4.5' {style}/>"
    corners = {
        "square": "-4 -4h8v8h-8z",
        "triangle": "0 -5l5 9h-10z",
        "diamond": "0 -5.5l5 5.5-5 5.5-5 -5.5z",
    }[shape]
    return f"<path transform='translate({x:.1f} {y:.1f})' d='M{corners}' {style}/>"


def _text(x: float, y: float, words: str, size: int, anchor: str = "start", weight: str = "400") -> str:
    return (
        f"<text x='{x:g}' y='{y:g}' {FONT} font-size='{size}' font-weight='{weight}' "
        f"text-anchor='{anchor}' fill='#222222'>{escape(words)}</text>"
    )
