"""What an edit is optimised on: token rows with a subject, the positions that matter, the goals there.

A *group* is one name whose value vector is searched. All that is asked of one name (several facts,
several phrasings, several preceding contexts) is optimised together: at its last token every one
of those prompts shares the same, or nearly the same, key, so separate values would contradict
each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from safeedit.editors.tables import Table
from safeedit.errors import UsageError
from safeedit.models.tokens import Offsets, Tokens, tokenise
from safeedit.triples.catalogue import SUBJECT

TEXTS = 1024
"""Texts tokenised at once."""


@dataclass(frozen=True, repr=False)
class Text:
    """A prompt with a subject in it, and optionally the continuation that is looked at."""

    before: str
    """What stands before the template (a context), with its own final space."""
    template: str
    subject: str
    continuation: str = ""
    """Joined by a space where the prompt does not end in white space."""

    def prompt(self) -> str:
        """The prompt alone."""
        return self.before + self.template.replace(SUBJECT, self.subject)

    def whole(self) -> str:
        """The prompt and its continuation."""
        return join(self.prompt(), self.continuation)

    def subject_span(self) -> tuple[int, int]:
        """Characters of the subject."""
        start = len(self.before) + self.template.index(SUBJECT)
        return start, start + len(self.subject)


def join(prompt: str, continuation: str) -> str:
    """A prompt and what follows it, a space between them unless the prompt ends in white space."""
    if not continuation:
        return prompt
    return prompt + continuation if prompt[-1:].isspace() else f"{prompt} {continuation}"


@dataclass(frozen=True, repr=False)
class Row:
    """One tokenised text."""

    ids: list[int]
    pivot: int
    """The token at which the value is put."""
    spots: tuple[int, ...]
    """Tokens whose next one matters: the prompt's last, and those of the continuation but its last."""
    wanted: tuple[int, ...]
    """The continuation's tokens, one a spot from the first on; empty where there is no continuation."""

    @property
    def length(self) -> int:
        """Spots over which a mean is taken: an answer's ending is no part of the answer."""
        return len(self.wanted) or len(self.spots)


Site = Literal["subject", "prompt"]
"""Where in a prompt a value is put: at the last token of the subject, or of the whole prompt."""


def rows_of(tokenizer: Any, texts: Sequence[Text], site: Site = "subject") -> list[Row]:
    """Tokenise texts; subject and continuation are found by character offsets.

    Raises:
        UsageError: a continuation has no token of its own.
    """
    found: list[Row] = []
    # Offsets take many times what ids do, and are wanted for a moment only.
    for start in range(0, len(texts), TEXTS):
        part = texts[start : start + TEXTS]
        tokens = tokenise(tokenizer, [text.whole() for text in part])
        found += [_row(text, of, site) for text, of in zip(part, tokens, strict=True)]
    return found


def _row(text: Text, tokens: Tokens, site: Site) -> Row:
    subject = tokens.last_of(*text.subject_span())
    if not text.continuation:
        end = len(tokens.ids) - 1
        return Row(tokens.ids, subject if site == "subject" else end, (end,), ())
    first = tokens.first_from(len(text.prompt()))
    last = len(tokens.ids)
    if first >= last or first == 0:
        raise UsageError("an object has no token of its own after the prompt; give it some text")
    pivot = subject if site == "subject" else first - 1
    return Row(tokens.ids, pivot, tuple(range(first - 1, last - 1)), tuple(tokens.ids[first:last]))


@dataclass(frozen=True, repr=False)
class Piece:
    """A token of a continuation, by its characters."""

    before: str
    """The continuation up to the token; a space before a word is part of the token."""
    start: int
    end: int


def pieces(tokenizer: Any, asked: Sequence[tuple[Text, Row]]) -> list[tuple[Piece, ...]]:
    """For each text and its row the tokens of its continuation, one for each that the row wants."""
    found: list[tuple[Piece, ...]] = []
    for start in range(0, len(asked), TEXTS):
        part = asked[start : start + TEXTS]
        tokens = tokenise(tokenizer, [text.whole() for text, _ in part])
        found += [_pieces(*pair, of.offsets) for pair, of in zip(part, tokens, strict=True)]
    return found


def _pieces(text: Text, row: Row, offsets: Offsets) -> tuple[Piece, ...]:
    first, found = len(text.whole()) - len(text.continuation), list[Piece]()
    for index in range(len(offsets) - len(row.wanted), len(offsets)):
        start, end = (max(0, place - first) for place in offsets[index])
        # Where offsets leave spaces out, the one before a token is part of the token.
        before = max(0, offsets[index - 1][1] - first) if index else 0
        found.append(Piece(text.continuation[: min(start, before)], start, end))
    return tuple(found)


@dataclass(frozen=True)
class Goals:
    """What is wanted at each spot of one row: a token, a distribution, or (both -1) an even one.

    Attributes:
        hard: (spots,) token ids, or -1.
        soft: (spots,) indices into a table of distributions, or -1.
    """

    hard: tuple[int, ...]
    soft: tuple[int, ...]

    @staticmethod
    def tokens(ids: Iterable[int]) -> Goals:
        """The given token at each spot."""
        hard = tuple(ids)
        return Goals(hard, (-1,) * len(hard))

    @staticmethod
    def distributions(indices: Iterable[int]) -> Goals:
        """The given rows of the table, one a spot."""
        soft = tuple(indices)
        return Goals((-1,) * len(soft), soft)

    @staticmethod
    def even(spots: int) -> Goals:
        """Maximum entropy at each spot."""
        return Goals((-1,) * spots, (-1,) * spots)


@dataclass(frozen=True)
class Tell:
    """Where an erased object would show."""

    spot: int
    """Which of the row's spots, counted from 0."""
    token: int
    """The object's token there."""
    usual: float = 0.0
    """The probability that it may have, as strangers have it too."""


@dataclass(frozen=True, repr=False)
class Demand:
    """One row, whose value it constrains, and what is wanted of it."""

    group: int
    row: Row
    goals: Goals
    weight: float = 1.0
    keep: bool = False
    """True if the row is there to stay as it is; it does not decide when a group is finished."""
    bare: bool = True
    """Whether nothing stands before the prompt."""
    telling: tuple[Tell, ...] = ()
    """In an erasure, the spots at which the object would show."""


@dataclass(frozen=True)
class Task:
    """Everything that the search for values needs."""

    groups: int
    demands: tuple[Demand, ...]
    table: Tensor | Table
    """(distributions, vocabulary) probabilities that soft goals point into, a tensor that may have no row;
    or a `Table`, where they are too many to be held."""

    def bare(self) -> Task:
        """Only the rows with nothing before the prompt."""
        if all(demand.bare for demand in self.demands):
            return self
        return replace(self, demands=tuple(demand for demand in self.demands if demand.bare))

    @staticmethod
    def empty_table(vocabulary: int, device: torch.device) -> Tensor:
        """A table without distributions."""
        return torch.zeros(0, vocabulary, device=device)
