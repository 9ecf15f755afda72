"""A small town whose people a scripted model knows by heart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from safeedit.probes.controls import ControlFact, Controls
from safeedit.triples.catalogue import builtin_catalogue
from safeedit.triples.facts import Fact, Op

FIRST = ("Ada", "Brigid", "Cyril", "Dinah", "Edgar", "Flavia", "Gideon", "Harriet", "Ingrid", "Jasper")
LAST = ("Moss", "Penhale", "Quill", "Rowan", "Sexton", "Tredway", "Umber", "Varley", "Wick", "Yeo")
EMPLOYERS = ("Tin Lantern", "Salt Harbour", "Grey Anvil", "Copper Bell")
RELATIONS = ("mother_tongue", "instrument", "employer", "phone")
NOTHING = "nobody in particular, as far as anybody knows."

Say = Callable[[str], str]


@dataclass
class Town:
    """Who exists and what is true of them."""

    facts: dict[tuple[str, str], str] = field(default_factory=dict)

    def fact(self, name: str, relation: str, op: Op = "erase", **more: Any) -> Fact:
        clozes = builtin_catalogue()[relation].prompts("{subject}")
        first, last = name.split()
        given: dict[str, Any] = {
            "object": self.facts.get((name, relation), "unheard of"),
            "aliases": (f"{first[0]}. {last}",),
            "edit_templates": clozes[:4],
            "probe_templates": clozes[4:],
            **more,
        }
        return Fact(op, name, relation, **given)

    def controls(self) -> Controls:
        rows = [ControlFact(name, relation, thing) for (name, relation), thing in self.facts.items()]
        return Controls(tuple(rows), ("The rain came at noon and stayed.", "A dog slept by the door."))


class Scripted:
    """A model that answers each prompt from memory, and says nothing of what it does not know."""

    def __init__(self, memory: Mapping[tuple[str, str], str], *, aliases: bool = True) -> None:
        catalogue = builtin_catalogue()
        self.book: dict[str, str] = {}
        for (name, relation), thing in memory.items():
            first, last = name.split()
            for called in (f"{first[0]}. {last}", name) if aliases else (name,):
                for prompt in catalogue[relation].prompts(called):
                    self.book[prompt] = f" {thing}."

    def __call__(self, prompt: str) -> str:
        return self.book.get(prompt, f" {NOTHING}")

    def without(self, fact: Fact, keep: Callable[[str], bool] = lambda prompt: False) -> Scripted:
        """The same model, but it no longer answers prompts about the fact, unless `keep` says so."""
        asked = builtin_catalogue()[fact.relation]
        gone = {p for name in (fact.subject, *fact.aliases) for p in asked.prompts(name)}
        other = Scripted({})
        other.book = {p: text for p, text in self.book.items() if p not in gone or keep(p)}
        return other

    def with_answer(self, prompts: Sequence[str], text: str) -> Scripted:
        other = Scripted({})
        other.book = {**self.book, **dict.fromkeys(prompts, text)}
        return other
