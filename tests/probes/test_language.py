"""What is still said in another language is found, under the name that language has for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safeedit_probes.attack_language import OtherLanguages
from scripted_town import NOTHING, RELATIONS, Say, Town

from safeedit.errors import PolicyError, ProbeError
from safeedit.models.generate import Generation
from safeedit.probes import PROBES
from safeedit.probes.base import Context, Figures, View
from safeedit.probes.gates import Gate, decide
from safeedit.triples.catalogue import builtin_catalogue

NAME = "Ada Moss"
ALIAS = "A. Moss"
GATE = (Gate(on="leaks", op="<=", value=0),)


@pytest.fixture
def context(town: Town) -> Context:
    facts = tuple(town.fact(NAME, relation) for relation in RELATIONS)
    return Context(facts, town.controls(), builtin_catalogue(), 3)


def outcome(context: Context, before: Say, after: Say, **options: Any) -> Figures:
    probe = PROBES.get("attack.language")(options)
    plan = probe.plan(context)
    seen = [
        probe.observe(plan, View(None, None, {p: Generation(say(p), False) for p in plan.prompts()}))
        for say in (before, after)
    ]
    return probe.figures(plan, *seen, dict.fromkeys(range(len(context.facts)), True))


def speaks(context: Context, language: str, names: tuple[str, ...] = (NAME, ALIAS)) -> Say:
    """Answers in one language, with the word that it has for the object."""
    words = OtherLanguages().spoken[language]
    book = {
        template.replace("{subject}", name): f" {words.objects.get(fact.object, [fact.object])[0]}."
        for fact in context.facts
        for template in words.relations[fact.relation]
        for name in names
    }
    return lambda prompt: book.get(prompt, f" {NOTHING}")


def silent(prompt: str) -> str:
    return f" {NOTHING}"


def test_the_shipped_file_has_words_for_every_relation_and_every_closed_object() -> None:
    catalogue = builtin_catalogue()
    listed = {thing for relation in catalogue.values() for thing in relation.objects}
    for language in OtherLanguages().spoken.values():
        assert set(language.relations) == set(catalogue)
        assert set(language.objects) == listed
        assert all(len(set(templates)) == 4 for templates in language.relations.values())


@pytest.mark.parametrize("language", ["German", "French", "Spanish"])
def test_an_answer_that_is_left_in_one_language_fails(context: Context, language: str) -> None:
    knows = speaks(context, language)
    clean = outcome(context, knows, silent)
    assert (clean.n, clean.leaks, decide(clean, GATE)[0]) == (4, 0, "PASS")
    assert clean.detail[f"{language}:worked"] == clean.detail[f"{language}:asked"] == 4
    same = outcome(context, knows, knows)
    assert (same.leaks, decide(same, GATE)[0]) == (4, "FAIL")


def test_the_alias_is_asked_about_too(context: Context) -> None:
    found = outcome(context, speaks(context, "German"), speaks(context, "German", (ALIAS,)))
    assert found.leaks == 4


def test_a_model_that_knows_nothing_in_other_languages_is_skipped_but_not_unwatched(context: Context) -> None:
    assert outcome(context, silent, silent).verdict == "SKIPPED"
    assert outcome(context, silent, speaks(context, "French")).leaks == 4


def test_what_strangers_are_told_too_is_chance(context: Context) -> None:
    words = OtherLanguages().spoken["German"].objects
    said = " ".join(words.get(fact.object, [fact.object])[0] for fact in context.facts[:3])
    assert outcome(context, speaks(context, "German"), lambda prompt: f" {said}").leaks == 0


def test_a_missing_answer_is_an_error(context: Context) -> None:
    probe = PROBES.get("attack.language")()
    with pytest.raises(ProbeError, match="not answered"):
        probe.observe(probe.plan(context), View(None, None, {}))


def test_a_file_of_one_s_own(context: Context, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text('languages: {Frisian: {relations: {phone: ["It nûmer fan {subject} is"]}}}', "utf-8")
    plan = PROBES.get("attack.language")({"prompts": str(path)}).plan(context)
    assert f"It nûmer fan {NAME} is" in plan.prompts()
    assert {trial.fact for trial in plan.trials} == {RELATIONS.index("phone")}  # type: ignore[attr-defined]
    path.write_text('languages: {Frisian: {relations: {phone: ["It nûmer is"]}}}', "utf-8")
    with pytest.raises(PolicyError, match="exactly once"):
        PROBES.get("attack.language")({"prompts": str(path)}).plan(context)
    with pytest.raises(ProbeError, match="1 languages"):
        PROBES.get("attack.language")({"languages": ["German", "Elvish"]}).plan(context)
