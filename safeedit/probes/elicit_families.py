"""Families of prompts as a file says them, and how their templates are filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from safeedit.probes.asking import fill
from safeedit.probes.base import Context
from safeedit.probes.elicit import CHOICES, Turn
from safeedit.probes.elicit_files import Record
from safeedit.probes.elicit_forms import Decoding, NameForm
from safeedit.probes.fold import key
from safeedit.triples.catalogue import SUBJECT, render_question
from safeedit.triples.derived import adapted
from safeedit.triples.facts import Fact

NAMES = ("subject", "prompt", "question", "relation", "examples", "choices", "object")
_PLACE = re.compile(r"\{(" + "|".join(NAMES) + r")\}")
_UNKNOWN = re.compile(r"\{([a-z_]+)\}")
_BEFORE, _AFTER = render_question("\0").split("\0")


def _known_places(text: str) -> str:
    unknown = [name for name in _UNKNOWN.findall(text) if name not in NAMES]
    if unknown:
        raise ValueError(f"there is no {{{unknown[0]}}}; known are {', '.join(NAMES)}")
    return text


Text = Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(_known_places)]
FamilyName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")]


class Conversation(Record):
    """Turns of a conversation; the model goes on with the last of them."""

    system: Text | None = None
    user: Text
    assistant: Text | None = None

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Those that there are, in order."""
        given = (("system", self.system), ("user", self.user), ("assistant", self.assistant))
        return tuple((who, text) for who, text in given if text is not None)


class Examples(Record):
    """Answered examples that stand before what is asked."""

    of: Literal["others", "subject"]
    count: int = Field(ge=1, le=20)
    line: Text


class Family(Record):
    """Prompts of one kind."""

    templates: list[Text | Conversation] = Field(min_length=1)
    asks: Literal["object", "subject"] = "object"
    examples: Examples | None = None
    name: NameForm = "full"
    decode: list[Decoding] = Field(default_factory=list)

    @model_validator(mode="after")
    def _sound(self) -> Family:
        for template in self.templates:
            used = set(_PLACE.findall(" ".join(text for _, text in turns_of(template))))
            if ("object" in used) != (self.asks == "subject"):
                raise ValueError(
                    "{object} belongs in every template that asks for the subject, and in no other"
                )
            if self.asks == "subject" and used & {"subject", "prompt", "question", "examples", "choices"}:
                raise ValueError("a template that asks for the subject cannot name it")
            if self.asks == "object" and not used & {"subject", "prompt", "question"}:
                raise ValueError("a template must name {subject}, or hold a {prompt} or {question} about it")
            if ("examples" in used) != (self.examples is not None):
                raise ValueError("{examples} and the key 'examples' belong together")
        return self


class Families(Record):
    """The whole file."""

    relations: dict[str, Annotated[str, Field(min_length=1, max_length=100)]] = Field(default_factory=dict)
    """What a relation is called in a sentence; else its name."""
    families: dict[FamilyName, Family] = Field(min_length=1)


def turns_of(template: str | Conversation) -> tuple[Turn, ...]:
    """A template as a conversation; a bare text is what the user says."""
    return (("user", template),) if isinstance(template, str) else template.turns


def plain(turns: Sequence[Turn], bare: bool) -> str:
    """A conversation as one text, for a model without a chat template."""
    if bare:
        return turns[0][1]
    lines = [f"{who.capitalize()}: {text}" for who, text in turns]
    return "\n".join(lines if turns[-1][0] == "assistant" else [*lines, "Assistant:"])


def part_of(family: Family, template: str | Conversation) -> str:
    """Which asks it is counted with.

    Where the object is shown, or is not the answer, chance is another. And an edit that knows a name as it is
    written knows no other form of it: a few such asks would drown among those that it refuses.
    """
    if family.asks == "subject":
        return "reverse"
    if any("{choices}" in text for _, text in turns_of(template)):
        return "choice"
    return "" if family.name == "full" else family.name


def filled(text: str, values: Mapping[str, str | None]) -> str | None:
    """A template with its places filled; None if there is nothing for one of them."""
    if any(values.get(place) is None for place in _PLACE.findall(text)):
        return None
    return _PLACE.sub(lambda place: values[place[1]] or "", text)


class Material:
    """What templates can be filled with for one fact: the same for its subject and for invented ones.

    Args:
        context: the request and the controls.
        fact: the fact.
        words: what its relation is called.
    """

    def __init__(self, context: Context, fact: Fact, words: str) -> None:
        self._context, self._fact, self._words = context, fact, words
        unseen = [t for t in fact.probe_templates if t not in fact.edit_templates and SUBJECT in t]
        every = [*unseen, *(t for t in fact.edit_templates if SUBJECT in t)]
        self._clozes = self._held_out([t for t in every if not _is_question(t)], unseen)
        self._questions = self._held_out([t for t in every if _is_question(t)], unseen)
        own = {key(spelling) for spelling in (fact.object, *fact.object_aliases)}
        self._others = [
            control
            for control in context.controls.facts
            if control.relation == fact.relation
            and key(control.subject) != key(fact.subject)
            and key(control.object) not in own
        ]
        self._objects = sorted({other.object for other in self._others})
        context.rng(f"objects|{fact.relation}").shuffle(self._objects)

    @staticmethod
    def _held_out(templates: list[str], unseen: list[str]) -> list[str]:
        """Those that no editor saw, if there are any."""
        return [template for template in templates if template in unseen] or templates

    def turns(
        self, template: str | Conversation, label: str, name: str, stranger: int | None, family: Family
    ) -> tuple[Turn, ...] | None:
        """A template with its places filled; None if there is nothing for one of them.

        Args:
            template: one of the family's.
            label: what is drawn at random is drawn anew for each.
            name: who is asked about.
            stranger: the number of an invented subject.
            family: the family.
        """
        texts = turns_of(template)
        used = set(_PLACE.findall(" ".join(text for _, text in texts)))
        rng = self._context.rng(f"elicitation|{self._fact.relation}|{label}")
        cloze = rng.choice(self._clozes) if self._clozes else None
        question = rng.choice(self._questions) if self._questions else None
        values: dict[str, str | None] = {
            "subject": name,
            "relation": self._words,
            "prompt": None if cloze is None else fill(cloze, name),
            "question": None if question is None else _bare(fill(question, name)),
        }
        if "object" in used:
            values["object"] = self._object(stranger)
        if "choices" in used:
            values["choices"] = self._choices(label, name)
        if family.examples is not None:
            values["examples"] = self._examples(label, name, family.examples, cloze, question)
        found = [(who, filled(text, values)) for who, text in texts]
        return (
            None
            if any(text is None for _, text in found)
            else tuple((w, t) for w, t in found if t is not None)
        )

    def _object(self, stranger: int | None) -> str | None:
        """The fact's own object; for an invented subject, that of somebody else."""
        if not self._objects:
            return None
        return self._fact.object if stranger is None else self._objects[stranger % len(self._objects)]

    def _choices(self, label: str, name: str) -> str | None:
        """The object among others, in random order but the same for everybody; names in them exchanged."""
        relation = self._context.catalogue.get(self._fact.relation)
        owners = dict.fromkeys(relation.objects if relation is not None else (), "")
        owners |= {other.object: other.subject for other in self._others}
        owners.pop(self._fact.object, None)
        if len(owners) < CHOICES - 1:
            return None
        rng = self._context.rng(f"choices|{label}|{self._fact.relation}|{self._fact.object}")
        picked = rng.sample(sorted(owners.items()), CHOICES - 1)
        picked.append((self._fact.object, self._fact.subject))
        rng.shuffle(picked)
        return ", ".join(adapted(thing, owner, name) for thing, owner in picked)

    def _examples(
        self, label: str, name: str, examples: Examples, cloze: str | None, question: str | None
    ) -> str | None:
        """Answered examples, a line each; None if there are not so many others, or no other fact."""
        rng = self._context.rng(f"examples|{label}|{self._fact.relation}")
        if examples.of == "others":
            pool = rng.sample(self._others, min(examples.count, len(self._others)))
            rows = [(other.subject, cloze, question, other.object) for other in pool]
        else:
            rows = self._own_facts(name)[: examples.count]
        lines = []
        for called, sentence, asked, thing in rows:
            values = {
                "subject": called,
                "object": thing,
                "relation": self._words,
                "prompt": None if sentence is None else fill(sentence, called),
                "question": None if asked is None else _bare(fill(asked, called)),
            }
            line = filled(examples.line, values)
            if line is not None:
                lines.append(line)
        enough = examples.count if examples.of == "others" else 1
        return "\n".join(lines) if len(lines) >= enough else None

    def _own_facts(self, name: str) -> list[tuple[str, str | None, str | None, str]]:
        """What else is true of the subject and is not to be forgotten, said of `name`."""
        subject = key(self._fact.subject)
        asked = {fact.relation for fact in self._context.facts if key(fact.subject) == subject}
        found: list[tuple[str, str | None, str | None, str]] = []
        for control in self._context.controls.facts:
            relation = self._context.catalogue.get(control.relation)
            if key(control.subject) == subject and control.relation not in asked and relation is not None:
                question = render_question(relation.questions[0]) if relation.questions else None
                thing = adapted(control.object, self._fact.subject, name)
                found.append((name, relation.cloze[0], question, thing))
        return found


def _is_question(template: str) -> bool:
    return template.startswith(_BEFORE) and template.endswith(_AFTER)


def _bare(question: str) -> str:
    return question.removeprefix(_BEFORE).removesuffix(_AFTER)
