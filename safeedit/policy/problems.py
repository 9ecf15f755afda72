"""Collecting everything that is wrong with a file, in words that hold nothing personal."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple, NoReturn

from safeedit.errors import PolicyError, Problem

SHOWN = 100
"""How many problems of one policy are told; a person mends those first."""


class Place(NamedTuple):
    """A position in a file, counted from 1."""

    file: str
    line: int
    column: int


class Problems:
    """What is wrong, each thing once; memory does not grow beyond what is told."""

    def __init__(self) -> None:
        self._kept: dict[Problem, None] = {}
        self._untold = 0

    def __len__(self) -> int:
        return len(self._kept) + self._untold

    def add(self, place: Place, message: str) -> None:
        """Note one problem."""
        problem = Problem(*place, message)
        if problem in self._kept:
            return
        if len(self._kept) < SHOWN:
            self._kept[problem] = None
        else:
            self._untold += 1

    def noted(self, place: Place) -> bool:
        """Whether something is wrong there already, as far as it is told."""
        return any((problem.file, problem.line, problem.column) == place for problem in self._kept)

    def stop(self, place: Place, message: str) -> NoReturn:
        """Note a problem after which nothing else can be told, and raise.

        Raises:
            PolicyError: always.
        """
        self.add(place, message)
        raise self._error()

    def raise_if_any(self) -> None:
        """Return only if nothing is wrong.

        Raises:
            PolicyError: something is; it holds every problem noted.
        """
        if self._kept:
            raise self._error()

    def _error(self) -> PolicyError:
        found = list(self._kept)
        if self._untold:
            last = max(found, key=lambda problem: (problem.file, problem.line, problem.column))
            # The ellipsis sorts after every other message at the same place.
            found.append(Problem(last.file, last.line, last.column, f"… and at least {self._untold} more"))
        return PolicyError(found)


def nearest(word: object, known: Iterable[str]) -> str | None:
    """The known word that was probably meant; None if there is none."""
    if not isinstance(word, str) or len(word) > 64:
        return None
    folded = {name.lower().replace("-", "_"): name for name in known}
    near = difflib.get_close_matches(word.strip().lower().replace("-", "_"), folded, n=1, cutoff=0.7)
    return folded[near[0]] if near else None


def hint(word: object, known: Iterable[str]) -> str:
    """Which known key was probably meant by an unknown one, or all that there are; never that key itself."""
    names = list(known)
    meant = nearest(word, names)
    return f"did you mean '{meant}'?" if meant else f"the keys are: {', '.join(names) or 'none'}"


def one_of(word: object, known: Iterable[str]) -> str:
    """That a value must be a known word, and which was probably meant; never the value itself."""
    names = list(known)
    meant = nearest(word, names)
    return f"must be one of: {', '.join(names)}" + (f"; did you mean '{meant}'?" if meant else "")
