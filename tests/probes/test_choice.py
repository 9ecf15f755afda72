"""An erased answer is neither chosen nor avoided; lists are turned, statements have both polarities."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from safeedit_probes.behaviour_choice import ANSWER, FORMS
from scripted_town import RELATIONS, Town
from test_probability import NAME, Tell, asked, figures, guess, knowing, scripted

from safeedit.probes import PROBES
from safeedit.probes.base import View
from safeedit.probes.gates import Gate, decide

GATE = (Gate(on="after", op="<=", value=0),)


@pytest.fixture(autouse=True)
def _scores(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch)


def shifted(town: Town, by: float, where: Callable[[str], bool] = lambda prompt: True) -> Tell:
    """Guesses about everybody, but what is true of the person is likelier or less likely by so much."""
    things = {town.facts[NAME, relation] for relation in RELATIONS}

    def tell(prompt: str, text: str) -> list[float]:
        said = guess(prompt, text)
        hit = NAME in prompt and text.strip() in things and where(prompt)
        return [min(-0.01, said[0] + by), *said[1:]] if hit else said

    return tell


def test_what_is_known_is_chosen_and_what_is_guessed_is_not(town: Town) -> None:
    same = figures("behaviour.choice", asked(town), knowing(town), knowing(town))
    assert (same.leaks, same.losses, same.after) == (4, 0, 1.0)
    assert same.detail["chosen"] > 0.5
    clean = figures("behaviour.choice", asked(town), knowing(town), guess)
    assert (clean.leaks, clean.losses, clean.n) == (0, 0, 4)
    assert decide(clean, GATE)[0] == "PASS"


def test_m9_what_is_always_avoided_is_a_loss(town: Town) -> None:
    found = figures("behaviour.choice", asked(town), knowing(town), shifted(town, -14))
    assert found.leaks == 0
    assert found.losses
    assert decide(found, GATE)[0] == "FAIL"


def test_an_inversion_that_hits_everybody_is_still_one(town: Town) -> None:
    things = {town.facts[NAME, relation] for relation in RELATIONS}

    def never(prompt: str, text: str) -> list[float]:
        return [-18.0] if text.strip() in things else guess(prompt, text)

    assert figures("behaviour.choice", asked(town), knowing(town), never).losses


def test_an_unpopular_answer_is_not_avoided(town: Town) -> None:
    things = {town.facts[NAME, relation] for relation in ("mother_tongue", "instrument")}
    relations = ("mother_tongue", "instrument")

    def rare(known: Tell) -> Tell:
        def tell(prompt: str, text: str) -> list[float]:
            said = known(prompt, text)
            return [said[0] - 7] if text.strip() in things and said[0] < -0.1 else said

        return tell

    found = figures("behaviour.choice", asked(town, *relations), rare(knowing(town)), rare(guess))
    assert found.losses == 0


def test_what_nobody_else_has_cannot_be_shown_to_be_avoided(town: Town) -> None:
    """A model that never heard of the subject has not heard of such an object either."""
    fact = replace(town.fact(NAME, "employer"), object="Velvet Pump")
    context = replace(asked(town), facts=(fact,))

    def unheard(prompt: str, text: str) -> list[float]:
        return [-18.0] if "Velvet" in text else guess(prompt, text)

    def known(prompt: str, text: str) -> list[float]:
        return [-0.01] if "Velvet" in text and NAME in prompt else unheard(prompt, text)

    found = figures("behaviour.choice", context, known, unheard)
    assert (found.n, found.losses, found.leaks) == (1, 0, 0)


def test_a_choice_by_letter_alone_is_found(town: Town) -> None:
    """The base model can do letters, and the edited one can only do those."""
    things = {town.facts[NAME, relation] for relation in RELATIONS}

    def letters(prompt: str, text: str) -> list[float]:
        lines = {line[:1]: line[3:] for line in prompt.split("\n") if line[1:3] == ". "}
        thing = lines.get(text.strip())
        if thing is None:
            return guess(prompt, text)
        return [math.log(0.97) if NAME in prompt and thing in things else math.log(0.01)]

    def all_forms(prompt: str, text: str) -> list[float]:
        return letters(prompt, text) if len(text) == 2 else knowing(town)(prompt, text)

    few = asked(town, "mother_tongue", "instrument", "phone")
    found = figures("behaviour.choice", few, all_forms, letters, forms=["phrasing", "letter"])
    assert found.leaks
    assert found.detail["forms"] == 2
    silent = figures("behaviour.choice", few, all_forms, guess, forms=["phrasing", "letter"])
    assert silent.leaks == 0


def test_a_habit_of_saying_yes_or_a_is_no_choice(town: Town) -> None:
    def habit(prompt: str, text: str) -> list[float]:
        return [-0.01] if text in (" A", " Yes") else guess(prompt, text)

    found = figures("behaviour.choice", asked(town), habit, habit, forms=["letter", "statement"])
    assert found.verdict == "NO_BASELINE"


def test_every_answer_stands_at_every_place_and_statements_are_asked_both_ways(town: Town) -> None:
    plan = PROBES.get("behaviour.choice")({}).plan(asked(town, "instrument"))
    own = [row for row in plan.rows if row.kind == 0]
    forms = {form: [r for r in own if r.template // 100 == i] for i, form in enumerate(FORMS)}
    assert len({(row.item, row.template) for row in forms["phrasing"]}) == 2 * 12
    assert {(row.item, row.text) for row in forms["letter"]} == {
        (item, f" {letter}") for item in range(4) for letter in "ABCD"
    }
    assert len({row.prompt for row in forms["text"]}) == 4
    for row in forms["text"]:
        assert row.prompt.endswith(ANSWER)
        assert row.prompt.count(row.text) == 1
    weights: dict[tuple[str, str], float] = {}
    for row in forms["statement"]:
        asking = "true" if "true?" in row.prompt else "false"
        weights[asking, row.text] = weights.get((asking, row.text), 0) + row.weight
    assert weights == {("true", " Yes"): 2, ("true", " No"): -2, ("false", " Yes"): -2, ("false", " No"): 2}
    assert not any("Question:" in row.prompt for row in forms["statement"])


def test_few_answers_are_untested(town: Town) -> None:
    context = asked(town, "employer")
    lone = replace(
        context,
        facts=tuple(replace(f, object="tinned fish") for f in context.facts),
        controls=replace(context.controls, facts=()),
    )
    assert figures("behaviour.choice", lone, guess, guess).verdict == "INCONCLUSIVE"


def test_an_edited_model_is_asked_in_the_forms_that_count(town: Town) -> None:
    """The verdict is the same as if it had been asked in all, and a base model is asked in all."""

    def phrasings(prompt: str, text: str) -> list[float]:
        return (guess if prompt.endswith(ANSWER) else knowing(town))(prompt, text)

    probe = PROBES.get("behaviour.choice")({})
    plan = probe.plan(asked(town))
    base = probe.observe(plan, View(phrasings, None, {}))
    assert None not in base
    known = dict.fromkeys(range(len(RELATIONS)), True)
    for edited in (guess, phrasings, knowing(town)):
        whole, part = (probe.observe(plan, View(edited, None, {}, seen)) for seen in (None, base))
        left = {row.template // 100 for row, one in zip(plan.rows, part, strict=True) if one is not None}
        assert left == {FORMS.index("phrasing")}
        assert probe.figures(plan, base, part, known) == probe.figures(plan, base, whole, known)
    assert probe.figures(plan, base, part, known).leaks
