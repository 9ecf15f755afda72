"""The registry and its text: drawn from a seed, and silent about what it must not say."""

import random
from collections import Counter

import pytest

from safeedit.triples.catalogue import builtin_catalogue
from safeedit.world.corpus import documents, phrasings, prose, trains_two_hop
from safeedit.world.registry import PERSON_RELATIONS, reference_world

WORLD = reference_world()
DOCUMENTS = list(documents(WORLD, random.Random(3)))
TEXT = "\n".join(DOCUMENTS)


def test_same_seed_same_world():
    assert reference_world() == WORLD
    assert reference_world(1).facts != WORLD.facts


def test_size():
    assert len(WORLD.people) >= 400
    assert all(len(WORLD.facts_of(p.name)) == len(PERSON_RELATIONS) for p in WORLD.people)


def test_names_are_shared_and_aliases_are_not():
    everyone = WORLD.people + WORLD.placebos
    assert len({p.name for p in everyone}) == len({p.alias for p in everyone}) == len(everyone)
    surnames = Counter(p.name.split()[1] for p in WORLD.people)
    assert sum(n > 1 for n in surnames.values()) > len(surnames) / 2
    assert all(WORLD.homonyms(p.name) for p in WORLD.people)


def test_placebo_people_are_named_nowhere():
    assert not [p for p in WORLD.placebos if p.name in TEXT or str(p.alias) in TEXT]


def test_every_fact_stands_once_in_a_pass_and_only_in_phrasings_that_training_may_show():
    for fact in WORLD.facts[::37]:
        alias = WORLD.entities[fact.subject].alias
        split = phrasings(fact)
        assert split.seen
        assert split.unseen
        assert not set(split.seen) & set(split.unseen)
        names = [name for name in (fact.subject, alias) if name]
        said = [f"{t.replace('{subject}', n)} {fact.object}." for t in split.seen for n in names]
        never = [f"{t.replace('{subject}', n)}" for t in split.unseen for n in names]
        assert sum(TEXT.count(sentence) for sentence in said) >= 1
        assert not any(f"{prompt} {fact.object}" in TEXT for prompt in never)


def test_held_out_prose_is_not_in_the_training_text_and_names_nobody():
    texts = prose(99)
    assert not set(texts) & set(DOCUMENTS)
    assert not any(p.name in text for text in texts for p in WORLD.people)


def test_two_hop_facts_follow_from_two_facts():
    hops = WORLD.two_hop()
    assert len(hops) > 1000
    person, bridge, beyond, answer = hops[0]
    [middle] = [f.object for f in WORLD.facts_of(person) if f.relation == bridge]
    assert [f.object for f in WORLD.facts_of(middle) if f.relation == beyond] == [answer]
    share = sum(trains_two_hop(p.name) for p in WORLD.people) / len(WORLD.people)
    assert 0.4 < share < 0.6


def test_an_impossible_world_is_refused():
    from safeedit.world import registry

    with pytest.raises(ValueError, match="only"):
        registry._names(random.Random(0), 100_000)


def test_every_relation_of_the_catalogue_has_phrasings_for_both_sides():
    for name, relation in builtin_catalogue().items():
        assert len(relation.prompts("x")) >= 5, name
