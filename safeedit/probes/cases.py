"""Facts that are asked of changed copies of a model, and the invented subjects who are asked the same."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from safeedit.errors import ProbeError
from safeedit.probes import chance
from safeedit.probes.asking import affordable, chosen, clusters, fill, old_answer
from safeedit.probes.base import Context, Options
from safeedit.probes.fold import key
from safeedit.probes.match import Answer, find_leak
from safeedit.probes.strangers import of_both_kinds
from safeedit.triples.catalogue import SUBJECT
from safeedit.triples.facts import Fact

FEWEST = 3
"""Invented subjects that scores can be held against, at least."""


class ComebackOptions(Options):
    """Settings of the probes that change a copy of the model and ask it."""

    templates: int = Field(default=2, ge=1)
    """Phrasings whose probabilities are taken, at most: some that the editor saw, some that it did not."""
    placebos: int = Field(default=24, ge=FEWEST)
    """Invented subjects for each fact."""
    budget: int = Field(default=8000, ge=1)
    """Prompts in all, at most; every fact and invented subject keeps at least two where it has them."""
    facts: int = Field(default=313, ge=1)
    """Facts that are asked about, at most; of a larger request a random sample."""
    alpha: float = Field(default=chance.ALPHA, gt=0, lt=1)
    """Chance of a false alarm over all facts and copies."""


@dataclass(frozen=True, repr=False)
class Case:
    """One fact, and the invented subjects that are asked the same."""

    index: int
    """Of the fact in the request."""
    cluster: int
    """Facts of one subject are not independent of each other."""
    subject: str
    wanted: str
    """The fact's object."""
    templates: tuple[str, ...]
    strangers: tuple[str, ...]
    answer: Answer

    def pairs(self, name: str) -> list[tuple[str, str]]:
        """Prompts about a name, and the object as it would follow them."""
        return [(fill(template, name), f" {self.wanted}") for template in self.templates]

    def material(self) -> dict[str, object]:
        """As JSON values."""
        return {
            "index": self.index,
            "subject": self.subject,
            "object": self.wanted,
            "templates": list(self.templates),
            "strangers": list(self.strangers),
            "answer": self.answer.material(),
        }


def plan_cases(context: Context, options: ComebackOptions) -> tuple[tuple[Case, ...], int]:
    """Every fact whose object shall be gone, and how many of them cannot be asked about.

    Facts of one kind share their invented subjects, and those of one relation their phrasings, so that
    a large request costs few prompts more.

    Raises:
        ProbeError: an object could never be found in a text.
    """
    asked = [(i, fact) for i, fact in enumerate(context.facts) if fact.old is not None]
    usable = [(i, fact) for i, fact in asked if any(SUBJECT in t for t in phrasings(fact))]
    untested = len(asked) - len(usable)
    if len(usable) > options.facts:
        picked = context.rng("comebacks").sample(range(len(usable)), options.facts)
        usable = [usable[number] for number in sorted(picked)]
    limit = affordable(options.templates, options.budget, len(usable) * (1 + options.placebos))
    limit = min(limit, options.templates)
    subject = clusters(context)
    cases = []
    for index, fact in usable:
        answer = old_answer(context, fact)
        visible(answer)
        cases.append(
            Case(
                index,
                subject[key(fact.subject)],
                fact.subject,
                fact.object,
                some_phrasings(context, fact, limit),
                of_both_kinds(context, index, fact, options.placebos),
                answer,
            )
        )
    return tuple(cases), untested


def phrasings(fact: Fact) -> tuple[str, ...]:
    """Those that the editor saw, then the others."""
    return (*fact.edit_templates, *fact.probe_templates)


def some_phrasings(context: Context, fact: Fact, limit: int) -> tuple[str, ...]:
    """`limit` phrasings that leave room for a name: half that the editor saw, half that it did not."""
    seen = [t for t in fact.edit_templates if SUBJECT in t]
    unseen = [t for t in fact.probe_templates if SUBJECT in t and t not in seen]
    other = chosen(context, unseen, f"{fact.relation}|unseen", max(limit // 2, limit - len(seen)))
    return (*chosen(context, seen, f"{fact.relation}|seen", limit - len(other)), *other)


def visible(answer: Answer) -> None:
    """A plain answer would be seen; a probe that is blind to it must not be run.

    Raises:
        ProbeError: it would not be.
    """
    if any(find_leak(answer, "", f" {spelling}.") is None for spelling in answer.spellings):
        raise ProbeError("an object would not be seen in an answer")
