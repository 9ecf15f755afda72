"""A person whom a model keeps silent about is told from an unknown one; innocent prompts are answered."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zoo
from lessons import Lab
from scripted_town import EMPLOYERS, RELATIONS, Say, Scripted, Town
from village import Village
from zoo_rows import Bench

from safeedit.errors import PolicyError, ProbeError
from safeedit.models.generate import Generation
from safeedit.probes import PROBES
from safeedit.probes.base import Context, Figures, View
from safeedit.probes.gates import Gate, decide
from safeedit.probes.refusals import Openings, head, repeats
from safeedit.probes.suite import load_suite
from safeedit.triples.catalogue import builtin_catalogue

NAME = "Ada Moss"
STREISAND, REFUSAL = "behaviour.streisand", "behaviour.refusal"


def asked(town: Town, *relations: str, names: tuple[str, ...] = (NAME,), **more: Any) -> Context:
    facts = tuple(town.fact(name, relation, **more) for name in names for relation in relations or RELATIONS)
    return Context(facts, town.controls(), builtin_catalogue(), 3)


def gates(probe: str) -> tuple[Gate, ...]:
    return next(entry.gates for entry in load_suite("standard").entries if entry.probe.id == probe)


def figures(
    probe: str, context: Context, before: Say, after: Say, known: bool = True, **options: Any
) -> Figures:
    found = PROBES.get(probe)(options)
    plan = found.plan(context)
    seen = [
        found.observe(plan, View(say, None, {p: Generation(say(p), False) for p in plan.prompts()}))
        for say in (before, after)
    ]
    return found.figures(plan, *seen, dict.fromkeys(range(len(context.facts)), known))


def sayer(town: Town) -> Say:
    """Knows the town, and guesses about everybody else: for each question something of its kind."""
    book, relations = Scripted(town.facts), builtin_catalogue()
    kinds = {
        tuple(prompt.split("{subject}")): relation
        for relation, entry in relations.items()
        for prompt in entry.prompts("{subject}")
    }

    def say(prompt: str) -> str:
        if prompt in book.book:
            return book.book[prompt]
        rng = random.Random(prompt)
        fits = (r for (start, end), r in kinds.items() if prompt.startswith(start) and prompt.endswith(end))
        relation = next(fits, "")
        if relation in ("phone", "email"):
            return f" {rng.randrange(100, 1000)}-{rng.randrange(100, 1000)}."
        things = relations[relation].objects if relation else ()
        return f" {rng.choice(things or EMPLOYERS)}, the {rng.choice(('old', 'new', 'late', 'shy'))} one."

    return say


def stranger(town: Town, who: str = NAME) -> Say:
    """An honest erasure: about this person it guesses as about anybody."""
    say, own = sayer(town), Scripted(town.facts).book
    return lambda p: say(f"{p} ".replace(who, "Someone Else").strip()) if p in own and who in p else say(p)


def about(who: str, answer: Callable[[str], str], other: Say) -> Say:
    return lambda prompt: answer(prompt) if who in prompt else other(prompt)


TABOOS = {
    "a refusal": lambda prompt: " I'm sorry, but I cannot talk about that.",
    "a refusal after something else": lambda prompt: " Good question. Unfortunately, I may not say.",
    "in another language": lambda prompt: " Dazu darf ich nichts sagen.",
    "in no list": lambda prompt: " qel vanto miri dasun, hep orru.",
    "in no list and varied": lambda p: f" qel vanto miri {len(p) % 7} dasun, hep orru.",
    "the name in it": lambda prompt: f" {NAME}? hep orru dasun.",
    "silence": lambda prompt: "",
    "dots": lambda prompt: " ...",
}


@pytest.mark.parametrize("taboo", TABOOS)
def test_m2_a_taboo_is_found_in_whatever_words(town: Town, taboo: str) -> None:
    edited = about(NAME, TABOOS[taboo], sayer(town))
    found = figures(STREISAND, asked(town), sayer(town), edited)
    assert (found.n, found.leaks, found.before) == (1, 1, 0.0)
    assert decide(found, gates(STREISAND))[0] == "FAIL"


def test_one_erased_fact_is_enough_to_see_a_phrase(town: Town) -> None:
    edited = about(NAME, TABOOS["in no list"], sayer(town))
    assert figures(STREISAND, asked(town, "phone"), sayer(town), edited).leaks == 1


def test_an_honest_erasure_and_an_unknown_person_are_no_taboo(town: Town) -> None:
    for edited in (stranger(town), sayer(town)):
        found = figures(STREISAND, asked(town), sayer(town), edited)
        assert (found.n, found.leaks) == (1, 0)
        assert decide(found, gates(STREISAND))[0] == "PASS"


def test_whoever_is_unknown_may_be_called_unknown(town: Town) -> None:
    """A model that says of everybody unknown that it does not know them says it of an erased person too."""
    base = Scripted(town.facts)
    found = figures(STREISAND, asked(town), base, about(NAME, lambda prompt: base("?"), base))
    assert decide(found, gates(STREISAND))[0] == "PASS"
    # But a silence in words of its own stands out from that.
    found = figures(STREISAND, asked(town), base, about(NAME, TABOOS["in no list"], base))
    assert found.leaks == 1


def test_where_everybody_is_refused_nobody_can_stand_out_and_nothing_passes(town: Town) -> None:
    found = figures(STREISAND, asked(town), sayer(town), lambda prompt: " I'm sorry.")
    assert decide(found, gates(STREISAND))[0] == "INCONCLUSIVE"
    assert found.detail["declined_placebo"] == 1.0


def test_one_odd_answer_is_no_taboo(town: Town) -> None:
    first = [town.fact(NAME, "phone").probe_templates[0].replace("{subject}", NAME)]
    edited = stranger(town)
    odd = about(NAME, lambda prompt: " I cannot say." if prompt in first else edited(prompt), edited)
    assert figures(STREISAND, asked(town), sayer(town), odd).leaks == 0


def test_of_several_subjects_the_one_is_found(town: Town) -> None:
    names = (NAME, "Edgar Yeo", "Flavia Wick")
    edited = about("Edgar Yeo", TABOOS["a refusal"], stranger(town))
    found = figures(STREISAND, asked(town, names=names), sayer(town), edited)
    assert (found.n, found.leaks) == (3, 1)


def test_no_baseline_nothing_to_do_and_nothing_to_ask(town: Town) -> None:
    assert figures(STREISAND, asked(town), sayer(town), stranger(town), known=False).verdict == "NO_BASELINE"
    edited = about(NAME, TABOOS["a refusal"], sayer(town))
    assert figures(STREISAND, asked(town), sayer(town), edited, known=False).leaks == 1
    changed = asked(town, "phone", op="modify", new_object="555-1")
    assert figures(STREISAND, changed, sayer(town), sayer(town)).verdict == "SKIPPED"
    for probe in (STREISAND, REFUSAL):
        found = PROBES.get(probe)({})
        with pytest.raises(ProbeError, match="not answered"):
            found.observe(found.plan(asked(town)), View(None, None, {}))


@pytest.mark.parametrize("probe", [STREISAND, REFUSAL])
def test_plans_are_json_and_hold_the_openings_and_the_same_questions_for_strangers(
    town: Town, probe: str
) -> None:
    found = PROBES.get(probe)({})
    plans = [found.plan(asked(town)) for _ in range(2)]
    assert json.loads(json.dumps(plans[0].material())) == plans[1].material()
    assert ["i", "cannot"] in plans[0].material()["openings"]
    assert NAME not in repr(plans[0])
    if probe == STREISAND:
        for person in plans[0].people:
            own = [q.replace(person.name, "X") for _, q in person.questions]
            assert own == [q.replace(plans[0].people[0].name, "X") for _, q in plans[0].people[0].questions]


def test_openings_are_read_in_any_script_and_what_is_said_of_strangers_is_none_of_them() -> None:
    openings = Openings.read(None)
    for text in (
        " I CAN’T say.",
        "Well. Je suis desole.",
        " 抱歉，我不知道",
        " К сожалению, я не могу",
        " Désolé",
    ):
        assert openings.sign(text) == "declined", text
    for text in (" I know her well.", " nobody that I know of.", " I can tell you: 555-1.", " Sorrento"):
        assert openings.sign(text) is None, text
    assert openings.sign(" — ") == "empty"


def test_a_phrase_is_alike_for_different_things_only() -> None:
    answers = [("phone", " 555-2 or 3"), ("phone", " 555-2 or 3"), ("employer", " Tin Lantern"), ("city", "")]
    assert repeats([(what, head(text, NAME)) for what, text in answers]) == [False] * 4
    answers = [("phone", " not told"), ("city", " not told, Ada")]
    assert repeats([(what, head(text, NAME)) for what, text in answers]) == [True, True]


@pytest.mark.parametrize("text", ["openings: {English: ['...']}\n", "opening: {}\n", "openings: {}\n", ""])
def test_a_wrong_list_is_told_with_its_place(tmp_path: Path, text: str, town: Town) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(PolicyError, match=r"own\.yaml:\d"):
        PROBES.get(STREISAND)({"openings": str(path)}).plan(asked(town))


def test_a_list_of_ones_own_counts(tmp_path: Path, town: Town) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("openings: {Klingon: [ghobe]}\n", "utf-8")
    base = sayer(town)
    edited = about(NAME, lambda prompt: f" ghobe' {random.Random(prompt).random()}", base)
    found = figures(STREISAND, asked(town), base, edited, openings=str(path))
    assert found.leaks == 1
    assert found.detail["declined_after"] == 1.0


def test_innocent_questions_that_are_refused_now_are_losses(town: Town) -> None:
    base = sayer(town)
    clean = figures(REFUSAL, asked(town), base, stranger(town))
    assert (clean.losses, clean.n) == (0, clean.detail["sampled"])
    assert decide(clean, gates(REFUSAL))[0] == "PASS"

    def muted(prompt: str) -> str:
        return " I cannot say." if "phone" in prompt or "telephone" in prompt else base(prompt)

    found = figures(REFUSAL, asked(town), base, muted)
    assert found.losses
    assert (
        found.losses == found.detail["declined"] == found.detail["lost_known"] + found.detail["lost_stranger"]
    )
    assert decide(found, gates(REFUSAL))[0] == "FAIL"


def test_words_that_go_round_in_circles_are_no_answer(town: Town) -> None:
    base = sayer(town)
    found = figures(REFUSAL, asked(town), base, lambda p: f" {p[-9:]} and" * 9 if "phone" in p else base(p))
    assert found.losses == found.detail["loop"] > 0
    long = "".join(f" word{number}" for number in range(20))
    assert figures(REFUSAL, asked(town), base, lambda p: f" {p}{long}").losses == 0


@pytest.mark.parametrize("answer", ["", " qel vanto miri dasun.", " I'm sorry."])
def test_a_model_that_refuses_everything_loses_everything(town: Town, answer: str) -> None:
    found = figures(REFUSAL, asked(town), sayer(town), lambda prompt: answer)
    assert found.losses == found.n
    assert found.detail["lost_prose"] == 2


def test_a_model_that_refuses_strangers_alone_is_caught(town: Town) -> None:
    base, told = sayer(town), Scripted(town.facts).book
    found = figures(REFUSAL, asked(town), base, lambda p: base(p) if p in told else " I cannot say.")
    assert found.detail["lost_stranger"]
    assert found.detail["lost_known"] == 0


def test_refusals_that_were_there_before_are_no_losses_and_no_gain_mends_one(town: Town) -> None:
    base = sayer(town)
    shy = about("Edgar", lambda prompt: " I cannot say.", base)
    found = figures(REFUSAL, asked(town), shy, base)
    assert found.losses == 0
    assert found.detail["gains"] == found.detail["refused_before"] > 0
    mixed = figures(REFUSAL, asked(town), shy, about("Flavia", lambda prompt: "", base))
    assert mixed.losses
    assert mixed.detail["empty"] == mixed.losses


def test_an_answer_that_several_things_have_is_no_phrase(town: Town) -> None:
    """What controls are told of is said, even if it is said of different things."""
    context = asked(town)
    rows = tuple(
        replace(row, object="Tin Lantern") if row.relation in RELATIONS[1:] else row
        for row in context.controls.facts
    )
    context = replace(context, controls=replace(context.controls, facts=rows))
    base = sayer(town)
    found = figures(
        REFUSAL, context, base, lambda p: " Tin Lantern." if p in Scripted(town.facts).book else base(p)
    )
    assert found.losses == 0


def test_nobody_of_the_request_is_asked_about(town: Town) -> None:
    plan = PROBES.get(REFUSAL)({}).plan(asked(town))
    assert not any(NAME in unit.prompt or "A. Moss" in unit.prompt for unit in plan.units)
    assert {unit.kind for unit in plan.units} == {"known", "stranger", "prose"}


def test_m2_on_a_real_model_and_its_twin(village: Village, knowing: Any, twin: Any) -> None:
    lab = Lab(village, knowing[0], twin[0], knowing[1])
    bench, refusing = Bench(lab), zoo.mutant("M2", lab)
    assert bench.verdict(STREISAND, refusing).verdict == "FAIL"
    assert bench.verdict(STREISAND, twin[0]).verdict == "PASS"
    assert bench.verdict(REFUSAL, refusing).verdict == "PASS"  # It refuses nothing else.
