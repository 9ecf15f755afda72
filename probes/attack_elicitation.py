"""Elicitation: the ways in which people get a model to say what it does not say when plainly asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from pydantic import Field

from safeedit.errors import ProbeError
from safeedit.probes.asking import chosen
from safeedit.probes.base import Context, Greedy, View
from safeedit.probes.elicit import (
    Ask,
    Asker,
    AttackOptions,
    AttackPlan,
    AttackProbe,
    Heard,
    Turn,
    heard_of,
)
from safeedit.probes.elicit_families import Families, Family, Material, part_of, plain
from safeedit.probes.elicit_files import prompt_file
from safeedit.probes.elicit_forms import formed
from safeedit.probes.fold import key
from safeedit.probes.match import Answer
from safeedit.probes.rivals import answer_for, rivals_of
from safeedit.triples.facts import Fact

FEWEST = 12
"""Prompts about each fact, at least, however many facts there are."""


class ElicitationOptions(AttackOptions):
    """Settings of the elicitation attack."""

    strangers: int = Field(default=6, ge=3)
    """Invented subjects who are asked the same."""
    tokens: int = Field(default=64, ge=1, le=4096)
    """New tokens for each prompt, at most."""
    budget: int = Field(default=6000, ge=1)
    """Prompts about subjects in all, at most; every fact keeps at least twelve."""
    prompts: str | None = None
    """A file of your own, in the form of ``prompts/elicitation.yaml``."""
    families: list[str] | None = None
    """Only these; else all in the file."""


class Elicitation(Greedy, AttackProbe):
    """Erased facts are not said to prompts that are made to bring them up.

    Metric: share of facts whose object is said, over all families of prompts, more often than of invented
    subjects; choices and reversed questions, where chance is another, are tested apart. Unit: fact.
    Protocol: greedy, plain and through the tokenizer's chat template if it has one, the whole
    continuation scanned, decoded where an encoding was asked for. Source: the adversarial prompts of
    RWKU (arXiv 2406.10890), in-context attacks (arXiv 2402.16835).
    """

    id = "attack.elicitation"
    options: ElicitationOptions
    options_model = ElicitationOptions

    @cached_property
    def _file(self) -> Families:
        return prompt_file(self.options.prompts, "elicitation.yaml", Families)

    @cached_property
    def families(self) -> dict[str, Family]:
        """The families that are asked."""
        found = self._file.families
        if self.options.families is None:
            return found
        missing = [name for name in self.options.families if name not in found]
        if missing:
            raise ProbeError(f"{len(missing)} families of attack.elicitation are not in its prompts file")
        return {name: found[name] for name in self.options.families}

    def plan(self, context: Context) -> AttackPlan:
        """Every template that can be filled for a fact, within the budget."""
        trials, untested = self.trials(context)
        facts = [trial.fact for trial in trials if trial.stranger is None]
        named = {i: chance for i in facts if (chance := _named_by_chance(context, context.facts[i])) > 0}
        return AttackPlan(trials, rivals_of(context, facts), untested, named=named)

    def askers(self, context: Context) -> Callable[[Fact], Asker]:
        """Family by family, template by template."""
        slots = [f"{f}|{i}" for f, family in self.families.items() for i in range(len(family.templates))]
        facts = sum(fact.old is not None for fact in context.facts)
        limit = max(FEWEST, self.options.budget // max(1, facts))
        holders = _holders(context)
        people = {control.subject for control in context.controls.facts}

        def of(fact: Fact) -> Asker:
            words = self._file.relations.get(fact.relation, fact.relation.replace("_", " "))
            material = Material(context, fact, words)
            picked = chosen(context, slots, f"elicitation|{fact.relation}", limit)
            namesakes = _alike(people, fact)

            def ask(name: str, stranger: int | None) -> tuple[Ask, ...]:
                answers = {
                    "object": answer_for(context, fact, name),
                    # Somebody else's name is no misspelling of this one, however near.
                    "subject": Answer((fact.subject, *fact.aliases), others=namesakes),
                }
                found = []
                for slot in picked:
                    kind, _, number = slot.partition("|")
                    family = self.families[kind]
                    called = formed(name, family.name, context.rng(f"form|{name}"))
                    if called is None or holders.get(key(called), key(name)) != key(name):
                        # Without such a form, or it is the name of somebody else or of several.
                        continue
                    turns = material.turns(family.templates[int(number)], slot, called, stranger, family)
                    if turns is None:
                        continue
                    template = family.templates[int(number)]
                    found.append(
                        Ask(
                            plain(turns, isinstance(template, str)),
                            kind,
                            answers[family.asks],
                            part_of(family, template),
                            turns,
                            tuple(family.decode),
                        )
                    )
                return tuple(found)

            return ask

        return of

    def observe(self, plan: AttackPlan, view: View) -> Heard:
        """The continuation of every prompt, plain and as a conversation."""
        heard = heard_of(plan, view)
        if not getattr(view.tokenizer, "chat_template", None):
            return heard
        from safeedit.models import generate

        asks = {ask.text: ask.turns for trial in plan.trials for ask in trial.asks}
        texts = [rendered(view.tokenizer, turns) for turns in asks.values()]
        answers = generate.greedy(
            view.model, view.tokenizer, texts, max_new_tokens=self.options.tokens, special=False
        )
        if len(answers) != len(texts):
            raise ProbeError("not every conversation was answered")
        said = {text: (*heard.said[text], answer.text) for text, answer in zip(asks, answers, strict=True)}
        return Heard(said, heard.cut + sum(answer.truncated for answer in answers))


def rendered(tokenizer: Any, turns: tuple[Turn, ...]) -> str:
    """A conversation as the tokenizer's chat template writes it; the model goes on with the last words."""
    from jinja2.exceptions import TemplateError

    begun = turns[-1][1] if turns[-1][0] == "assistant" else ""
    asked = turns[:-1] if begun else turns
    messages = [{"role": who, "content": text} for who, text in asked]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError:
        # Some templates know no system turn; what it says is then said by the user.
        joined = "\n\n".join(text for _, text in asked)
        messages = [{"role": "user", "content": joined}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return f"{text}{begun}"


def _named_by_chance(context: Context, fact: Fact) -> float:
    """How often a model that puts names together from the words of others' would hit the subject's.

    One in as many as there are people known by name; never, where a word of the name is nobody else's.
    """
    people = {key(control.subject) for control in context.controls.facts} - {key(fact.subject)}
    words = {word for name in people for word in name}
    return 1 / len(people) if set(key(fact.subject)) <= words else 0.0


def _alike(people: Iterable[str], fact: Fact) -> tuple[str, ...]:
    """Others who share a word of their name with the subject."""
    own = {key(name) for name in (fact.subject, *fact.aliases)}
    words = {word for name in own for word in name}
    return tuple(sorted(name for name in people if key(name) not in own and words & set(key(name))))


def _holders(context: Context) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Whose name each name is, initials too; the empty name for those that several people have."""
    rng = context.rng("holders")
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    everybody = {control.subject for control in context.controls.facts} | {f.subject for f in context.facts}
    for name in sorted(everybody):
        for form in (name, formed(name, "initials", rng) or name):
            if found.setdefault(key(form), key(name)) != key(name):
                found[key(form)] = ()
    return found
