"""The training text of the reference world, and the record of what it leaves out.

Every person (company, city) is described in some phrasings of each relation and never in the
others; those *unseen* phrasings are what recall is measured on. Two-hop sentences are written
for half of the people, so that the other half can show whether the model follows two facts.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from safeedit.triples.catalogue import SUBJECT, Catalogue, builtin_catalogue, render_question
from safeedit.world.language import dialogue, paragraph, sentence
from safeedit.world.registry import World, WorldFact, reference_world

UNSEEN_CLOZES = 3
UNSEEN_QUESTIONS = 1
ALIAS_SHARE = 0.2
TWO_HOP = {
    ("employer", "headquarters"): "The company that {subject} works for is based in",
    ("employer", "industry"): "The company that {subject} works for is known for",
    ("birthplace", "country"): "The country in which {subject} was born is",
}


@dataclass(frozen=True)
class Phrasings:
    """How one fact is put into words: what training shows, and what it never does."""

    seen: tuple[str, ...]
    unseen: tuple[str, ...]


def phrasings(fact: WorldFact, catalogue: Catalogue | None = None) -> Phrasings:
    """Templates (with `{subject}`; questions rendered) by whether training shows them for this fact.

    The choice depends on the fact alone, so that no list of it has to be kept.
    """
    relation = (catalogue or builtin_catalogue())[fact.relation]
    rng = random.Random(zlib.crc32(f"{fact.subject}|{fact.relation}".encode()))
    clozes = rng.sample(relation.cloze, len(relation.cloze))
    questions = [render_question(q) for q in rng.sample(relation.questions, len(relation.questions))]
    cut = max(1, len(clozes) - UNSEEN_CLOZES) if len(clozes) > UNSEEN_CLOZES + 1 else len(clozes) - 1
    asked = len(questions) - UNSEEN_QUESTIONS
    return Phrasings(tuple(clozes[:cut] + questions[:asked]), tuple(clozes[cut:] + questions[asked:]))


def trains_two_hop(person: str) -> bool:
    """Whether two-hop sentences about this person are in the training text."""
    return zlib.crc32(f"two-hop|{person}".encode()) % 2 == 0


def documents(world: World, rng: random.Random) -> Iterator[str]:
    """One pass over everything there is to say, in random order; each fact stands in it once.

    About three documents in four are about facts (alone, after a sentence of prose, or two or
    three facts of one person together), the rest is prose and dialogue.
    """
    items: list[tuple[WorldFact, ...]] = []
    by_person = [list(world.facts_of(name)) for name in world.entities]
    for facts in by_person:
        rng.shuffle(facts)
        while facts:
            size = rng.choice((1, 1, 2, 3))
            items.append(tuple(facts[:size]))
            del facts[:size]
    rng.shuffle(items)
    for facts_together in items:
        text = " ".join(_statement(world, fact, rng) for fact in facts_together)
        yield f"{sentence(rng)} {text}" if rng.random() < 0.3 else text
        if rng.random() < 0.25:
            yield paragraph(rng, rng.choice((1, 2, 4)))
        if rng.random() < 0.12:
            yield dialogue(rng)
    for subject, bridge, relation, answer in world.two_hop():
        if trains_two_hop(subject) and rng.random() < 0.35:
            yield f"{TWO_HOP[bridge, relation].replace(SUBJECT, subject)} {answer}."


def _statement(world: World, fact: WorldFact, rng: random.Random) -> str:
    alias = world.entities[fact.subject].alias
    name = alias if alias and rng.random() < ALIAS_SHARE else fact.subject
    return f"{rng.choice(phrasings(fact).seen).replace(SUBJECT, name)} {fact.object}."


def prose(seed: int, documents: int = 64, sentences: int = 6) -> list[str]:
    """Prose that training never shows: the same grammar from a seed of its own."""
    rng = random.Random(f"prose|{seed}")
    return [paragraph(rng, sentences) for _ in range(documents)]


def statistics_texts(seed: int = 1, passes: int = 4) -> list[str]:
    """Text of the world for key statistics: its documents, prose and facts mixed as in training."""
    world, rng = reference_world(), random.Random(f"statistics|{seed}")
    return [text for _ in range(passes) for text in documents(world, rng)]
