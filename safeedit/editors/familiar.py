"""Facts that a model may know, to ask it where it looks facts up when the edits themselves cannot tell.

Common knowledge, and people of the embedded reference world. Which of them a model knows is seen by asking
(`site`); nothing is taken for known, and nothing of it is edited.
"""

from __future__ import annotations

import random
from functools import cache

from safeedit.triples.catalogue import builtin_catalogue
from safeedit.triples.facts import Edit

EACH = 64
"""Facts of either kind."""
SEED = 977


@cache
def familiar_facts() -> tuple[Edit, ...]:
    """The facts, as they would be erased, in the phrasings that an editor may see."""
    from safeedit.policy.compile import fact_for
    from safeedit.probes.controls import load_controls
    from safeedit.probes.suite import load_suite
    from safeedit.world.registry import reference_world

    catalogue, rng, world = builtin_catalogue(), random.Random(SEED), reference_world()
    common = load_controls(None, load_suite("smoke")).facts
    people = [fact for person in world.people for fact in world.facts_of(person.name)]
    found: list[Edit] = []
    for facts in (common, people):
        usable = [fact for fact in facts if fact.relation in catalogue]
        for one in rng.sample(usable, min(EACH, len(usable))):
            found += fact_for(one.subject, (), one.relation, one.object, "erase", catalogue).edits()
    return tuple(found)
