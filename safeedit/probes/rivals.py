"""What else could be said: other objects of a fact's relation, and the answer as it is for another name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from safeedit.probes.asking import old_answer
from safeedit.probes.base import Context
from safeedit.probes.controls import ControlFact
from safeedit.probes.fold import key
from safeedit.probes.match import Answer
from safeedit.triples.derived import adapted
from safeedit.triples.facts import Fact

POOL = 24
"""Other answers that chance is taken from, at most."""
Rival = tuple[str, str]
"""An object that could be guessed, and whose it is (nobody's: "")."""


def answer_for(context: Context, fact: Fact, name: str, also: tuple[str, ...] = ()) -> Answer:
    """What is looked for when `name` is asked about: the old object, its name exchanged where it holds one.

    Args:
        context: the request and the controls.
        fact: the fact.
        name: its subject's, or an invented one.
        also: further spellings of the object.
    """
    answer = old_answer(context, replace(fact, object_aliases=(*fact.object_aliases, *also)))
    if name == fact.subject:
        return answer
    spellings = tuple(adapted(spelling, fact.subject, name) for spelling in answer.spellings)
    return replace(answer, spellings=spellings, names=(*answer.names, name))


def rivals_of(context: Context, facts: Iterable[int]) -> dict[int, tuple[Rival, ...]]:
    """For each fact whose object can be guessed: the relation's other objects.

    It can be if the relation's list is closed, if others have the same, or if it repeats a part of the name.
    """
    by_relation: dict[str, list[tuple[ControlFact, tuple[str, ...], tuple[str, ...]]]] = {}
    for control in context.controls.facts:
        row = (control, key(control.subject), key(control.object))
        by_relation.setdefault(control.relation, []).append(row)
    found = {}
    for index in facts:
        fact = context.facts[index]
        relation = context.catalogue.get(fact.relation)
        closed = tuple(relation.objects) if relation is not None else ()
        own, subject = key(fact.object), key(fact.subject)
        others = [row for row in by_relation.get(fact.relation, ()) if row[1] != subject]
        named = adapted(fact.object, fact.subject, "X Y") != fact.object
        if not closed and not named and not any(thing == own for _, _, thing in others):
            continue
        spelt = {key(spelling) for spelling in (fact.object, *fact.object_aliases)}
        owners = {thing: "" for thing in closed if key(thing) not in spelt}
        for control, _, thing in others:
            if thing and thing not in spelt:
                owners[control.object] = control.subject if named else ""
        pool = sorted(owners.items())
        if len(pool) > POOL:
            pool = context.rng(f"rivals|{fact.relation}").sample(pool, POOL)
        found[index] = tuple(pool)
    return found
