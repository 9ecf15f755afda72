"""Which facts of earlier requests still hold: what must stay gone, and what must still be said.

A later request wins over an earlier one where both are about the same relation of the same name. What was
taught is then no longer asked for. What was erased stays erased, whatever else is taught there: an
old address does not come back into its own by a new one. Only where a later request states that very
object, or erases it once more (and is asked about it then), is it left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from safeedit.probes.asking import old_answer
from safeedit.probes.base import Context
from safeedit.probes.fold import key
from safeedit.probes.match import find_leak
from safeedit.triples.catalogue import Catalogue
from safeedit.triples.facts import Fact


def to_stay_gone(context: Context) -> tuple[Fact, ...]:
    """The facts of earlier requests whose old object must not be said; each object once.

    Where something else was taught since, the fact holds it as its new object, which may be said.
    """
    found = []
    for fact, later in _history(context):
        if fact.old is None or any(_settled_by(context, fact, other) for other in later):
            continue
        taught = [other.target for other in later if other.target is not None]
        found.append(replace(fact, op="modify", new_object=taught[-1]) if taught else fact)
    return tuple(found)


def to_be_said(context: Context) -> tuple[Fact, ...]:
    """The facts of earlier requests whose new object must still be said."""
    return tuple(fact for fact, later in _history(context) if fact.target is not None and not later)


def some_of(context: Context, facts: tuple[Fact, ...], label: str, most: int) -> tuple[Fact, ...]:
    """All of the facts, or a random sample of `most` where they are more, in their order."""
    if len(facts) <= most:
        return facts
    return tuple(facts[i] for i in sorted(context.rng(label).sample(range(len(facts)), most)))


def about(context: Context, facts: tuple[Fact, ...]) -> Context:
    """A context in which `facts` of earlier requests are the request, with the relations of then.

    The subjects of the request itself stand behind them with nothing to be asked, so that nobody
    who is invented is called like them.
    """
    present = tuple(replace(fact, op="insert", new_object=None) for fact in context.facts)
    known = Catalogue(context.earlier.relations).with_overrides(dict(context.catalogue))
    return replace(context, facts=(*facts, *present), catalogue=known)


def _history(context: Context) -> Iterator[tuple[Fact, list[Fact]]]:
    """Every fact of every earlier request, and the later ones about the same, the newest last."""
    requests = (*context.earlier.requests, context.facts)
    newest = len(requests) - 1
    at: dict[tuple[tuple[str, ...], str], list[tuple[int, Fact]]] = {}
    for order, facts in enumerate(requests):
        for fact in facts:
            for place in _places(fact):
                at.setdefault(place, []).append((order, fact))
    for order, facts in enumerate(requests[:newest]):
        for fact in facts:
            same = [entry for place in _places(fact) for entry in at[place] if entry[0] > order]
            yield fact, [other for _, other in sorted(same, key=lambda entry: entry[0])]


def _places(fact: Fact) -> set[tuple[tuple[str, ...], str]]:
    return {(key(name), fact.relation) for name in (fact.subject, *fact.aliases)}


def _settled_by(context: Context, fact: Fact, later: Fact) -> bool:
    """Whether a later fact states, or takes out, what would be counted as the old object of `fact`."""
    answer = old_answer(context, fact)
    stated = (later.target, later.old, *later.object_aliases)
    return any(find_leak(answer, "", f" {text}") is not None for text in stated if text)
