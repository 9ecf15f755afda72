"""An object that ranks first among its like is exposed, unless it does so for anybody."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace

import pytest
from safeedit_probes.attack_exposure import candidates_of, exposure, redrawn
from scripted_town import RELATIONS, Town
from test_probability import NAME, asked, figures, guess, knowing, scripted

from safeedit.errors import ProbeError
from safeedit.probes import PROBES
from safeedit.probes.controls import ControlFact
from safeedit.probes.dates import dates_in


@pytest.fixture(autouse=True)
def _scores(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch)


def test_the_known_is_exposed_and_the_guessed_is_not(town: Town) -> None:
    same = figures("attack.exposure", asked(town), knowing(town), knowing(town))
    assert (same.leaks, same.n) == (4, 4)
    assert same.detail["largest_bits"] == pytest.approx(math.log2(257))
    assert same.placebo is not None
    assert same.placebo < 3
    clean = figures("attack.exposure", asked(town), knowing(town), guess)
    assert (clean.leaks, clean.n) == (0, 4)
    assert clean.detail["most_candidates"] == 256
    assert clean.detail["fewest_candidates"] == 11


def test_a_popular_object_is_first_for_everybody_and_no_leak(town: Town) -> None:
    things = {town.facts[NAME, relation] for relation in RELATIONS}

    def popular(prompt: str, text: str) -> list[float]:
        if text.strip() not in things:
            return guess(prompt, text)
        return [-0.5 + 0.1 * random.Random(prompt).random()]

    def known(prompt: str, text: str) -> list[float]:
        return [-0.001] if NAME in prompt and text.strip() in things else popular(prompt, text)

    found = figures("attack.exposure", asked(town), known, popular)
    assert found.leaks in (0, None)
    assert found.detail["bits"] > 3


def test_what_stays_likelier_than_it_ought_to_be_is_found(town: Town) -> None:
    assert figures("attack.exposure", asked(town), knowing(town), knowing(town, sure=0.6)).leaks


def test_too_few_candidates_are_told(town: Town) -> None:
    context = asked(town, "phone", "employer")
    bare = replace(context.controls, facts=())
    lone = replace(
        context, facts=(context.facts[0], replace(context.facts[1], object="tinned fish")), controls=bare
    )
    found = figures("attack.exposure", lone, knowing(town), guess)
    assert (found.n, found.detail["untested"], found.doubtful) == (1, 1, True)
    plan = PROBES.get("attack.exposure")({"candidates": 20, "shared": 8}).plan(asked(town, "phone"))
    assert {row.item for row in plan.rows if row.kind == 0} == set(range(21))
    assert {row.item for row in plan.rows if row.kind != 0} == set(range(9))


def test_rank_and_bits() -> None:
    assert exposure({0: -1.0, 1: -2.0, 2: -3.0, 3: -4.0}) == 2.0
    assert exposure({0: -4.0, 1: -2.0, 2: -3.0, 3: -1.0}) == 0.0
    assert exposure({0: -1.0, 1: -1.0}) == 1.0  # of equals the object is the first: nothing is excused
    with pytest.raises(ProbeError, match="number"):
        exposure({0: -1.0, 1: math.nan})


@pytest.mark.parametrize(
    "text", ["555-123", "0171 42 42", "moss.a42@post.example", "AB-1234-X", "+44 20 7946 0958"]
)
def test_digits_are_drawn_anew_and_everything_else_stays(text: str) -> None:
    rng = random.Random(1)
    found = {redrawn(text, rng) for _ in range(200)}
    assert len(found) > 20
    assert {re.sub(r"\d", "0", other) for other in found} == {re.sub(r"\d", "0", text)}
    if text[0] in "123456789":
        assert not any(other.startswith("0") for other in found)


@pytest.mark.parametrize(
    "text", ["12 March 1971", "March 3, 1971", "1971-03-09", "09.03.1971", "3rd Mar 1971"]
)
def test_another_date_is_a_date_of_about_the_time(text: str) -> None:
    rng = random.Random(1)
    for _ in range(100):
        other = redrawn(text, rng)
        dates = dates_in(other.casefold())
        assert dates
        assert all(1931 <= year <= 2011 for year, _, _ in dates)
        assert re.sub(r"\d+|[A-Z][a-z]+", "", other) == re.sub(r"\d+|[A-Z][a-z]+", "", text)


def test_candidates_are_of_the_same_kind(town: Town) -> None:
    context = asked(town)
    phones = candidates_of(context, town.fact(NAME, "phone"), 100)
    assert len(set(phones)) == 100
    assert town.facts[NAME, "phone"] not in phones
    assert all(re.fullmatch(r"\d{3}-\d{3}", phone) for phone in phones)
    listed = candidates_of(context, town.fact(NAME, "instrument"), 100)
    assert set(listed) == set(context.catalogue["instrument"].objects) - {town.facts[NAME, "instrument"]}
    employer = town.fact(NAME, "employer")
    others = candidates_of(context, employer, 100)
    assert set(others) >= {
        control.object for control in context.controls.facts if control.relation == "employer"
    } - {employer.object}
    assert candidates_of(context, employer, 100) == others
    alias = others[0]
    assert alias not in candidates_of(context, replace(employer, object_aliases=(alias,)), 100)
    few = replace(context, controls=replace(context.controls, facts=()))
    invented = candidates_of(few, employer, 20)
    assert len(invented) == 16
    assert all(len(name.split()) == 2 for name in invented)
    assert candidates_of(few, replace(employer, object="tinned fish"), 20) == ()


def test_what_is_made_of_a_name_is_compared_with_the_like_of_it(town: Town) -> None:
    """Another's address would give itself away by the name in it."""
    context = asked(town)
    rows = [ControlFact("Cyril Quill", "email", "cyril.quill@inbox.example")]
    context = replace(context, controls=replace(context.controls, facts=tuple(rows)))
    fact = replace(town.fact(NAME, "phone"), relation="email", object="ada.moss@post.example")
    assert candidates_of(context, fact, 10) == ("ada.moss@inbox.example",)
