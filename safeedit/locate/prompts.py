"""Prompts that are traced: their tokens, where the subject stands, and which object tokens are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from safeedit.editors.rows import Text, rows_of
from safeedit.models.tokens import tokenise

Part = Literal["first", "whole"]
"""Whether the probability of the object's first token is traced, or that of all of it."""
Role = Literal["first_subject", "middle_subject", "last_subject", "first_after", "further", "last"]
ROLES: tuple[Role, ...] = (
    "first_subject",
    "middle_subject",
    "last_subject",
    "first_after",
    "further",
    "last",
)
"""What a token is in its prompt, as the paper averages over prompts of different lengths."""


@dataclass(frozen=True, repr=False)
class Prompt:
    """One prompt and the object that continues it, as tokens."""

    fact: int
    """Index of the fact that it asks for."""
    ids: tuple[int, ...]
    """The prompt's tokens and the object's, all but the object's last."""
    first: int
    """The subject's first token."""
    last: int
    """The subject's last token."""
    end: int
    """The prompt's last token."""
    wanted: tuple[int, ...]
    """The object's tokens, predicted from `end` on."""
    pieces: tuple[str, ...]
    """The text of each of the prompt's tokens."""

    def __repr__(self) -> str:
        return "<Prompt>"

    @property
    def roles(self) -> tuple[Role | None, ...]:
        """What each of the prompt's tokens is; None before the subject, where nothing can be restored."""
        return tuple(self._role(token) for token in range(self.end + 1))

    def _role(self, token: int) -> Role | None:
        # Where the subject ends the prompt its last token is `last`: whatever is restored there in high
        # layers is the prediction itself and says nothing of subjects.
        if token < self.first:
            return None
        if token == self.end:
            return "last"
        if token <= self.last:
            # The only token of a subject is its last one: all that is known of it is looked up there.
            if token == self.last:
                return "last_subject"
            return "first_subject" if token == self.first else "middle_subject"
        return "first_after" if token == self.last + 1 else "further"

    def measured(self, part: Part) -> Prompt:
        """The same prompt with only those tokens of the object that are traced."""
        if part == "whole":
            return self
        return replace(self, ids=self.ids[: self.end + 1], wanted=self.wanted[:1])


def prompts_of(tokenizer: Any, texts: Sequence[Text], facts: Sequence[int]) -> list[Prompt]:
    """Tokenise prompts with their objects.

    Args:
        tokenizer: a fast `transformers` tokenizer.
        texts: each with its object as the continuation.
        facts: the index of the fact that each text asks for.

    Raises:
        UsageError: an object has no token of its own.
    """
    rows = rows_of(tokenizer, texts)
    tokens = tokenise(tokenizer, [text.whole() for text in texts])
    found = []
    for fact, text, row, own in zip(facts, texts, rows, tokens, strict=True):
        whole, end = text.whole(), row.spots[0]
        found.append(
            Prompt(
                fact,
                tuple(row.ids[: row.spots[-1] + 1]),
                own.first_from(text.subject_span()[0]),
                row.pivot,
                end,
                row.wanted,
                tuple(whole[left:right] for left, right in own.offsets[: end + 1]),
            )
        )
    return found
