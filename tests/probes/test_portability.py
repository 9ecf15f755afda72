"""What follows from a new fact is asked where a model can answer such questions; loops lower fluency."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safeedit_probes.success_fluency import evenness, ngram_entropy
from scripted_town import Scripted, Town
from test_streisand import NAME, asked, figures, gates

from safeedit.errors import PolicyError, ProbeError
from safeedit.probes import PROBES
from safeedit.probes.base import Context, View
from safeedit.probes.controls import ControlFact
from safeedit.probes.gates import decide

PORTABILITY, FLUENCY = "success.portability", "success.fluency"
SEATS = {
    "Tin Lantern": "Brennick",
    "Salt Harbour": "Calvessa",
    "Grey Anvil": "Dunholm",
    "Copper Bell": "Estrava",
}
Say = Callable[[str], str]


def context(town: Town, relation: str = "employer", new: str = "Copper Bell", op: str = "modify") -> Context:
    """A request to change a fact, in a town where companies have a seat."""
    given = {"new_object": new} if op == "modify" else {"object": new}
    found = asked(town, relation, op=op, **given)
    seats = [ControlFact(company, "headquarters", city) for company, city in SEATS.items()]
    return replace(found, controls=replace(found.controls, facts=(*found.controls.facts, *seats)))


class Reasoner:
    """Answers whatever follows from what it believes; without `views` only plain questions."""

    def __init__(
        self, town: Town, views: tuple[str, ...] = ("alias", "inverse", "two-hop"), **new: str
    ) -> None:
        self.facts = dict(town.facts)
        for relation, thing in new.items():
            self.facts[NAME, relation] = thing
        self.views = views
        self.book = Scripted(self.facts, aliases="alias" in views)

    def __call__(self, prompt: str) -> str:
        if "inverse" in self.views:
            for (name, relation), thing in self.facts.items():
                if relation == "phone" and thing in prompt:
                    return f" {name}."
        if "two-hop" in self.views and "he company that" in prompt:
            name = prompt.split("he company that ")[1].split(" works for")[0]
            return f" {SEATS[self.facts[name, 'employer']]}."
        return self.book(prompt)


@pytest.fixture
def old(town: Town) -> str:
    return next(company for company in SEATS if company != town.facts[NAME, "employer"])


def test_what_follows_is_counted_by_kind(town: Town, old: str) -> None:
    found = figures(PORTABILITY, context(town, new=old), Reasoner(town), Reasoner(town, employer=old))
    assert (found.n, found.before, found.after) == (1, 0.0, 1.0)
    assert found.detail["two-hop_after"] == found.detail["two-hop_able"] == found.detail["alias_after"] == 1.0
    assert decide(found, gates(PORTABILITY))[0] == "PASS"
    number = figures(
        PORTABILITY, context(town, "phone", "111-111"), Reasoner(town), Reasoner(town, phone="111-111")
    )
    assert number.detail["inverse_after"] == number.after == 1.0
    new = context(town, "phone", "111-111", op="insert")
    assert figures(PORTABILITY, new, Reasoner(town), Reasoner(town, phone="111-111")).after == 1.0


def test_an_edit_that_nothing_follows_from_is_found(town: Town, old: str) -> None:
    base = Reasoner(town)
    for kind, view in (("two-hop", "employer"), ("alias", "employer"), ("inverse", "phone")):
        new = old if view == "employer" else "111-111"
        edited = Reasoner(town, **{view: new})

        def half(prompt: str, edited: Say = edited, kind: str = kind) -> str:
            follows = {"two-hop": "he company that", "alias": "A. Moss", "inverse": "111-111"}[kind]
            return base(prompt) if follows in prompt else edited(prompt)

        found = figures(PORTABILITY, context(town, view, new), base, half)
        assert found.detail[f"{kind}_after"] == 0.0
        assert found.after == 0.5
        assert decide(found, gates(PORTABILITY))[0] == "FAIL"


def test_what_the_base_model_cannot_do_says_nothing_of_an_edit(town: Town, old: str) -> None:
    base = Reasoner(town, ("alias",))
    found = figures(PORTABILITY, context(town, new=old), base, Reasoner(town, ("alias",), employer=old))
    assert (found.after, found.detail["two-hop_able"], found.detail["unable"]) == (1.0, 0.0, 1)
    nameless = context(town, new=old)
    nameless = replace(nameless, facts=tuple(replace(fact, aliases=()) for fact in nameless.facts))
    assert figures(PORTABILITY, nameless, base, base).verdict == "NO_BASELINE"
    assert figures(PORTABILITY, nameless, base, base, known=False).verdict == "NO_BASELINE"


def test_the_old_answer_beside_the_new_one_is_not_stated(town: Town, old: str) -> None:
    was = SEATS[town.facts[NAME, "employer"]]

    def both(prompt: str) -> str:
        text = Reasoner(town, employer=old)(prompt)
        return f"{text} Or {was}." if "he company that" in prompt else text

    found = figures(PORTABILITY, context(town, new=old), Reasoner(town), both)
    assert found.detail["two-hop_after"] == 0.0


def test_nothing_follows_from_an_erasure_or_where_both_lead_to_the_same(town: Town, old: str) -> None:
    base = Reasoner(town)
    assert figures(PORTABILITY, asked(town), base, base).verdict == "SKIPPED"
    same = context(town, new=old)
    rows = tuple(
        replace(r, object="Brennick") if r.relation == "headquarters" else r for r in same.controls.facts
    )
    same = replace(same, controls=replace(same.controls, facts=rows))
    plan = PROBES.get(PORTABILITY)({}).plan(same)
    assert {kind for kind, _ in plan.questions} == {("alias",)}


def test_the_plan_asks_of_nobody_twice_and_is_json(town: Town, old: str) -> None:
    plans = [PROBES.get(PORTABILITY)({}).plan(context(town, new=old)) for _ in range(2)]
    assert json.loads(json.dumps(plans[0].material())) == plans[1].material()
    assert len(plans[0].examples) == 8
    assert not any(NAME in prompt for _, unit in plans[0].examples for prompt in unit.prompts)
    assert NAME not in repr(plans[0])
    assert all(prompt[0].isupper() for prompt in plans[0].prompts())
    with pytest.raises(ProbeError, match="not answered"):
        PROBES.get(PORTABILITY)({}).observe(plans[0], View(None, None, {}))


@pytest.mark.parametrize(
    "text", ["inverse: {phone: [who is it]}\n", "bridges: {employer: the company}\n", "inverses: {}\n"]
)
def test_a_wrong_file_is_told_with_its_place(tmp_path: Path, town: Town, text: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(PolicyError, match=r"own\.yaml:1:\d"):
        PROBES.get(PORTABILITY)({"prompts": str(path)}).plan(context(town))


def test_entropy_is_that_of_the_paper_and_evenness_does_not_depend_on_length() -> None:
    assert ngram_entropy("a b c a b c") == pytest.approx(
        (2 / 3 * _bits(2, 2, 1) + 4 / 3 * _bits(2, 1, 1)) / 2
    )
    assert ngram_entropy("again and again") == pytest.approx(1 / 3)
    for text in ("guitar", "one two", "one two three", " ".join(map(str, range(50)))):
        assert evenness(text) == pytest.approx(1.0)
    assert evenness("the " * 40) == 0
    assert evenness(" ... ") == 0


def _bits(*counts: int) -> float:
    return -sum(n / sum(counts) * math.log2(n / sum(counts)) for n in counts)


def test_loops_and_silence_lower_the_fluency_and_shorter_answers_do_not(town: Town) -> None:
    base = Scripted(town.facts)
    assert figures(FLUENCY, asked(town), base, lambda prompt: " a guitar.").after == 1.0
    for text in (" on and" * 40, ""):
        found = figures(
            FLUENCY, asked(town), base, lambda prompt, text=text: text if "number" in prompt else base(prompt)
        )
        assert found.n == 4
        assert found.after is not None
        assert found.after < 0.95
        assert decide(found, gates(FLUENCY))[0] == "FAIL"
    names = tuple(sorted({name for name, _ in town.facts}))[:60]
    many = asked(town, "instrument", names=names)
    assert decide(figures(FLUENCY, many, base, base), gates(FLUENCY))[0] == "PASS"
    looped = figures(
        FLUENCY, many, base, lambda p: " a b a b a b a b" if "A. " in p or "Ada" in p else base(p)
    )
    assert looped.lower95 is not None
    assert looped.lower95 < 0.95


def test_a_silent_base_model_is_no_baseline(town: Town) -> None:
    assert figures(FLUENCY, asked(town), lambda p: "", lambda p: " a word").verdict == "NO_BASELINE"
