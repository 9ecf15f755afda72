"""Values that an edit finds, kept beside it: one that was cut short need not search them again.

Whoever carries out an edit may keep a journal of it (`JOURNAL`); a search asks it first. What a search
depends on is told by a digest, so that a value is only ever taken where the search would find it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from safeedit.tensors.digest import tensor_digest

if TYPE_CHECKING:
    from safeedit.editors.values import Values


class Journal(Protocol):
    """What searches have found, by their states."""

    def found(self, state: str) -> Values | None:
        """What a search in this state has found, if there was one."""

    def note(self, state: str, values: Values) -> None:
        """A search in this state has found these."""


JOURNAL: ContextVar[Journal | None] = ContextVar("journal", default=None)
"""The journal of the edit under way, if one is kept."""


def remembered(state: Callable[[], str], run: Callable[[], Values]) -> Values:
    """What a search finds, or has found before.

    Args:
        state: gives the digest of all that it depends on.
        run: does it.
    """
    journal = JOURNAL.get()
    if journal is None:
        return run()
    key = state()
    values = journal.found(key)
    if values is None:
        values = run()
        journal.note(key, values)
    return values


def state_of(settings: str, tensors: Iterable[Tensor]) -> str:
    """SHA-256, hex, over settings and every bit of the tensors, in their order."""
    found = hashlib.sha256(settings.encode())
    for tensor in tensors:
        found.update(tensor_digest(tensor).encode())
    return found.hexdigest()
