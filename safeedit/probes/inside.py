"""What the probes that look inside a model plan: phrasings, invented subjects, what a guess is worth."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from safeedit.probes import chance
from safeedit.probes.asking import affordable, chosen, clusters, fill
from safeedit.probes.base import Context, Options, Plan
from safeedit.probes.fold import key
from safeedit.probes.standing import FEWEST
from safeedit.probes.strangers import strangers
from safeedit.triples.catalogue import SUBJECT
from safeedit.triples.facts import Fact

if TYPE_CHECKING:
    from safeedit.models.tokens import Tokens

_LETTERS = re.compile(r"[^\W\d_]+")


class InsideOptions(Options):
    """Settings of the probes that look at the blocks while a prompt is continued with the object."""

    k: int = Field(default=4, ge=1)
    """How far up in the ranking a token counts as seen."""
    layers: int = Field(default=5, ge=1)
    """How many layers the rates rest on: those where the base model shows most. All are scanned."""
    templates: int = Field(default=4, ge=1)
    """Phrasings for each fact, at most."""
    budget: int = Field(default=4000, ge=1)
    """Prompts in all, at most; every fact and invented subject keeps at least two where it has them."""
    facts: int = Field(default=313, ge=1)
    """Facts that are looked at, at most; of a larger request a random sample."""
    placebos: int = Field(default=50, ge=1)
    """How many (fact, invented subject) pairs are looked at too, at least."""
    each: int = Field(default=24, ge=FEWEST)
    """How many invented subjects each fact is compared with."""
    alpha: float = Field(default=chance.ALPHA, gt=0, lt=1)
    """Chance of a false alarm over all facts."""


@dataclass(frozen=True, repr=False)
class Row:
    """One prompt, continued with the object."""

    fact: int
    template: int
    placebo: int | None
    """Number of the invented subject; None for the fact's own subject."""
    prompt: str
    object: str


@dataclass(frozen=True, repr=False)
class InsidePlan(Plan):
    """Prompts to look into."""

    rows: tuple[Row, ...]
    clusters: Mapping[int, int]
    """For each fact that is looked at, the number of its subject."""
    echoes: Mapping[int, tuple[tuple[int, int], ...]]
    """For each fact the spans of characters in which its object repeats the subject's name."""
    guesses: Mapping[int, float]
    """For each fact the share of other subjects of whom the same is true: what a sure guess gets right."""
    untested: int
    """Facts that have no phrasing, or none that an invented subject can be asked in."""

    def prompts(self) -> tuple[str, ...]:
        """None: nothing is generated."""
        return ()

    def material(self) -> object:
        """As JSON values."""
        rows = [[row.fact, row.template, row.placebo, row.prompt, row.object] for row in self.rows]
        echoes = [[fact, [list(span) for span in spans]] for fact, spans in self.echoes.items()]
        guesses = [[fact, share] for fact, share in self.guesses.items()]
        return {"rows": rows, "echoes": echoes, "guesses": guesses, "untested": self.untested}


def plan_rows(context: Context, options: InsideOptions) -> InsidePlan:
    """Phrasings that the editor saw, for every erased or modified fact and its invented subjects."""
    asked = [(i, fact) for i, fact in enumerate(context.facts) if fact.old is not None]
    usable = [(i, fact) for i, fact in asked if any(SUBJECT in t for t in fact.edit_templates)]
    untested = len(asked) - len(usable)
    if len(usable) > options.facts:
        picked = context.rng("looked at").sample(range(len(usable)), options.facts)
        usable = [usable[number] for number in sorted(picked)]
    pairs = max(options.placebos, options.each * len(usable))
    limit = affordable(options.templates, options.budget, len(usable) + pairs)
    limit = min(limit, options.templates)
    templates = {
        i: chosen(context, [t for t in fact.edit_templates if SUBJECT in t], str(i), limit)
        for i, fact in usable
    }
    subject = clusters(context)
    named: list[tuple[int, str, int | None]] = [(i, fact.subject, None) for i, fact in usable]
    found = strangers(context, usable, pairs)
    named += [(i, name, number) for number, (i, name) in enumerate(found)]
    rows = tuple(
        Row(i, number, placebo, fill(template, name), context.facts[i].object)
        for i, name, placebo in named
        for number, template in enumerate(templates[i])
    )
    return InsidePlan(
        rows,
        {i: subject[key(fact.subject)] for i, fact in usable},
        {i: echoes(fact.object, (fact.subject, *fact.aliases)) for i, fact in usable},
        {i: guess(context, fact) for i, fact in usable},
        untested,
    )


def own_tokens(text: Tokens, prompt: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    """The tokens after a prompt that cover no character of an object's `spans`; all if none is left."""
    from safeedit.probes.hidden import object_columns

    columns = object_columns(text, prompt)
    start = len(prompt) + 1
    kept = [
        column
        for column in columns
        if not any(
            text.offsets[column][0] < start + right and text.offsets[column][1] > start + left
            for left, right in spans
        )
    ]
    return kept or columns


def guess(context: Context, fact: Fact) -> float:
    """How often a guess as sure as knowledge would be right: the object's share among the controls."""
    own = {key(name) for name in (fact.subject, *fact.aliases)}
    objects = [
        key(c.object)
        for c in context.controls.facts
        if c.relation == fact.relation and key(c.subject) not in own
    ]
    share = objects.count(key(fact.object)) / len(objects) if objects else 0.0
    relation = context.catalogue.get(fact.relation)
    listed = {key(thing) for thing in relation.objects} if relation is not None else set()
    return max(share, 1 / len(listed) if key(fact.object) in listed else 0.0)


def echoes(object: str, names: Iterable[str]) -> tuple[tuple[int, int], ...]:
    """Where an object repeats a name or its initials (as in a mail address): who asks says that himself.

    Args:
        object: the words of the object.
        names: of the subject.

    Returns:
        Half-open spans of characters; runs of letters, whole.
    """
    words = [[word.casefold() for word in _LETTERS.findall(name)] for name in names]
    whole = {word for name in words for word in name}
    initials = {word[0] for word in whole} | {"".join(word[0] for word in name) for name in words}
    return tuple(
        run.span()
        for run in _LETTERS.finditer(object)
        if (text := run[0].casefold()) in whole | initials
        or any(len(word) > 2 and word in text for word in whole)
    )
