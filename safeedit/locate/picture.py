"""Heat maps as pictures: laid out once, written as SVG with nothing but text, or as PNG through Pillow."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.sax.saxutils import escape

from safeedit.errors import UsageError
from safeedit.locate.maps import Grid

Anchor = Literal["start", "middle", "end"]
_LEFT, _TOP, _ROW, _GAP = 210, 64, 24, 76
_WIDE = 720
"""All layers together take about so many pixels."""
_BAR = 20
"""Steps of the colour bar."""
_HIGH, _LOW = (8, 48, 107), (140, 45, 4)
"""Colours of the strongest effect and of one as strong that takes probability away; 0 is white."""
_INK, _FRAME = "#222222", "#999999"
PNG_SCALE = 2


@dataclass(frozen=True)
class Panel:
    """One heat map: rows of effects over layers."""

    title: str
    rows: Sequence[tuple[str, Grid]]
    """A label and (layers,) effects each."""


@dataclass(frozen=True)
class Box:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    fill: str


@dataclass(frozen=True)
class Label:
    """One line of text; `y` is its middle."""

    x: float
    y: float
    text: str
    size: int = 12
    anchor: Anchor = "start"


@dataclass(frozen=True)
class Drawing:
    """A picture before it has a format."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    labels: tuple[Label, ...]


def colour(value: float, most: float) -> str:
    """`#rrggbb` for an effect, when `most` is the strongest."""
    share = min(1.0, abs(value) / most) if most > 0 else 0.0
    end = _HIGH if value >= 0 else _LOW
    return "#" + "".join(f"{round(255 + (part - 255) * share):02x}" for part in end)


def draw(title: str, note: str, panels: Sequence[Panel]) -> Drawing:
    """Panels one below another, each with a scale of its own beside it."""
    boxes: list[Box] = []
    labels = [Label(16, 20, title, 16), Label(16, 42, note, 11)]
    y, right = float(_TOP), 0.0
    for panel in panels:
        depth = len(panel.rows[0][1])
        cell = max(4.0, min(36.0, _WIDE / depth))
        most = max(float(abs(values).max()) for _, values in panel.rows)
        labels.append(Label(_LEFT, y + 8, panel.title, 13))
        top, high = y + 22, len(panel.rows) * _ROW
        # A frame, so that rows without any effect can be told from the paper.
        boxes += [
            Box(_LEFT - 1, top - 1, depth * cell + 2, high + 2, _FRAME),
            Box(_LEFT, top, depth * cell, high, colour(0, 1)),
        ]
        for index, (name, values) in enumerate(panel.rows):
            at = top + index * _ROW
            labels.append(Label(_LEFT - 8, at + _ROW / 2, name, 12, "end"))
            boxes += [
                Box(_LEFT + layer * cell, at, cell, _ROW, colour(float(value), most))
                for layer, value in enumerate(values)
            ]
        bottom = top + high
        every = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if step * cell >= 22)
        labels += [
            Label(_LEFT + (layer + 0.5) * cell, bottom + 10, str(layer), 11, "middle")
            for layer in range(0, depth, every)
        ]
        labels.append(Label(_LEFT + depth * cell / 2, bottom + 26, "layer", 11, "middle"))
        bar = _LEFT + depth * cell + 24
        height = (bottom - top) / _BAR
        boxes += [
            Box(bar, bottom - (step + 1) * height, 12, height, colour((step + 0.5) / _BAR, 1.0))
            for step in range(_BAR)
        ]
        labels += [Label(bar + 18, top + 5, f"{most:.3g}", 11), Label(bar + 18, bottom - 5, "0", 11)]
        right = max(right, bar + 76)
        y = bottom + _GAP - 22
    return Drawing(max(right, 700.0), y, tuple(boxes), tuple(labels))


def svg(drawing: Drawing) -> str:
    """The picture as an SVG document."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{drawing.width:g}" height="{drawing.height:g}" '
        f'viewBox="0 0 {drawing.width:g} {drawing.height:g}" font-family="Helvetica, Arial, sans-serif">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    lines += [
        f'<rect x="{b.x:.5g}" y="{b.y:.5g}" width="{b.width:.5g}" height="{b.height:.5g}" fill="{b.fill}"/>'
        for b in drawing.boxes
    ]
    lines += [
        f'<text x="{label.x:.5g}" y="{label.y:.5g}" font-size="{label.size}" text-anchor="{label.anchor}" '
        f'dominant-baseline="central" fill="{_INK}">{escape(_printable(label.text))}</text>'
        for label in drawing.labels
    ]
    return "\n".join([*lines, "</svg>", ""])


def png(drawing: Drawing) -> bytes:
    """The picture as a PNG.

    Raises:
        UsageError: Pillow is not installed.
    """
    image_of, draw_on, font = pillow()
    size = (round(drawing.width * PNG_SCALE), round(drawing.height * PNG_SCALE))
    image = image_of.new("RGB", size, "#ffffff")
    pen = draw_on.Draw(image)
    for box in drawing.boxes:
        corners = (box.x, box.y, box.x + box.width, box.y + box.height)
        left, top, right, bottom = (round(part * PNG_SCALE) for part in corners)
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), fill=box.fill)
    for label in drawing.labels:
        anchor = {"start": "lm", "middle": "mm", "end": "rm"}[label.anchor]
        place = (label.x * PNG_SCALE, label.y * PNG_SCALE)
        text = _printable(label.text)
        pen.text(place, text, fill=_INK, anchor=anchor, font=font.load_default(label.size * PNG_SCALE))
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()


def pillow() -> tuple[Any, Any, Any]:
    """Pillow's modules Image, ImageDraw and ImageFont.

    Raises:
        UsageError: it is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise UsageError(
            "a PNG needs Pillow: pip install 'safeedit[plot]'; an .svg needs nothing more"
        ) from None
    return Image, ImageDraw, ImageFont


def _printable(text: str) -> str:
    """Spaces that a reader cannot see, and what no picture can hold, made visible."""
    if text != text.strip():
        text = text.replace(" ", "␣")
    return "".join(char if char.isprintable() else "�" for char in text)
