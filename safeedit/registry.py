"""One lazy, typed registry for everything that is found by name (editors, probes).

An entry is the text ``"module:attribute"`` and is imported when it is first asked for. Other
packages add entries through entry points of the registry's group; they cannot replace a
built-in one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import Generic, TypeVar, cast

from safeedit.errors import UsageError

T = TypeVar("T")


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
            UsageError: no such name (the nearest ones are named), or what is registered is not
                a subclass of the registry's base.
        """
        if name not in self._targets:
            near = difflib.get_close_matches(name, self._targets, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(self.names())}"
            raise UsageError(f"unknown {self.kind} {name!r}; {hint}")
        found = _load(self._targets[name])
        base = _load(self._base)
        if not (isinstance(found, type) and isinstance(base, type) and issubclass(found, base)):
            raise UsageError(f"{self.kind} {name!r} ({self._targets[name]}) is not a {base}")
        return cast("type[T]", found)


def _load(target: str) -> object:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
