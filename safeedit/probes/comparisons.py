"""Whom a subject is held against: invented subjects who are asked the same, and what else could be said.

They are fixed before any editing, for every fact whose object can be guessed, and asked only where that fact
is hit after the edit (`excuses`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from safeedit.probes.asking import Answers, Unit, fill, invented
from safeedit.probes.base import Context
from safeedit.probes.fold import key
from safeedit.probes.match import Answer, find_leak
from safeedit.probes.rivals import Rival, rivals_of
from safeedit.probes.strangers import recombined
from safeedit.triples.catalogue import SUBJECT
from safeedit.triples.derived import adapted
from safeedit.triples.facts import Fact
from safeedit.triples.placebos import PlaceboKind, placebo_kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEWEST = 50
"""Invented subjects of a kind that a hit is held against, at least."""
WATCHED = 30
"""Invented subjects of whom the base model is asked too, each in one phrasing."""

Shape = tuple[str, ...]
"""The words of a name: `first`, `initial` or `last`; a name that is not made of these is `whole`."""


@dataclass(frozen=True, repr=False)
class Comparison:
    """The phrasings in which one fact is asked of its subject, and of invented subjects."""

    asked: tuple[tuple[str, Shape], ...]
    """For each prompt that can be asked of others its template and the shape of the subject's name in it."""
    prompts: tuple[str, ...]
    """The same prompts about the subject."""
    kinds: tuple[tuple[str, ...], ...]
    """Invented subjects, by how their names are made; those of a kind are at least `FEWEST`."""
    answer: Answer
    rivals: tuple[Rival, ...] = ()
    """Other objects that could be guessed."""

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(name for names in self.kinds for name in names)

    @cached_property
    def strangers(self) -> tuple[tuple[str, ...], ...]:
        """(invented subjects, prompts)."""
        return tuple(
            tuple(fill(template, shaped(shape, name)) for template, shape in self.asked)
            for name in self.names
        )

    @cached_property
    def watched(self) -> tuple[str, ...]:
        """One prompt about each of some invented subjects, asked of the base model too."""
        each = -(-WATCHED // len(self.kinds))
        rows = dict(zip(self.names, self.strangers, strict=True))
        some = [rows[name] for names in self.kinds for name in names[:each]]
        return tuple(prompts[i % len(prompts)] for i, prompts in enumerate(some))

    def hit(self, prompt: str, answers: Answers) -> bool:
        """Whether a prompt is answered with the object."""
        return find_leak(self.answer, prompt, answers[prompt].text) is not None

    def hits(self, answers: Answers) -> list[NDArray[np.bool_]]:
        """(invented subjects, prompts) for each kind of them."""
        rows = np.array([[self.hit(prompt, answers) for prompt in prompts] for prompts in self.strangers])
        return np.split(rows, np.cumsum([len(names) for names in self.kinds])[:-1])

    def guesses(self, answers: Answers) -> list[NDArray[np.bool_]]:
        """(invented subjects, other objects, prompts) for each kind: said word for word."""
        found = []
        rows = dict(zip(self.names, self.strangers, strict=True))
        for names in self.kinds:
            hits = np.zeros((len(names), len(self.rivals), len(self.asked)), dtype=bool)
            for one, name in enumerate(names):
                wanted = [f" {' '.join(key(adapted(thing, owner, name)))} " for thing, owner in self.rivals]
                for place, prompt in enumerate(rows[name]):
                    said = f" {' '.join(key(answers[prompt].text))} "
                    hits[one, :, place] = [text in said for text in wanted]
            found.append(hits)
        return found

    def seen(self, answers: Answers) -> bool:
        """Whether all of it was asked."""
        return all(prompt in answers for prompts in self.strangers for prompt in prompts)

    def material(self) -> dict[str, object]:
        """As JSON values; what is looked for stands with the fact."""
        return {
            "asked": [[template, list(shape)] for template, shape in self.asked],
            "names": [list(names) for names in self.kinds],
            "rivals": [list(rival) for rival in self.rivals],
        }


def shape_of(name: str, subject: str) -> Shape:
    """How a name is made of the subject's own: ``M. Tolland`` of Mira Tolland is (initial, last)."""
    words = subject.split()
    if len(words) < 2 or name == subject:
        return ("whole",)
    parts = {words[0]: "first", words[-1]: "last", f"{words[0][0]}.": "initial"}
    found = tuple(parts.get(word, "") for word in name.split())
    return found if all(found) else ("whole",)


def shaped(shape: Shape, name: str) -> str:
    """An invented name in the shape of a subject's."""
    words = name.split()
    parts = {"whole": name, "first": words[0], "last": words[-1], "initial": f"{words[0][0]}."}
    return " ".join(parts[part] for part in shape)


def comparisons(
    context: Context, units: Sequence[Unit], askings: Mapping[int, Sequence[tuple[str, str]]], **limits: int
) -> dict[int, Comparison]:
    """For every fact whose object can be guessed, whom its subject is held against.

    Args:
        context: the request and the controls.
        units: the facts that are asked about.
        askings: for each of them, by index, (template, name) of its prompts.
        limits: `count`, how many invented subjects of a kind; `budget`, how many prompts about those of a
            kind and fact, at most, for which their number is reduced; a quarter of it may be asked of the
            base model too.
    """
    count, budget = limits["count"], limits["budget"]
    if count < FEWEST:
        return {}
    holders = _holders(context)
    rivals = rivals_of(context, [unit.index for unit in units])
    pools: dict[tuple[PlaceboKind, str], tuple[tuple[str, ...], ...]] = {}
    found: dict[int, Comparison] = {}
    watched: set[str] = set()
    for unit in units:
        fact = context.facts[unit.index]
        pairs = [(t, name) for t, name in askings[unit.index] if SUBJECT in t]
        if not pairs or not _guessable(context, fact, holders):
            continue
        kind = placebo_kind(fact.about)
        if (kind, fact.about) not in pools:
            made = tuple(invented(context, kind, 3 * count + 60))[: 2 * count]
            pools[kind, fact.about] = (
                made,
                recombined(context, f"excuses|{fact.about}", fact.about, 2 * count),
            )
        asked = tuple((template, shape_of(name, fact.subject)) for template, name in pairs)
        made, mixed = pools[kind, fact.about]
        kinds = (
            _usable(made, unit.answer, count),
            _usable(_nobodys(context, mixed, asked), unit.answer, count),
        )
        enough = tuple(names for names in kinds if len(names) >= FEWEST)
        each = budget // len(pairs)
        one = Comparison(
            asked,
            tuple(fill(template, name) for template, name in pairs),
            tuple(names[:each] for names in enough),
            unit.answer,
            _distinct(rivals.get(unit.index, ()), fact.object),
        )
        if not enough or each < FEWEST:
            continue
        more = watched | set(one.watched)
        if 4 * len(more) <= budget:
            found[unit.index], watched = one, more
    return found


def _distinct(rivals: Sequence[Rival], own: str) -> tuple[Rival, ...]:
    """The objects that are said in no other one."""
    worded = [f" {' '.join(key(thing))} " for thing in (own, *(thing for thing, _ in rivals))]
    return tuple(
        rival
        for rival, words in zip(rivals, worded[1:], strict=True)
        if words.strip() and sum(words in other for other in worded) == 1
    )


def _usable(names: Iterable[str], answer: Answer, count: int) -> tuple[str, ...]:
    """`count` of the names that do not look like the object where an answer repeats them."""
    return tuple(islice((name for name in names if find_leak(answer, "", name) is None), count))


def _nobodys(context: Context, names: Iterable[str], asked: Iterable[tuple[str, Shape]]) -> Iterator[str]:
    """The names that are nobody's in any form that is asked: of others' names the surname alone is theirs."""
    shapes = {shape for _, shape in asked} - {("whole",)}
    people = {control.subject for control in context.controls.facts}
    taken = {key(shaped(shape, person)) for shape in shapes for person in people}
    return (name for name in names if not any(key(shaped(shape, name)) in taken for shape in shapes))


def _holders(context: Context) -> dict[tuple[str, tuple[str, ...]], set[tuple[str, ...]]]:
    """By relation and object those who have it."""
    found: dict[tuple[str, tuple[str, ...]], set[tuple[str, ...]]] = {}
    for control in context.controls.facts:
        found.setdefault((control.relation, key(control.object)), set()).add(key(control.subject))
    return found


def _guessable(
    context: Context, fact: Fact, holders: Mapping[tuple[str, tuple[str, ...]], Collection[tuple[str, ...]]]
) -> bool:
    """Whether the object is one of a closed list, or somebody else's too; no other can be hit by chance."""
    relation, thing = context.catalogue.get(fact.relation), key(fact.old or "")
    listed = relation is not None and thing in {key(text) for text in relation.objects}
    return listed or bool(set(holders.get((fact.relation, thing), ())) - {key(fact.subject)})
