"""One lazy, typed registry for everything that is found by name (editors, probes).

An entry is the text ``"module:attribute"`` and is imported when it is first asked for. Other
packages add entries through entry points of the registry's group; they cannot replace a
built-in one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import Generic, TypeVar, cast

from safeedit.errors import UsageError

T = TypeVar("T")


class BrokenEntryError(UsageError):
    """What another package registers cannot be used; `reason` says why, in a few words."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Registry(Generic[T]):
    """Names of one kind, and the classes behind them.

    Args:
        kind: what the names are called in messages, in the singular ("editor").
        group: entry-point group from which other packages add names.
        base: every entry must be a subclass of this class.
        builtin: the entries that ship, ``name -> "module:attribute"``.
    """

    def __init__(self, kind: str, group: str, base: str, builtin: Mapping[str, str]) -> None:
        self.kind, self.group = kind, group
        self._base, self._builtin = base, dict(builtin)

    @cached_property
    def _targets(self) -> dict[str, str]:
        found = {point.name: point.value for point in entry_points(group=self.group)}
        return {**found, **self._builtin}

    @cached_property
    def ignored(self) -> dict[str, str]:
        """What other packages register under a name of ours, ``name -> "module:attribute"``: ours wins."""
        points = entry_points(group=self.group)
        return {one.name: one.value for one in points if self._builtin.get(one.name, one.value) != one.value}

    def names(self) -> tuple[str, ...]:
        """Every registered name, sorted."""
        return tuple(sorted(self._targets))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._targets

    def get(self, name: str) -> type[T]:
        """The class registered under `name`.

        Raises:
            UsageError: no such name (the nearest ones are named).
            BrokenEntryError: another package registers it, and it cannot be imported or is not a subclass
                of the registry's base.
        """
        if name not in self._targets:
            near = difflib.get_close_matches(name, self._targets, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(self.names())}"
            raise UsageError(f"unknown {self.kind} {name!r}; {hint}")
        target, base, reason = self._targets[name], _load(self._base), ""
        found: object = None
        try:
            found = _load(target)
        except Exception as error:
            if self._builtin.get(name) == target:
                raise
            # What a stranger's package says may hold anything, so that the class alone is told.
            reason = f"cannot be imported ({type(error).__name__})"
        if reason:
            raise self._broken(name, reason, "; mend or remove the package that registers it")
        if not (isinstance(found, type) and isinstance(base, type) and issubclass(found, base)):
            raise self._broken(name, f"is not a {self._base}")
        return cast("type[T]", found)

    def target(self, name: str) -> str:
        """What is registered under `name`: ``"module:attribute"``."""
        return self._targets[name]

    def sound(self) -> dict[str, type[T]]:
        """Every class that can be had, by its name."""
        found = {}
        for name in self:
            with suppress(BrokenEntryError):
                found[name] = self.get(name)
        return found

    def _broken(self, name: str, reason: str, advice: str = "") -> BrokenEntryError:
        return BrokenEntryError(f"{self.kind} {name!r} ({self._targets[name]}) {reason}{advice}", reason)


def _load(target: str) -> object:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
