"""The facts that a run is about: those that a policy states, and those that were found by asking."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
    for one in resolved:
        if one.fact is not None and not any(_stands_for(fact, one.fact) for fact in facts):
            facts.append(one.fact)
    return tuple(facts)


def _stands_for(fact: Fact, found: Fact) -> bool:
    names = {same(name) for name in (fact.subject, *fact.aliases)}
    if fact.relation != found.relation or same(found.subject) not in names:
        return False
    return fact.op != "erase" or same(fact.object) == same(found.object)
