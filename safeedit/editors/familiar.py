"""Facts that a model may know, to ask it where it looks facts up when the edits themselves cannot tell.

Common knowledge, and people of the embedded reference world. Which of them a model knows is seen by asking
(`site`); nothing is taken for known, and nothing of it is edited.
"""

from __future__ import annotations

import json
import random
from functools import cache
from importlib.resources import files

from safeedit.triples.catalogue import builtin_catalogue
from safeedit.triples.facts import Edit

EACH = 64
"""Facts of either kind."""
SEED = 977


@cache
def familiar_facts() -> tuple[Edit, ...]:
    """The facts, as they would be erased."""
    from safeedit.world.registry import reference_world

    catalogue, rng = builtin_catalogue(), random.Random(SEED)
    shipped = (files("safeedit_probes") / "prompts" / "common_facts.jsonl").read_text("utf-8")
    common = [json.loads(line) for line in shipped.splitlines() if line.strip()]
    world = reference_world()
    people = [vars(fact) for person in world.people for fact in world.facts_of(person.name)]
    found = []
    for facts in (common, people):
        usable = [fact for fact in facts if fact["relation"] in catalogue]
        for fact in rng.sample(usable, min(EACH, len(usable))):
            subject, relation, entry = fact["subject"], fact["relation"], catalogue[fact["relation"]]
            found.append(
                Edit("erase", subject, relation, tuple(entry.cloze), None, fact["object"], about=entry.about)
            )
    return tuple(found)
