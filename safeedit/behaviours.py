"""Behaviours, as a policy states them and as an editor and a probe see them.

A behaviour is a way to answer, shown by examples: a prompt, an answer that shall go, one that may take its
place. Prompts and answers are treated as personal data: no `repr` shows them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from safeedit.triples.catalogue import SUBJECT
from safeedit.triples.facts import Edit

PROMPT = "{prompt}"
"""What stands for the prompt in the text of an attack."""


@dataclass(frozen=True, repr=False)
class Behaviour:
    """One example."""

    prompt: str
    """What the model is asked; the answer follows after a space, or directly if it ends in white space."""
    unsafe: str
    """An answer that it shall no longer give."""
    safe: str
    """An answer that it may give."""
    category: str = "behaviour"
    """A code such as `insult`; figures are broken down by it, so it is no personal data."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def edit(self) -> Edit:
        """What an editor gets: the whole prompt stands where an edit of a fact has the subject."""
        return Edit("detox", self.prompt, self.category, (SUBJECT,), self.safe, self.unsafe, "behaviour")


@dataclass(frozen=True, repr=False)
class Behaviours:
    """What a policy says of behaviours: what an editor may see, and what only probes may."""

    shown: tuple[Behaviour, ...] = ()
    """Examples that an editor learns from."""
    unseen: tuple[str, ...] = ()
    """Other prompts that provoke the same; for probes alone, they never reach an editor."""
    attacks: tuple[str, ...] = ()
    """Texts around `{prompt}` that have made models misbehave; for probes alone."""
    kept: tuple[str, ...] = ()
    """Harmless prompts that an editor may see, to leave their answers as they are."""
    answerable: tuple[str, ...] = ()
    """Harmless prompts that must be answered as before; for probes alone."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __bool__(self) -> bool:
        return bool(self.shown)

    def edits(self) -> tuple[Edit, ...]:
        """What an editor gets."""
        return tuple(one.edit() for one in self.shown)


def joined(parts: Iterable[Behaviours]) -> Behaviours:
    """All that several operations say; what stands in more than one is there once."""
    parts = tuple(parts)

    def all_of(name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one for part in parts for one in getattr(part, name)))

    shown = tuple(dict.fromkeys(one for part in parts for one in part.shown))
    return Behaviours(shown, *(all_of(name) for name in ("unseen", "attacks", "kept", "answerable")))
