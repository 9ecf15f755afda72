"""Twenty phrasings of every fact: those of its relation, and what two kinds of rules make of them."""

from __future__ import annotations

import pytest
from safeedit_probes.forgetting_paraphrase import ParaphraseRecall
from scripted_town import RELATIONS, Town

from safeedit.policy.compile import wording
from safeedit.probes.base import Context
from safeedit.probes.rewording import asked, framed, reworded
from safeedit.probes.suite import load_suite
from safeedit.triples.catalogue import SUBJECT, builtin_catalogue, render_question

NAME = "Ada Moss"
SENTENCE = "The phone number of {subject} is"
QUESTION = render_question("What is the phone number of {subject}?")


@pytest.mark.parametrize("relation", sorted(builtin_catalogue()))
def test_every_relation_has_enough_of_them(relation: str) -> None:
    words = wording(builtin_catalogue()[relation])
    given = (*words.edit, *words.probe)
    made = reworded(given)
    assert len(words.probe) + len(made) >= 20
    assert len(made) == len(set(made))
    assert not set(made) & set(given)
    assert all(template.count(SUBJECT) == 1 and template == template.strip() for template in made)
    assert made == reworded(given)


def test_a_sentence_is_framed_and_its_parts_change_places() -> None:
    made = tuple(framed(SENTENCE))
    assert "As for {subject}, the phone number is" in made
    assert "It is known that the phone number of {subject} is" in made
    assert "For the record: The phone number of {subject} is" in made
    assert "As for {subject}, the jobs are those of" in framed("{subject}'s jobs are those of")
    assert "It is known that {subject} plays the" in framed("{subject} plays the")
    assert tuple(framed(QUESTION)) == ()


def test_a_question_is_put_otherwise() -> None:
    made = tuple(asked(QUESTION))
    assert render_question("Do you know what the phone number of {subject} is?") in made
    assert "Q: What is the phone number of {subject}?\nA:" in made
    assert tuple(asked(SENTENCE)) == ()
    other = tuple(asked(render_question("Who employs {subject}?")))
    assert render_question("Can you answer this: Who employs {subject}?") in other


def test_both_kinds_are_among_the_first() -> None:
    words = wording(builtin_catalogue()["phone"])
    some = reworded((*words.probe, *words.edit))[: 20 - len(words.probe)]
    questions = [
        template for template in some if template.rstrip().endswith(("Answer:", "A:", "Reply:", "is"))
    ]
    assert any("?" in template for template in questions)
    assert any("?" not in template for template in some)


def test_a_whole_prompt_without_a_gap_is_left_as_it_is() -> None:
    assert reworded(["The phone number of Ada Moss is"]) == ()


@pytest.mark.parametrize(("suite", "count"), [("standard", 20), ("full", 20), ("smoke", 2)])
def test_what_the_shipped_suites_ask(suite: str, count: int, town: Town) -> None:
    facts = tuple(town.fact(NAME, relation) for relation in RELATIONS)
    context = Context(facts, town.controls(), builtin_catalogue(), 3)
    [probe] = [e.probe for e in load_suite(suite).entries if e.probe.id == "forgetting.paraphrase"]
    plan = probe.plan(context)
    for unit in plan.units:
        fact = facts[unit.index]
        assert len(unit.prompts) == count
        seen = {template.replace(SUBJECT, NAME) for template in fact.edit_templates}
        own = {template.replace(SUBJECT, NAME) for template in fact.probe_templates}
        assert not seen & set(unit.prompts)
        assert len(own & set(unit.prompts)) == min(count, len(own)), "what people wrote comes first"


def test_a_fact_without_a_phrasing_of_its_own_is_not_made_one(town: Town) -> None:
    fact = town.fact(NAME, "phone", probe_templates=())
    context = Context((fact,), town.controls(), builtin_catalogue(), 3)
    plan = ParaphraseRecall().plan(context)
    assert (plan.units, plan.untested) == ((), 1)


def test_they_are_not_made_where_a_suite_does_not_want_them(town: Town) -> None:
    context = Context((town.fact(NAME, "phone"),), town.controls(), builtin_catalogue(), 3)
    few, ten = (ParaphraseRecall({"reworded": count}).plan(context).units[0].prompts for count in (0, 12))
    assert (len(few), len(ten)) == (len(context.facts[0].probe_templates), 12)
    assert set(few) <= set(ten)
