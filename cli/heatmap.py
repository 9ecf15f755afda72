"""A trace on the terminal: effects by token and layer, as shades on a terminal and as digits anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from .render import NARROW, Cell, Column, Screen, Shade, Words

if TYPE_CHECKING:
    from safeedit.locate.maps import Grid
    from safeedit.locate.request import Located

SHOWN = 5
"""Prompts whose own maps are shown with --show-sensitive; --json has them all."""
_LABELS, _CELL = 30, 4
"""Characters that labels and one layer take."""


def show_located(screen: Screen, located: Located, picture: Path | None, *, show_sensitive: bool) -> None:
    """What a trace found, ending with the layers that it points to."""
    from safeedit.locate.figures import ROLE_NAMES, restored

    if not located.facts:
        screen.line(
            f"not known: {located.not_known}; the model says none of the objects, so nothing is traced"
        )
        return
    settings, prompts = located.settings, len(located.maps)
    screen.line(
        Words(located.policy_id, "bold"), f"{_count(len(located.facts), 'fact')}, {_count(prompts, 'prompt')}"
    )
    how = f"{settings.mode}, {_count(settings.samples, 'sample')}, seed {settings.seed}"
    screen.line(Words(f"model {located.model}, {how}, {located.seconds:.1f} s", "dim"))
    what = "the object" if located.part == "whole" else "the object's first token"
    screen.paragraph(
        f"Probability of {what}: {100 * located.clean:.1f} %, with noise on the subject "
        f"{100 * located.corrupted:.1f} %. Below: points of it that one clean state brings back."
    )
    screen.line()
    for kind in settings.kinds:
        own = [one for one in located.averages if one.kind == kind]
        rows = [(f"{ROLE_NAMES[one.role]} ({one.facts})", one.mean) for one in own]
        _heat(screen, restored(kind, located.window), rows)
    if show_sensitive:
        _prompts(screen, located)
    if located.not_known:
        screen.line(Words(f"not known: {located.not_known}", "dim"))
    _suggested(screen, located)
    if picture is not None:
        screen.line(Words("picture", "dim"), str(picture))


def _prompts(screen: Screen, located: Located) -> None:
    from safeedit.locate.figures import restored, token_names

    for one in islice(located.maps, SHOWN):
        for kind, grid in one.effects.items():
            names = token_names(one, show_sensitive=True)
            before = "".join(one.prompt.pieces[: one.prompt.first])
            title = (
                f"{before}… {restored(kind, located.window)}" if before else restored(kind, located.window)
            )
            _heat(screen, title, list(zip(names, grid[one.prompt.first :], strict=True)))
    if len(located.maps) > SHOWN:
        screen.line(Words(f" … and {len(located.maps) - SHOWN} more prompts; --json has them all", "dim"))


def _suggested(screen: Screen, located: Located) -> None:
    if not located.suggestions:
        screen.line(Words("No layers stand out.", "bold"))
        return
    best = located.suggestions[0]
    for found in located.suggestions:
        where = {"subject": "the subject's last token", "prompt": "the prompt's last token"}[found.site]
        error = "" if found.error is None else f" ± {100 * found.error:.1f}"
        layers = ", ".join(map(str, found.layers))
        rank = "Strongest" if found is best else "Weaker"
        screen.line(
            Words(
                f"{rank} at {where}, layer{'s' * (len(found.layers) > 1)} {layers}:",
                "bold" if found is best else "dim",
            ),
            f"{100 * found.effect:.1f}{error} points at layer {found.peak}.",
        )
    screen.paragraph(
        Words(
            "Where a fact is carried is not always where an edit of it works best (arXiv 2301.04213).", "dim"
        )
    )
    layers = ", ".join(map(str, best.layers))
    screen.line(Words("policy ", "dim"), f"editor: {{params: {{layers: [{layers}]}}}}")


def _heat(screen: Screen, title: str, rows: Sequence[tuple[str, Grid]]) -> None:
    depth = len(rows[0][1])
    room = depth if screen.width < NARROW else max(1, (screen.width - _LABELS) // _CELL)
    groups = list(_groups(depth, room))
    most = max(float(values.max()) for _, values in rows)
    # Of a group only the first layer: the next column's heading says where it ends.
    columns = [Column("token"), *(Column(str(group.start), right=True) for group in groups)]
    table: list[Sequence[Cell]] = [
        (Words(name), *(_shade(float(values[group].mean()), most) for group in groups))
        for name, values in rows
    ]
    screen.table(columns, table, title=title)
    screen.line()


def _groups(depth: int, room: int) -> Iterator[slice]:
    """Layers that share a column, where there are more of them than fit."""
    size = -(-depth // room)
    return (slice(begin, min(depth, begin + size)) for begin in range(0, depth, size))


def _shade(value: float, most: float) -> Shade:
    points = round(100 * value)
    return Shade(str(points) if points else "·", max(0.0, value / most) if most > 0 else 0.0)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
