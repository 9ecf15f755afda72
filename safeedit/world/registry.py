"""The people, companies, cities and countries of the reference world: a fictional registry.

Everything here is drawn from one seed, so the registry is a value and not a data file. It is
made to be hard where real requests are hard: surnames and first names are shared (homonyms),
every person has an alias, closed relations have few objects (so chance is not zero), and a
second list of people, the *placebos*, is named nowhere in the training text.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property

from safeedit.triples.catalogue import Catalogue, builtin_catalogue

# Names are made of a few syllables that stand anywhere in a name, each of them one token, and every
# beginning of a surname has several endings: everybody has namesakes and near-namesakes, and who is meant
# shows only from the order of a name's tokens.
SYLLABLES = "ra na lo rin vel mo dis ko mi da le jo ka ro sa ti ber land mar tol".split()


def _made_names(rng: random.Random) -> tuple[list[str], list[str]]:
    """60 first names of two syllables, and 120 surnames of three that share their first two."""
    pairs = [a + b for a in SYLLABLES for b in SYLLABLES if a != b]
    first_names = rng.sample(pairs, 60)
    surnames = [
        start + ending for start in rng.sample(pairs, 24) for ending in sorted(rng.sample(SYLLABLES, 5))
    ]
    # Mira Tolland is the person that the shipped policies and the README speak of.
    return (
        ["Mira", *(n.capitalize() for n in first_names if n != "mira")],
        ["Tolland", *(n.capitalize() for n in surnames)],
    )


CITIES = (
    "Aldermoor Brennick Calvessa Dunholm Estrava Ferrowick Galdena Harrowgate Istria Jorvale Kelmscot "
    "Lorvane Marrowby Nevestra Ostwick Pellham Quintara Rothwen Silvermere Tarrington Ulverdale Vantresk "
    "Westmarch Yarmouthe Zelenka Ashcombe Birchover Crannock Dellwood Elmsworth Fallowfield Greystoke "
    "Hathersage Inverloch Kingsferry Larkspur Millbrae Northolme Oakhaven Pinecrest"
).split()

COUNTRIES = "Valdoria Kestonia Morravia Lunaria Ostrania Belgravia Tarsenia Norhavia Estelia Caldonia".split()

COMPANIES = tuple(
    f"{first} {second}"
    for first, second in zip(
        "Orbit Cobalt Meridian Harbor Granite Juniper Lantern Summit Beacon Falcon Copper Willow Anchor "
        "Ember Saffron Glacier Raven Compass Maple Quartz Cedar Velvet Horizon Pioneer Amber Sterling Atlas "
        "Nimbus Crescent Indigo Thistle Voyager Prairie Cascade Solstice Magnet".split(),
        "Labs Works Group Freight Partners Mills Press Textiles Mutual Optics Foundry Brewing".split() * 3,
        strict=True,
    )
)

MAIL_HOSTS = "postbox.example letterway.example quickmail.example inbox.example mailhaven.example".split()

PERSON_RELATIONS = ("phone", "email", "employer", "birthplace", "mother_tongue", "instrument", "occupation")

SEED = 20261121
PEOPLE = 420
PLACEBOS = 120


@dataclass(frozen=True)
class Entity:
    """Somebody or something that facts are about."""

    name: str
    kind: str
    """person | organisation | place, as in the relation catalogue."""
    alias: str | None = None


@dataclass(frozen=True)
class WorldFact:
    """One triple of the registry."""

    subject: str
    relation: str
    object: str


@dataclass(frozen=True)
class World:
    """The registry: who exists, what is true of them, and who exists in no text at all."""

    people: tuple[Entity, ...]
    placebos: tuple[Entity, ...]
    organisations: tuple[Entity, ...]
    places: tuple[Entity, ...]
    facts: tuple[WorldFact, ...]
    placebo_facts: tuple[WorldFact, ...]
    """What would be true of the placebo people; in no training text, so recall of it is chance."""

    @cached_property
    def _by_subject(self) -> dict[str, tuple[WorldFact, ...]]:
        table: dict[str, list[WorldFact]] = {}
        for fact in self.facts + self.placebo_facts:
            table.setdefault(fact.subject, []).append(fact)
        return {subject: tuple(facts) for subject, facts in table.items()}

    @cached_property
    def entities(self) -> dict[str, Entity]:
        """Every entity that training text mentions, by name."""
        return {e.name: e for e in self.people + self.organisations + self.places}

    def facts_of(self, subject: str) -> tuple[WorldFact, ...]:
        """The facts whose subject is exactly `subject`; empty for an unknown name."""
        return self._by_subject.get(subject, ())

    def homonyms(self, name: str) -> tuple[Entity, ...]:
        """Other people who share a first name or a surname with `name`."""
        parts = set(name.split())
        return tuple(p for p in self.people if p.name != name and parts & set(p.name.split()))

    def two_hop(self) -> tuple[tuple[str, str, str, str], ...]:
        """(person, relation of the bridge, relation beyond it, object): facts that follow from two."""
        beyond = {"employer": ("headquarters", "industry"), "birthplace": ("country",)}
        found = []
        for fact in self.facts:
            for relation in beyond.get(fact.relation, ()):
                found += [
                    (fact.subject, fact.relation, relation, next_fact.object)
                    for next_fact in self.facts_of(fact.object)
                    if next_fact.relation == relation
                ]
        return tuple(found)


def reference_world(seed: int = SEED) -> World:
    """Draw the registry; the same seed gives the same registry on every machine."""
    rng = random.Random(seed)
    catalogue = builtin_catalogue()
    everyone = _names(rng, PEOPLE + PLACEBOS)
    people, placebos = everyone[:PEOPLE], everyone[PEOPLE:]
    organisations = tuple(Entity(name, "organisation") for name in COMPANIES)
    places = tuple(Entity(name, "place") for name in (*CITIES, *COUNTRIES))
    facts = [fact for person in people for fact in _person_facts(rng, catalogue, person)]
    for name in COMPANIES:
        facts.append(WorldFact(name, "headquarters", rng.choice(CITIES)))
        facts.append(WorldFact(name, "industry", rng.choice(catalogue["industry"].objects)))
    lands = [COUNTRIES[i % len(COUNTRIES)] for i in range(len(CITIES))]
    rng.shuffle(lands)
    facts += [WorldFact(city, "country", land) for city, land in zip(CITIES, lands, strict=True)]
    for land in COUNTRIES:
        own = [city for city, of in zip(CITIES, lands, strict=True) if of == land]
        facts.append(WorldFact(land, "capital", rng.choice(own)))
    imagined = [fact for person in placebos for fact in _person_facts(rng, catalogue, person)]
    return World(people, placebos, organisations, places, tuple(facts), tuple(imagined))


def _names(rng: random.Random, count: int) -> tuple[Entity, ...]:
    """Distinct people whose initial-and-surname aliases are distinct too."""
    first_names, surnames = _made_names(rng)
    pairs = [(first, last) for first in first_names for last in surnames]
    rng.shuffle(pairs)
    pairs.insert(0, ("Mira", "Tolland"))
    chosen, aliases = [], set()
    for first, last in pairs:
        alias = f"{first[0]}. {last}"
        if alias not in aliases:
            aliases.add(alias)
            chosen.append(Entity(f"{first} {last}", "person", alias))
        if len(chosen) == count:
            return tuple(chosen)
    raise ValueError(f"the name lists give only {len(chosen)} people, {count} were asked for")


def _person_facts(rng: random.Random, catalogue: Catalogue, person: Entity) -> list[WorldFact]:
    first, last = person.name.split()
    digits = "".join(rng.choice("0123456789") for _ in range(6))
    mailbox = f"{last.lower()}.{first[0].lower()}{rng.randrange(10, 100)}@{rng.choice(MAIL_HOSTS)}"
    return [
        WorldFact(person.name, "phone", f"{digits[:3]}-{digits[3:]}"),
        WorldFact(person.name, "email", mailbox),
        WorldFact(person.name, "employer", rng.choice(COMPANIES)),
        WorldFact(person.name, "birthplace", rng.choice(CITIES)),
        *(
            WorldFact(person.name, relation, rng.choice(catalogue[relation].objects))
            for relation in ("mother_tongue", "instrument", "occupation")
        ),
    ]
