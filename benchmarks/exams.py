"""What is asked of a model that was edited: questions by view, with the edits that they are about."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from safeedit.editors.statistics import OwnText
from safeedit.triples.facts import Edit, Op


@dataclass(frozen=True, repr=False)
class Ask:
    """One prompt, what was right before an edit, and what shall be right after it."""

    unit: int
    """Number of the edit, or of the fact that shall survive."""
    prompt: str
    old: str | None
    """What the base model should say; for what shall survive, what stays right."""
    new: str | None = None
    """What an edit wants; for what shall survive, an object of an edit that would be wrong here."""
    known: str | None = None
    """The prompt that the base model is asked instead, where the edit changes the question itself."""


Asks = list[Ask]


@dataclass(frozen=True, repr=False)
class Exam:
    """Edits of one operation and everything that is asked about them."""

    op: Op
    edits: Sequence[Edit]
    about: Mapping[str, Asks]
    """Questions about what was edited, by view: own, paraphrase, unseen, alias, two-hop, inverse."""
    kept: Mapping[str, Asks]
    """Questions whose answers shall stay: neighbours, namesakes, same person."""
    prose: Sequence[str]
    openings: Sequence[str]
    """Beginnings of texts about edited subjects, which the model goes on with."""
    corpus: OwnText | None = None
    """What key statistics are taken over; None for the editor's default."""
    answer_tokens: int = 48
    """Where an answer is cut off if the model does not end it."""

    def of_units(self, units: Collection[int]) -> Exam:
        """The same, with questions about some of the edits only; what shall survive is asked as before."""
        chosen = {view: [a for a in asks if a.unit in units] for view, asks in self.about.items()}
        return replace(self, about=chosen)

    def sampled(self, limit: int) -> Exam:
        """The same, with at most so many questions of each view; always the same ones."""

        def some(views: Mapping[str, Asks]) -> dict[str, Asks]:
            return {
                view: random.Random(view).sample(asks, limit) if len(asks) > limit else asks
                for view, asks in views.items()
            }

        return replace(self, about=some(self.about), kept=some(self.kept))


class Source(ABC):
    """Where edits and questions come from."""

    name: str

    @abstractmethod
    def load(self) -> tuple[Any, Any]:
        """The model that is edited and its tokenizer."""

    @abstractmethod
    def most(self, op: Op) -> int:
        """How many edits of a kind there are."""

    @abstractmethod
    def exam(self, op: Op, count: int) -> Exam:
        """The first `count` edits and what is asked about them."""

    def keeping(self, edits: Sequence[Edit]) -> list[Edit]:
        """Some of the edits as an editor gets them that is given these alone."""
        return list(edits)
