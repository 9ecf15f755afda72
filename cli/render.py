"""How a result looks to a person; the only module that imports Rich.

Text that comes from a policy or from a model is data: it passes through `safe`, never through
markup, and what would steer the terminal is shown instead of sent.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TextIO

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from .output import Tell, tell, visible, write

NARROW = 80
"""On fewer columns than this a table is written as one block for each row."""

_INDENT, _GAP = 4, "   "
_STAGES = {
    "load": "loading the model",
    "subjects": "asking what the model knows of people",
    "facts": "asking what the model says now",
    "register": "registering the probes",
    "baseline": "asking the model before the edit",
    "edit": "editing",
    "statistics": "collecting key statistics",
    "values": "searching for values",
    "weights": "solving for weights",
    "probes": "asking the model after the edit",
    "save": "saving the model",
    "trace": "tracing",
}

Look = Literal["plain", "dim", "bold", "good", "bad", "doubtful"]
_LOOKS: dict[Look, str] = {
    "plain": "",
    "dim": "dim",
    "bold": "bold",
    "good": "bold green",
    "bad": "bold red",
    "doubtful": "bold yellow",
}


@dataclass(frozen=True)
class Words:
    """A piece of text in one look."""

    text: str
    look: Look = "plain"


@dataclass(frozen=True)
class Shade:
    """A figure on a ground as bright as it is large."""

    text: str
    level: float
    """0 to 1."""

    @property
    def style(self) -> str:
        """No ground for next to nothing, so that it looks the same on dark and on light terminals."""
        if self.level < _FAINTEST:
            return ""
        ground = (round(low + (high - low) * self.level) for low, high in zip(_COLD, _HOT, strict=True))
        return f"{'black' if self.level > 0.5 else 'white'} on rgb({','.join(map(str, ground))})"


_COLD, _HOT, _FAINTEST = (24, 42, 84), (250, 204, 64), 0.04

Cell = str | Words | Shade | Sequence[Words]


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    right: bool = False
    """Numbers, set to the right."""
    wraps: bool = False
    """Whether this column gives way where the table is too wide."""


def safe(text: str, look: Look = "plain") -> Text:
    """Untrusted text, fit to be printed: no markup, no control characters, on one line."""
    return Text(visible(text), style=_LOOKS[look])


def _cell(cell: Cell) -> Text:
    if isinstance(cell, str):
        return safe(cell)
    if isinstance(cell, Words):
        return safe(cell.text, cell.look)
    if isinstance(cell, Shade):
        return Text(visible(cell.text), style=cell.style)
    return Text("\n").join(safe(words.text, words.look) for words in cell)


class Screen:
    """Writes a result to standard output, as wide as the terminal (or `COLUMNS`), coloured only on one."""

    def __init__(self, file: TextIO | None = None, width: int | None = None) -> None:
        self._console = Console(file=file, width=width, highlight=False, markup=False, emoji=False)
        self.unicode = self._console.encoding.lower().startswith("utf")
        self._file = file

    @property
    def width(self) -> int:
        """How many characters fit into a line."""
        return self._console.width

    def line(self, *words: Cell) -> None:
        """One line, never broken: a path in it can be copied."""
        self._print(Text(" ").join(_cell(cell) for cell in words), soft_wrap=True)

    def paragraph(self, words: Cell) -> None:
        """Text that is broken between words where it is too long."""
        self._print(_cell(words))

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[Cell]], title: str = "") -> None:
        """Rows under column titles, or blocks where the screen is narrow.

        A cell of several `Words` has them one below another.
        """
        if title:
            self.line(Words(title, "bold"))
        if self._console.width < NARROW:
            self._blocks(columns, rows)
            return
        table = Table(
            box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim"
        )
        for column in columns:
            table.add_column(
                Text(column.title),
                justify="right" if column.right else "left",
                no_wrap=not column.wraps,
                overflow="fold",
            )
        for row in rows:
            table.add_row(*(_cell(cell) for cell in row))
        self._print(Padding(table, (0, 0, 0, 1)))

    def _blocks(self, columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> None:
        for row in rows:
            self._print(_cell(row[0]))
            lines = [Text()]
            for column, cell in zip(columns[1:], row[1:], strict=True):
                content = _cell(cell)
                if not content.plain:
                    continue
                content.plain = content.plain.replace("\n", " ")
                piece = Text(f"{column.title} ", style="dim") + content
                room = self._console.width - _INDENT - lines[-1].cell_len
                if lines[-1] and piece.cell_len + len(_GAP) > room:
                    lines.append(Text())
                lines[-1] += Text(_GAP if lines[-1] else "") + piece
            self._print(Padding(Text("\n").join(lines), (0, 0, 0, _INDENT)))

    def _print(self, thing: Text | Table | Padding, *, soft_wrap: bool = False) -> None:
        with self._console.capture() as captured:
            self._console.print(thing, soft_wrap=soft_wrap)
        text = "".join(f"{line.rstrip(' ')}\n" for line in captured.get().splitlines())
        if self._file is None:
            write(text)
        else:
            self._file.write(text)


@contextmanager
def progress(*, quiet: bool) -> Iterator[Tell | None]:
    """What a library call reports its progress to: a bar on a terminal, else one line for each stage."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            yield _Bars(bars)
    else:
        yield _Lines()


class _Bars:
    def __init__(self, bars: Progress) -> None:
        self._bars, self._tasks = bars, dict[str, TaskID]()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(visible(_STAGES.get(stage, stage)), total=total or None)
        self._bars.update(self._tasks[stage], completed=done, total=total or None)


class _Lines:
    def __init__(self) -> None:
        self._told: set[str] = set()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._told:
            self._told.add(stage)
            tell(f"{visible(_STAGES.get(stage, stage))} …\n")
