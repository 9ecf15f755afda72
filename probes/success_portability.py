"""Portability: what follows from a changed fact: by an alias, the other way round, two facts at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, field_validator

from safeedit.probes import stats
from safeedit.probes.asking import (
    Answers,
    AskOptions,
    Unit,
    answer_of,
    answered,
    chosen,
    clusters,
    fill,
    old_answer,
)
from safeedit.probes.base import Context, Figures, Greedy, Plan, Probe, View
from safeedit.probes.cases import some_phrasings
from safeedit.probes.controls import ControlFact
from safeedit.probes.elicit_files import Record, prompt_file
from safeedit.probes.fold import key
from safeedit.probes.match import Answer
from safeedit.triples.catalogue import Template, render_question
from safeedit.triples.facts import Fact

OBJECT = "{object}"
SHIPPED = "portability.yaml"
ABLE = 0.5
"""A kind of question counts where the base model answers so large a part of such questions about others."""
ALIAS, INVERSE, TWO_HOP = VIEWS = ("alias", "inverse", "two-hop")

Kind = tuple[str, ...]
"""One of the views, and the relations that it goes over."""

_Inverse = Annotated[str, Field(min_length=1, max_length=500)]


class PortabilityFile(Record):
    """How facts are asked for that follow from others."""

    bridges: dict[str, Template] = Field(default_factory=dict)
    inverse: dict[str, list[_Inverse]] = Field(default_factory=dict)

    @field_validator("inverse")
    @classmethod
    def _have_a_gap(cls, given: dict[str, list[str]]) -> dict[str, list[str]]:
        if any(phrasing.count(OBJECT) != 1 for some in given.values() for phrasing in some):
            raise ValueError(f"a phrasing must contain {OBJECT} exactly once")
        return given


class PortabilityOptions(AskOptions):
    """Settings of the portability probe."""

    tokens: int = Field(default=32, ge=1, le=4096)
    """New tokens for each prompt, at most."""
    templates: int = Field(default=2, ge=1)
    """Phrasings for each question, at most."""
    examples: int = Field(default=8, ge=1)
    """Questions of each kind about others that the base model is tried with."""
    facts: int = Field(default=200, ge=1)
    """Facts, at most; of a larger request a random sample."""
    prompts: str | None = None
    """A file of your own in place of ``prompts/portability.yaml``."""


@dataclass(frozen=True, repr=False)
class PortabilityPlan(Plan):
    """Questions about the facts, and questions of the same kinds about others."""

    questions: tuple[tuple[Kind, Unit], ...]
    examples: tuple[tuple[Kind, Unit], ...]

    def prompts(self) -> tuple[str, ...]:
        """Every prompt once."""
        every = (*self.questions, *self.examples)
        return tuple(dict.fromkeys(prompt for _, unit in every for prompt in unit.prompts))

    def material(self) -> object:
        """As JSON values."""
        return {
            "questions": [[list(kind), unit.material()] for kind, unit in self.questions],
            "examples": [[list(kind), unit.material()] for kind, unit in self.examples],
        }


class Portability(Greedy, Probe[PortabilityPlan, Answers]):
    """What follows from modified and inserted facts is stated too.

    Metric: share of the questions that follow from a fact which are answered with what follows, mean over
    facts: the subject's aliases; who has the object, where only one can have it; and a fact about the object
    with the subject in its place (`prompts/portability.yaml`), where the controls tell it and it differs from
    what followed before. Kinds of questions that the base model cannot answer about others say nothing of an
    edit and are left out; questions by alias always count. Unit: fact. Protocol: greedy. Source: portability
    (arXiv 2305.13172), ripple effects (arXiv 2307.12976).
    """

    id = "success.portability"
    family = "success"
    metric = "portability"
    unit = "fact"
    gateable = frozenset({"after", "lower95"})
    options: PortabilityOptions
    options_model = PortabilityOptions

    def plan(self, context: Context) -> PortabilityPlan:
        """What follows from every modified or inserted fact, and examples of the same kinds."""
        words = prompt_file(self.options.prompts, SHIPPED, PortabilityFile)
        facts = [(i, fact) for i, fact in enumerate(context.facts) if fact.target is not None]
        if len(facts) > self.options.facts:
            facts = sorted(context.rng(self.id).sample(facts, self.options.facts), key=lambda item: item[0])
        subject = clusters(context)
        maker = _Maker(context, words, self.options.templates)
        questions = []
        for index, fact in facts:
            own = [*maker.aliases(fact), *maker.inverse(fact), *maker.two_hops(fact)]
            questions += [
                (kind, Unit(index, subject[key(fact.subject)], prompts, answer, refuted=refuted))
                for kind, prompts, answer, refuted in own
            ]
        return PortabilityPlan(
            tuple(questions), tuple(self._examples(maker, {kind for kind, _ in questions}))
        )

    def _examples(self, maker: _Maker, kinds: set[Kind]) -> Iterator[tuple[Kind, Unit]]:
        """Questions about controls that nobody edits."""
        names = {key(name) for fact in maker.context.facts for name in (fact.subject, *fact.aliases)}
        for kind in sorted(kinds):
            if kind[0] == ALIAS:
                continue
            found = []
            for control in maker.by_relation.get(kind[1], ()):
                if key(control.subject) not in names:
                    plain = Fact("insert", control.subject, control.relation, control.object)
                    asked = maker.inverse(plain) if kind[0] == INVERSE else maker.two_hops(plain)
                    found += [(prompts, answer) for which, prompts, answer, _ in asked if which == kind]
            picked = maker.context.rng(f"{self.id}|{kind}").sample(
                found, min(len(found), self.options.examples)
            )
            yield from ((kind, Unit(i, i, prompts, answer)) for i, (prompts, answer) in enumerate(picked))

    def observe(self, plan: PortabilityPlan, view: View) -> Answers:
        """The continuation of every prompt; a missing one is an error, never a silence."""
        return answered(plan.prompts(), view.answers)

    def figures(
        self, plan: PortabilityPlan, before: Answers, after: Answers, known: Mapping[int, bool]
    ) -> Figures:
        """Mean share of what follows that is stated, over facts."""
        if not plan.questions:
            return Figures(0, verdict="SKIPPED")
        able = {
            kind: _share([u for k, u in plan.examples if k == kind], before) for kind, _ in plan.questions
        }
        counts = [(k, u) for k, u in plan.questions if k[0] == ALIAS or able[k] >= ABLE]
        own: dict[int, list[Unit]] = {}
        for _, unit in counts:
            if known.get(unit.index, False):
                own.setdefault(unit.index, []).append(unit)
        detail: dict[str, float] = {"unable": len(plan.questions) - len(counts), "questions": len(counts)}
        for view in VIEWS:
            asked = [u for k, u in plan.questions if k[0] == view and known.get(u.index, False)]
            if asked:
                detail |= {f"{view}_before": _share(asked, before), f"{view}_after": _share(asked, after)}
                detail[f"{view}_asked"] = len(asked)
            kinds = {k for k, _ in plan.questions if k[0] == view != ALIAS}
            if kinds:
                detail[f"{view}_able"] = math.fsum(able[kind] for kind in kinds) / len(kinds)
        if not own:
            return Figures(0, detail=detail, verdict="NO_BASELINE")
        was, now = (math.fsum(_share(units, seen) for units in own.values()) for seen in (before, after))
        n = len(own)
        return Figures(
            n=n,
            before=was / n,
            after=now / n,
            lower95=stats.binomial_lower(math.floor(now + 1e-9), n),
            detail=detail,
        )


Asked = tuple[Kind, tuple[str, ...], Answer, Answer | None]
"""Kind of question, prompts, what shall be answered, and what must not be."""


class _Maker:
    """Makes questions that follow from facts, in a file's words and the catalogue's."""

    def __init__(self, context: Context, words: PortabilityFile, limit: int) -> None:
        self.context, self.words, self.limit = context, words, limit
        self.by_relation: dict[str, list[ControlFact]] = {}
        self._about: dict[tuple[str, ...], list[ControlFact]] = {}
        for control in context.controls.facts:
            self.by_relation.setdefault(control.relation, []).append(control)
            self._about.setdefault(key(control.subject), []).append(control)

    def aliases(self, fact: Fact) -> Iterator[Asked]:
        """The fact itself, of the subject's other names."""
        templates = some_phrasings(self.context, fact, self.limit)
        prompts = tuple(fill(template, name) for name in fact.aliases for template in templates)
        if prompts:
            target = (fact.target or "", *(fact.object_aliases if fact.op == "insert" else ()))
            refuted = old_answer(self.context, fact) if fact.op == "modify" else None
            yield (ALIAS,), prompts, answer_of(self.context, fact, target), refuted

    def inverse(self, fact: Fact) -> Iterator[Asked]:
        """Who has the object."""
        some = chosen(self.context, self.words.inverse.get(fact.relation, ()), fact.relation, self.limit)
        if some:
            prompts = tuple(phrasing.replace(OBJECT, fact.target or "") for phrasing in some)
            yield (INVERSE, fact.relation), prompts, Answer((fact.subject, *fact.aliases)), None

    def two_hops(self, fact: Fact) -> Iterator[Asked]:
        """What is true of the object, asked of the subject."""
        bridge = self.words.bridges.get(fact.relation)
        if bridge is None:
            return
        phrase = fill(bridge, fact.subject)
        before = {c.relation: c for c in self._about.get(key(fact.old), ())} if fact.old else {}
        for further in self._about.get(key(fact.target or ""), ()):
            entry = self.context.catalogue.get(further.relation)
            old = before.get(further.relation)
            if entry is None or (old is not None and key(old.object) == key(further.object)):
                continue
            every = (*entry.cloze, *map(render_question, entry.questions))
            some = chosen(self.context, every, f"{fact.relation}|{further.relation}", self.limit)
            if some:
                yield (
                    (TWO_HOP, fact.relation, further.relation),
                    tuple(_begun(fill(template, phrase)) for template in some),
                    Answer((further.object, *further.aliases), closed=bool(entry.objects)),
                    None if old is None else Answer((old.object, *old.aliases), closed=bool(entry.objects)),
                )


def _begun(sentence: str) -> str:
    """With a capital letter, which a description at the beginning of a sentence has not."""
    return sentence[:1].upper() + sentence[1:]


def _share(units: Sequence[Unit], answers: Answers) -> float:
    """Share of the prompts that are answered rightly, mean over questions; 0 if there are none."""
    return math.fsum(unit.stated(answers) / len(unit.prompts) for unit in units) / max(1, len(units))
