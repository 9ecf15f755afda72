"""The facts that a run is about: those that a policy states, and those that were found by asking."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from safeedit.policy.resolve import Resolved
from safeedit.policy.rules import same
from safeedit.triples.facts import Fact


def requested_facts(stated: Sequence[Fact], resolved: Iterable[Resolved]) -> tuple[Fact, ...]:
    """The stated facts, then the found ones that none of them stands for.

    A stated erasure stands for a found one of the same object only: what the model really says of a
    person is erased even where the policy states something else. A stated modification or insertion
    says what shall become of the relation and stands for any found one.
    """
    facts = list(stated)
    # By name and relation: there may be thousands of either.
    held = {at for fact in facts for at in _stands_for(fact)}
    for one in resolved:
        found = one.fact
        if found is None:
            continue
        name = same(found.subject)
        if held.isdisjoint(((name, found.relation, None), (name, found.relation, same(found.object)))):
            facts.append(found)
            held.update(_stands_for(found))
    return tuple(facts)


def _stands_for(fact: Fact) -> Iterator[tuple[str, str, str | None]]:
    """Name, relation and object of the found facts that a fact stands for; None for any object."""
    for name in (fact.subject, *fact.aliases):
        yield same(name), fact.relation, same(fact.object) if fact.op == "erase" else None
