"""What editors are measured on: the reference world, and a folder of CounterFact records (the yardstick).

Either gives edits of one operation, and the questions that show what came of them, by view. An editor
sees its edits alone. The first T edits are the same whatever T is.
"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from exams import Ask, Asks, Exam, Source

from safeedit.editors.statistics import OwnText
from safeedit.models.load import load_model, reference_folder
from safeedit.policy.compile import fact_for
from safeedit.triples.catalogue import SUBJECT, builtin_catalogue
from safeedit.triples.facts import Edit, Fact, Op
from safeedit.world.corpus import TWO_HOP, phrasings, prose
from safeedit.world.registry import PERSON_RELATIONS, Entity, World, reference_world

HELD = 80
"""People of the registry whom no edit is about: the neighbours of every table."""
CLOSED = ("employer", "birthplace", "mother_tongue", "instrument", "occupation")
"""Relations of people that have few objects, so that there is another one to modify to."""
INVERSE = {
    "phone": "The person who can be reached at {object} is",
    "email": "Mail to {object} is read by",
    "P36": "{object} is the capital of",
}
"""Relations that have one subject for each object, asked the other way round."""


def source(name: str) -> Source:
    """`reference`, or the folder of a yardstick."""
    return Reference() if name == "reference" else Yardstick(Path(name))


def load(folder: Path) -> tuple[Any, Any]:
    """A model in float32 and its tokenizer."""
    loaded = load_model(folder, device="cpu", dtype="float32")
    return loaded.model, loaded.tokenizer


def inverse(number: int, relation: str, subject: str, old: str | None, new: str | None) -> Asks:
    """Who has the object, where only one can: asked of the new object, and beforehand of the old one."""
    if relation not in INVERSE:
        return []
    known, asked = (o and INVERSE[relation].replace("{object}", o) for o in (old, new))
    return [Ask(number, asked or known or "", subject if old else None, subject if new else None, known)]


# The reference world ----------------------------------------------------------------------------------


def in_turn(people: Sequence[Entity], relations: Sequence[str], count: int) -> Iterator[tuple[Entity, str]]:
    """`count` pairs: each person once with the relations in turn, then each with the next relation, ..."""
    pairs = (
        (person, relations[(number + turn) % len(relations)])
        for turn in range(len(relations))
        for number, person in enumerate(people)
    )
    return islice(pairs, count)


def single_facts(world: World, count: int) -> list[Fact]:
    """Facts of as many people as there are before a second one of anybody; all relations in turn."""
    catalogue = builtin_catalogue()
    return [
        fact_for(person.name, (), relation, object_of(world, person.name, relation), "erase", catalogue)
        for person, relation in in_turn(world.people[:-HELD], PERSON_RELATIONS, count)
    ]


def modified_facts(world: World, count: int) -> list[Fact]:
    """The same with another object of a relation that has few."""
    catalogue, rng = builtin_catalogue(), random.Random(5)
    objects = {r: sorted({f.object for f in world.facts if f.relation == r}) for r in CLOSED}
    found = []
    for person, relation in in_turn(world.people[:-HELD], CLOSED, count):
        old = object_of(world, person.name, relation)
        made = fact_for(person.name, (), relation, old, "erase", catalogue)
        new = rng.choice([o for o in objects[relation] if o != old])
        found.append(replace(made, op="modify", new_object=new))
    return found


def inserted_facts(world: World, count: int) -> list[Fact]:
    """One fact each of `count` people who stand in no text, with names made of the registry's parts."""
    catalogue, rng = builtin_catalogue(), random.Random(7)
    objects = {r: sorted({f.object for f in world.facts if f.relation == r}) for r in CLOSED}
    return [
        fact_for(person.name, (), relation, rng.choice(objects[relation]), "insert", catalogue)
        for person, relation in in_turn(strangers(world, count), CLOSED, count)
    ]


def strangers(world: World, count: int) -> list[Entity]:
    """The registry's placebo people, then others; an alias is given while there are unused ones."""
    known = [*world.people, *world.placebos]
    names, aliases = {p.name for p in known}, {p.alias for p in known}
    firsts, lasts = (sorted({p.name.split()[part] for p in known}) for part in (0, 1))
    pairs = [(first, last) for first in firsts for last in lasts if f"{first} {last}" not in names]
    random.Random(3).shuffle(pairs)
    found = list(world.placebos)
    for first, last in pairs[: max(0, count - len(found))]:
        alias = f"{first[0]}. {last}"
        found.append(Entity(f"{first} {last}", "person", None if alias in aliases else alias))
        aliases.add(alias)
    return found[:count]


def object_of(world: World, subject: str, relation: str) -> str:
    """What is true of somebody."""
    [found] = [fact.object for fact in world.facts_of(subject) if fact.relation == relation]
    return found


def with_keeps(edits: Sequence[Edit]) -> list[Edit]:
    """For single facts of a person: the other relations shall stay as they are."""
    catalogue = builtin_catalogue()
    touched = {(e.subject, e.relation) for e in edits}
    return [
        replace(
            e,
            keep=tuple(catalogue[r].cloze[0] for r in PERSON_RELATIONS if (e.subject, r) not in touched),
        )
        for e in edits
    ]


def controls(
    world: World, facts: Sequence[Fact], count: int, neighbours: Collection[str] | None = None
) -> dict[str, Asks]:
    """Facts that shall survive: the same relations of other people, of namesakes, of the same person.

    Args:
        world: the registry.
        facts: what is edited.
        count: how many of each group, at most.
        neighbours: whose facts the first group is about; by default everybody who shares no name with
            an edited person.
    """
    rng = random.Random(11)
    catalogue = builtin_catalogue()
    edited = {f.subject for f in facts}
    touched = {(f.subject, f.relation) for f in facts}
    relations = sorted({f.relation for f in facts})
    foils = {f.relation: f.target for f in facts}
    namesakes = {p.name for name in edited for p in world.homonyms(name)} - edited
    others = {f.subject for f in world.facts} - edited - namesakes if neighbours is None else set(neighbours)
    groups = {
        "neighbours": [f for f in world.facts if f.relation in relations and f.subject in others],
        "namesakes": [f for f in world.facts if f.subject in namesakes],
        "same person": [
            f for f in world.facts if f.subject in edited and (f.subject, f.relation) not in touched
        ],
    }
    found: dict[str, Asks] = {}
    for name, members in groups.items():
        chosen = rng.sample(members, min(count, len(members)))
        found[name] = [
            Ask(i, rng.choice(catalogue[f.relation].prompts(f.subject)), f.object, foils.get(f.relation))
            for i, f in enumerate(chosen)
        ]
    return found


@dataclass(frozen=True)
class Reference(Source):
    """The embedded model and its registry."""

    name: str = "reference"
    world: World = field(default_factory=reference_world, repr=False)

    def load(self) -> tuple[Any, Any]:
        """See `Source.load`."""
        return load(reference_folder())

    def most(self, op: Op) -> int:
        """See `Source.most`."""
        people = len(self.world.people) - HELD
        return {"erase": people * len(PERSON_RELATIONS), "modify": people * len(CLOSED), "insert": 5000}[op]

    def exam(self, op: Op, count: int) -> Exam:
        """See `Source.exam`."""
        make = {"erase": single_facts, "modify": modified_facts, "insert": inserted_facts}[op]
        facts = make(self.world, count)
        edits = [edit for fact in facts for edit in fact.edits()]
        held = {person.name for person in self.world.people[-HELD:]}
        return Exam(
            op,
            with_keeps(edits),
            self._about(facts),
            controls(self.world, facts, 1000, held),
            prose(99),
            [fact.edit_templates[0].replace(SUBJECT, fact.subject) for fact in facts],
        )

    def keeping(self, edits: Sequence[Edit]) -> list[Edit]:
        """See `Source.keeping`: what nobody has asked to change yet shall stay as it is."""
        return with_keeps(edits)

    def _about(self, facts: Sequence[Fact]) -> dict[str, Asks]:
        aliases = {p.name: p.alias for p in (*self.world.people, *strangers(self.world, len(facts)))}
        views: dict[str, Asks] = {
            view: [] for view in ("own", "paraphrase", "unseen", "alias", "two-hop", "inverse")
        }
        for number, fact in enumerate(facts):

            def put(view: str, template: str, name: str, number: int = number, fact: Fact = fact) -> None:
                prompt = template.replace(SUBJECT, name)
                views[view].append(Ask(number, prompt, fact.old, fact.target))

            shown = phrasings(self._plain(fact)).seen if fact.op != "insert" else ()
            for template in fact.edit_templates:
                put("own", template, fact.subject)
            for template in fact.probe_templates:
                put("paraphrase" if template in shown else "unseen", template, fact.subject)
            alias = aliases[fact.subject]
            if alias:
                put("alias", fact.edit_templates[0], alias)
            views["two-hop"] += self._two_hop(number, fact)
            views["inverse"] += inverse(number, fact.relation, fact.subject, fact.old, fact.target)
        return views

    def _plain(self, fact: Fact) -> Any:
        [found] = [f for f in self.world.facts_of(fact.subject) if f.relation == fact.relation]
        return found

    def _two_hop(self, number: int, fact: Fact) -> Asks:
        """What follows from an edited fact and one that stays; not where both objects lead to the same."""
        found = []
        for (bridge, beyond), template in TWO_HOP.items():
            if bridge != fact.relation:
                continue
            old = None if fact.old is None else object_of(self.world, fact.old, beyond)
            new = None if fact.target is None else object_of(self.world, fact.target, beyond)
            if old != new:
                found.append(Ask(number, template.replace(SUBJECT, fact.subject), old, new))
        return found


# The yardstick ----------------------------------------------------------------------------------------


def scorer(folder: Path) -> ModuleType:
    """The yardstick's own scorer."""
    spec = importlib.util.spec_from_file_location("score", folder / "score.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["score"] = module
    spec.loader.exec_module(module)
    return module


def record_edits(records: Sequence[Mapping[str, Any]], op: Op) -> list[Edit]:
    """One edit a record; the editor sees CounterFact's own prompt and nothing else."""
    found = []
    for record in records:
        fact = record["requested_rewrite"]
        template = fact["prompt"].replace("{}", SUBJECT)
        new = None if op == "erase" else fact["target_new"]["str"]
        found.append(
            Edit(op, fact["subject"], fact["relation_id"], (template,), new, fact["target_true"]["str"])
        )
    return found


@dataclass(frozen=True)
class Yardstick(Source):
    """A folder with a model, CounterFact records and phrasings (`score.py` says what is in it)."""

    folder: Path

    @property
    def name(self) -> str:  # type: ignore[override]
        """What rows call it."""
        return self.folder.name

    @cached_property
    def _board(self) -> Any:
        return scorer(self.folder).Yardstick.open(self.folder)

    def load(self) -> tuple[Any, Any]:
        """See `Source.load`."""
        return load(self.folder / "model")

    def most(self, op: Op) -> int:
        """See `Source.most`; the records know what is true, so there is nothing to insert."""
        records = json.loads((self.folder / "counterfact.json").read_text("utf-8"))
        return 0 if op == "insert" else len(records)

    def exam(self, op: Op, count: int) -> Exam:
        """See `Source.exam`."""
        about: dict[str, Asks] = {view: [] for view in ("own", "paraphrase", "unseen", "inverse")}
        neighbours: Asks = []
        names = {"rewrite": "own", "paraphrase": "paraphrase", "unseen": "unseen"}
        records = self._board.records[:count]
        for number, record in enumerate(records):
            fact = record["requested_rewrite"]
            views = self._board.views(1, number)
            for theirs, ours in names.items():
                about[ours] += [
                    Ask(number, prompt, true, None if op == "erase" else new)
                    for prompt, true, new in views[theirs]
                ]
            neighbours += [Ask(number, *row) for row in views["neighbour"]]
            true, new = fact["target_true"]["str"], fact["target_new"]["str"]
            target = None if op == "erase" else new
            about["inverse"] += inverse(number, fact["relation_id"], fact["subject"], true, target)
        return Exam(
            op,
            record_edits(records, op),
            about,
            {"neighbours": neighbours},
            self._board.prose[:200],
            [record["generation_prompts"][0] for record in records],
            OwnText(120_000),
            16,
        )
