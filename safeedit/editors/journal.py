"""What an edit has found so far, kept beside it: one that was cut short need not do that work again.

Whoever carries out an edit may keep a journal of it (`JOURNAL`). Two kinds of work go in: what a part of
the edit came to (`remembered`), which stays, and how far a loop has come (`Bookmark`), of which the newest
alone stays. All is found again by a digest of everything that it depends on, so that nothing is ever taken
where the same work would not come to the same bits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from safeedit.tensors.digest import tensor_digest

State = Mapping[str, Tensor | int | float]
"""Tensors, on any device, and finite numbers."""


class Journal(Protocol):
    """What was found, by digests of all that it depends on; tensors come back on the CPU."""

    def found(self, key: str) -> State | None:
        """What was noted, or reached last, under this key."""

    def note(self, key: str, state: State) -> None:
        """This was found, and will not change; it stays until the edit ends."""

    def due(self) -> bool:
        """Whether it is time to say again what was reached."""

    def reached(self, key: str, state: State) -> None:
        """A loop has come this far; what any loop had reached before is forgotten."""


JOURNAL: ContextVar[Journal | None] = ContextVar("journal", default=None)
"""The journal of the edit under way, if one is kept."""


def remembered(key: Callable[[], str], run: Callable[[], State]) -> State:
    """What a part of an edit comes to, or came to before.

    Args:
        key: gives the digest of all that it depends on.
        run: does it.
    """
    journal = JOURNAL.get()
    if journal is None:
        return run()
    name = key()
    state = journal.found(name)
    if state is None:
        state = run()
        journal.note(name, state)
    return state


class Bookmark:
    """How far a loop has come, said now and then while it runs. By default nothing is kept.

    Args:
        journal: where it is kept.
        key: digest of all that the loop depends on.
    """

    def __init__(self, journal: Journal | None = None, key: str = "") -> None:
        self._journal, self._key = journal, key

    def back(self) -> State | None:
        """How far the loop had come when it was cut short."""
        return None if self._journal is None else self._journal.found(self._key)

    def due(self) -> bool:
        """Whether it is time to say how far the loop has come."""
        return self._journal is not None and self._journal.due()

    def put(self, state: State) -> None:
        """The loop has come this far; the tensors may change afterwards."""
        if self._journal is not None:
            self._journal.reached(self._key, state)


@dataclass(frozen=True)
class Notes:
    """The journal as one edit sees it: what depends on the edit as a whole is found by a name.

    Attributes:
        journal: the journal, if one is kept.
        about: digest of the edit: the request, the settings, the model.
    """

    journal: Journal | None = None
    about: str = ""

    def remembered(self, name: str, run: Callable[[], State]) -> State:
        """What a part of this edit comes to, or came to before; another name for every part."""
        return run() if self.journal is None else remembered(lambda: self._key(name), run)

    def bookmark(self, name: str) -> Bookmark:
        """For a loop of this edit; another name for every loop."""
        return Bookmark(self.journal, self._key(name))

    def _key(self, name: str) -> str:
        return state_of(f"{self.about}|{name}", ())


def state_of(settings: str, tensors: Iterable[Tensor]) -> str:
    """SHA-256, hex, over settings and every bit of the tensors, in their order."""
    found = hashlib.sha256(settings.encode("utf-8", "surrogatepass"))
    for tensor in tensors:
        found.update(tensor_digest(tensor).encode())
    return found.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256, hex, over all that a fast tokenizer does, but for padding and cutting, which calls set."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    for name in ("padding", "truncation"):
        rules.pop(name, None)
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


def tensor_in(state: State, name: str) -> Tensor:
    """The tensor of a state that has this name."""
    found = state[name]
    assert isinstance(found, Tensor)
    return found


def numbered(name: str, tensors: Iterable[Tensor]) -> dict[str, Tensor]:
    """A state's names for some tensors, for `put_back`."""
    return {f"{name}-{index}": tensor for index, tensor in enumerate(tensors)}


@torch.no_grad()
def put_back(state: State, name: str, tensors: Iterable[Tensor]) -> None:
    """Let tensors be, bit for bit and where they are, what `numbered` was given."""
    for index, tensor in enumerate(tensors):
        tensor.copy_(tensor_in(state, f"{name}-{index}"))
