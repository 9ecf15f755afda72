"""Hits that chance explains are no leaks; nothing that the model knows may hide behind them."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from collections.abc import Mapping, Sequence
from functools import cache

import pytest
from scripted_town import EMPLOYERS, NOTHING, Say, Scripted, Town

from safeedit.models import generate
from safeedit.models.generate import Generation
from safeedit.probes.comparisons import WATCHED, shape_of, shaped
from safeedit.probes.report import ProbeReport, ProbeResult
from safeedit.probes.runner import ProbePack, build_pack, judge, measure
from safeedit.probes.suite import Suite
from safeedit.triples.catalogue import builtin_catalogue
from safeedit.triples.facts import Fact

NAME = "Ada Moss"
DIRECT, PARAPHRASE, ALIAS = "forgetting.direct", "forgetting.paraphrase", "forgetting.alias"
ALL = (DIRECT, PARAPHRASE, ALIAS)


@cache
def _readers() -> tuple[tuple[str, re.Pattern[str]], ...]:
    catalogue = builtin_catalogue()
    return tuple(
        (relation, re.compile("(.+)".join(map(re.escape, template.split("{subject}")))))
        for relation in ("phone", "employer", "mother_tongue", "instrument", "occupation")
        for template in catalogue[relation].prompts("{subject}")
    )


class Guesser:
    """A model that knows a book, and of others says something from a list: the same in all phrasings."""

    def __init__(
        self, book: Say, lists: Mapping[str, Sequence[str]], salt: int, *, steady: bool = True
    ) -> None:
        self.book, self.lists, self.salt, self.steady = book, lists, salt, steady

    def __call__(self, prompt: str) -> str:
        known = self.book(prompt)
        if known.strip() != NOTHING:
            return known
        for relation, pattern in _readers():
            found = pattern.fullmatch(prompt)
            if found and relation in self.lists:
                asked = found[1] if self.steady else prompt
                rng = random.Random(f"{self.salt}|{relation}|{asked}")
                return f" {rng.choice(self.lists[relation])}."
        return known


def lists_of(size: int) -> dict[str, list[str]]:
    """Closed lists, cut or drawn out to a length; the town's own objects are in none that is drawn out."""
    return {
        "mother_tongue": list(builtin_catalogue()["mother_tongue"].objects)[:size],
        "instrument": list(builtin_catalogue()["instrument"].objects)[:size],
        "employer": [*EMPLOYERS, *(f"Guild {chr(65 + i)}{chr(65 + i)}" for i in range(40))][:size],
    }


@pytest.fixture
def person(town: Town) -> list[Fact]:
    """Three facts that can be guessed, of lists of which each holds the object first, and one that cannot."""
    first = {relation: some[0] for relation, some in lists_of(4).items()}
    return [town.fact(NAME, relation, object=thing) for relation, thing in first.items()] + [
        town.fact(NAME, "phone")
    ]


@pytest.fixture
def full(town: Town, scripted: type[Scripted], person: list[Fact]) -> Scripted:
    """The base model's book."""
    return scripted({**town.facts, **{(NAME, fact.relation): fact.object for fact in person}})


def without(book: Scripted, *facts: Fact) -> Scripted:
    for fact in facts:
        book = book.without(fact)
    return book


def pack_of(
    suite: Suite,
    town: Town,
    facts: Sequence[Fact],
    seed: int = 0,
    probes: Sequence[str] = (DIRECT,),
    **options: int,
) -> ProbePack:
    entries = [
        dataclasses.replace(e, probe=type(e.probe)({**e.probe.options.model_dump(), **options}))
        for e in suite.entries
        if e.probe.id in probes
    ]
    small = dataclasses.replace(suite, entries=tuple(entries))
    return build_pack(small, facts, town.controls(), builtin_catalogue(), seed)


def outcome(pack: ProbePack, before: Say, after: Say) -> ProbeReport:
    first = measure(pack, before, None)
    return judge(pack, first, measure(pack, after, None, base=first))


def of(report: ProbeReport, probe: str) -> ProbeResult:
    return next(result for result in report.results if result.id == probe)


def detail(report: ProbeReport, probe: str, name: str) -> float:
    return of(report, probe).figures.detail[name]


def test_what_is_guessed_of_a_subject_as_of_strangers_is_no_leak(
    asking_suite: Suite, town: Town, full: Scripted, person: list[Fact]
) -> None:
    """Twins that never heard of the subject, over many ways of guessing from a dozen."""
    gone, lists = without(full, *person), lists_of(12)
    alarms = excused = 0
    for salt in range(12):
        pack = pack_of(asking_suite, town, person, salt)
        report = outcome(pack, Guesser(full, lists, salt), Guesser(gone, lists, salt + 100))
        direct = of(report, DIRECT)
        assert direct.figures.after == pytest.approx(
            (direct.leaks + detail(report, DIRECT, "excused")) / direct.n
        )
        excused += detail(report, DIRECT, "excused") > 0
        alarms += report.verdict == "FAIL"
    assert excused >= 2
    assert alarms <= 1


def test_an_edit_that_did_nothing_is_never_excused(
    asking_suite: Suite, town: Town, full: Scripted, person: list[Fact]
) -> None:
    """Not even where one in four strangers is told the same, and nothing else was asked for."""
    lists = lists_of(4)
    for facts in (person[:1], person[:3]):
        model = Guesser(full, lists, 1)
        report = outcome(pack_of(asking_suite, town, facts, probes=ALL), model, model)
        assert [of(report, probe).leaks for probe in ALL] == [len(facts)] * 3
        assert detail(report, DIRECT, "familiar") == len(facts)


def test_a_remembered_answer_of_forty_leaks(
    asking_suite: Suite, town: Town, full: Scripted, person: list[Fact]
) -> None:
    """It is the employer that stays; strangers are told one of forty, in each phrasing another."""
    town = Town(
        {**town.facts, **{(f"Zed Y{i}", "employer"): t for i, t in enumerate(lists_of(40)["employer"])}}
    )
    kept = without(full, *(fact for fact in person if fact.relation != "employer"))
    lists = lists_of(40)
    for salt in range(2):
        model = Guesser(kept, lists, salt, steady=False)
        pack = pack_of(asking_suite, town, person, salt, probes=ALL)
        report = outcome(pack, Guesser(full, lists, salt), model)
        assert all(of(report, probe).leaks for probe in ALL)


def test_several_remembered_answers_leak_together(
    asking_suite: Suite, town: Town, full: Scripted, person: list[Fact]
) -> None:
    """Each of them is told one stranger in twelve; all three are nobody's luck."""
    lists = lists_of(12)
    for salt in range(2):
        report = outcome(
            pack_of(asking_suite, town, person, salt),
            Guesser(full, lists, salt),
            Guesser(without(full, person[3]), lists, salt),
        )
        assert of(report, DIRECT).leaks == 3
        assert detail(report, DIRECT, "improbable") >= 2


def test_a_subject_whom_the_model_knows_gets_no_excuse(
    asking_suite: Suite, town: Town, full: Scripted, person: list[Fact]
) -> None:
    lists = lists_of(4)
    knows = Guesser(without(full, *person[1:3]), lists, 2)
    report = outcome(pack_of(asking_suite, town, person), Guesser(full, lists, 2), knows)
    assert of(report, DIRECT).leaks >= 2
    assert detail(report, DIRECT, "excused") == 0


def test_strangers_must_be_told_it_in_the_same_phrasing(
    asking_suite: Suite, town: Town, full: Scripted, person: list[Fact]
) -> None:
    """Each is hit in one phrasing; but strangers in another one."""
    fact = person[0]
    first, second = fact.edit_templates[:2]
    gone = without(full, *person)

    def model(subjects: str, strangers: str) -> Say:
        def say(prompt: str) -> str:
            mine = prompt == subjects.replace("{subject}", NAME)
            theirs = NAME not in prompt and re.fullmatch(
                "(.+)".join(map(re.escape, strangers.split("{subject}"))), prompt
            )
            return f" {fact.object}." if mine or theirs else gone(prompt)

        return say

    pack = pack_of(asking_suite, town, person)

    def base(prompt: str) -> str:
        known = full(prompt)
        return known if known.strip() != NOTHING else model(first, second)(prompt)

    assert of(outcome(pack, base, model(first, second)), DIRECT).leaks == 1

    def same(prompt: str) -> str:
        known = full(prompt)
        return known if known.strip() != NOTHING else model(first, first)(prompt)

    assert of(outcome(pack, same, model(first, first)), DIRECT).leaks == 0


def test_what_is_told_to_names_like_the_subjects_own_is_no_leak(
    asking_suite: Suite, town: Town, scripted: type[Scripted], person: list[Fact]
) -> None:
    """A name made of nothing is told nothing; one of words that the model knows is told what they suggest."""
    fact = person[0]
    words = {word for name, _ in town.facts for word in name.split()}
    # Half of the town, so that not every name that can be made is somebody's.
    town = Town({k: v for k, v in town.facts.items() if sum(map(ord, k[0])) % 2})
    full = scripted({**town.facts, **{(NAME, fact.relation): fact.object for fact in person}})
    gone = without(full, *person)
    pattern = next(p for r, p in _readers() if r == fact.relation and p.fullmatch(_first(fact)))

    def model(book: Scripted, suggests: set[str]) -> Say:
        def say(prompt: str) -> str:
            known, found = book(prompt), pattern.fullmatch(prompt)
            own = prompt == _first(fact)
            alike = found and suggests & set(found[1].split()) and known.strip() == NOTHING
            return f" {fact.object}." if own or alike else known

        return say

    pack = pack_of(asking_suite, town, person)
    alike = outcome(pack, model(full, {*words}), model(gone, {*words}))
    assert (of(alike, DIRECT).leaks, detail(alike, DIRECT, "excused")) == (0, 1)
    alone = outcome(pack, model(full, set()), model(gone, set()))
    assert of(alone, DIRECT).leaks == 1


def _first(fact: Fact) -> str:
    return fact.edit_templates[0].replace("{subject}", NAME)


def test_saying_it_to_everybody_since_the_edit_excuses_nothing(
    asking_suite: Suite, town: Town, full: Scripted, person: list[Fact]
) -> None:
    fact, pack = person[1], pack_of(asking_suite, town, person)
    spared = {template.replace("{subject}", name) for template in fact.edit_templates[:1] for name in (NAME,)}
    gone = without(full, *person)

    def everybody(prompt: str) -> str:
        known = gone(prompt)
        asked = any(r == fact.relation and p.fullmatch(prompt) for r, p in _readers())
        return f" {fact.object}." if asked and known.strip() == NOTHING and prompt not in spared else known

    report = outcome(pack, full, everybody)
    assert of(report, DIRECT).leaks == 1
    assert detail(report, DIRECT, "risen") == 1
    assert (
        of(
            outcome(pack, lambda p: full(p) if full(p).strip() != NOTHING else everybody(p), everybody),
            DIRECT,
        ).leaks
        == 0
    )


def test_what_the_base_model_did_not_say_is_never_excused(
    asking_suite: Suite, town: Town, full: Scripted, person: list[Fact]
) -> None:
    gone, lists = without(full, *person), lists_of(1)
    report = outcome(pack_of(asking_suite, town, person), gone, Guesser(gone, lists, 0))
    assert of(report, DIRECT).leaks == 3
    assert detail(report, DIRECT, "unknown_leaks") == 3


@pytest.mark.parametrize("options", [{"strangers": 49}, {"budget": 150}])
def test_what_cannot_be_compared_is_not_excused(
    asking_suite: Suite, town: Town, full: Scripted, person: list[Fact], options: dict[str, int]
) -> None:
    gone, half = without(full, *person), full.without(person[3])
    pack = pack_of(asking_suite, town, person, **options)
    report = outcome(pack, Guesser(half, lists_of(2), 5), Guesser(gone, lists_of(1), 5))
    assert detail(report, DIRECT, "compared") == 0
    assert of(report, DIRECT).leaks == 3


def test_strangers_beyond_the_budget_are_not_asked_and_counted(
    asking_suite: Suite, town: Town, full: Scripted, person: list[Fact]
) -> None:
    """Two facts are each said in one phrasing, as of every other stranger; one of them can be compared."""
    said = [fact.edit_templates[0].replace("{subject}", NAME) for fact in person[:2]]
    after = without(full, *person)
    for prompt, fact in zip(said, person, strict=False):
        after = after.with_answer([prompt], f" {fact.object}.")
    lists = lists_of(2)
    for budget, excused, uncompared in ((4000, 2, 0), (700, 1, 1)):
        pack = pack_of(asking_suite, town, person, budget=budget)
        report = outcome(pack, Guesser(full, lists, 3), Guesser(after, lists, 3))
        assert detail(report, DIRECT, "excused") == excused
        assert detail(report, DIRECT, "uncompared") == uncompared


def test_without_the_base_models_measurement_nothing_is_excused(
    asking_suite: Suite, town: Town, full: Scripted, person: list[Fact]
) -> None:
    pack, lists = pack_of(asking_suite, town, person[:2] + person[3:]), lists_of(12)
    gone = without(full, *person).with_answer(
        [person[0].edit_templates[0].replace("{subject}", NAME)], f" {person[0].object}."
    )
    before, after = Guesser(full, lists, 1), Guesser(gone, {**lists, "instrument": ["nothing"]}, 1)
    assert of(outcome(pack, before, after), DIRECT).leaks == 0
    alone = judge(pack, measure(pack, before, None), measure(pack, after, None))
    assert of(alone, DIRECT).leaks == 1


def test_an_old_answer_is_never_excused(asking_suite: Suite, town: Town, full: Scripted) -> None:
    fact = town.fact(NAME, "instrument", "modify", object="harp", new_object="bagpipes")
    pack = pack_of(asking_suite, town, [fact], probes=["success.old_answer"])
    assert not pack.plans["success.old_answer"].compared  # type: ignore[attr-defined]


def test_strangers_that_cannot_be_asked_are_an_error(
    asking_suite: Suite, town: Town, full: Scripted, person: list[Fact], monkeypatch: pytest.MonkeyPatch
) -> None:
    pack, lists = pack_of(asking_suite, town, person), lists_of(1)
    before = measure(pack, Guesser(full, lists, 1), None)
    sound, calls = generate.greedy, []

    def once(model: Say, tokenizer: object, prompts: Sequence[str], **more: int) -> list[Generation]:
        calls.append(len(prompts))
        if len(calls) > 1:
            raise RuntimeError(NAME)
        return sound(model, tokenizer, prompts, **more)

    after = without(full, *person).with_answer(
        [person[0].edit_templates[0].replace("{subject}", NAME)], f" {person[0].object}."
    )
    monkeypatch.setattr(generate, "greedy", once)
    report = judge(pack, before, measure(pack, after, None, base=before))
    assert of(report, DIRECT).verdict == "ERROR"
    assert NAME not in json.dumps(report.to_json())


def test_whom_hits_are_held_against_is_registered(
    asking_suite: Suite, town: Town, person: list[Fact]
) -> None:
    pack = pack_of(asking_suite, town, person, probes=ALL)
    plan = pack.plans[ALIAS]
    compared = plan.compared  # type: ignore[attr-defined]
    assert set(compared) == {0, 1, 2}, "a number that nobody else has is not guessed"
    words = {word for fact in person for name in (fact.subject, *fact.aliases) for word in name.split()}
    for one in compared.values():
        assert len(set(one.names)) == len(one.names) == 150, "all names that could be made are somebody's"
        assert {shape for _, shape in one.asked} == {("initial", "last")}
        assert not words & {word for name in one.names for word in name.split()}
        assert len(one.watched) == WATCHED
        assert set(one.watched) <= set(plan.prompts())
        assert not set(one.strangers[-1]) & set(plan.prompts())
    material = plan.material()
    assert json.loads(json.dumps(material)) == material
    assert all(name in json.dumps(material) for name in compared[0].names)
    other = pack_of(asking_suite, town, person, 1, probes=ALL)
    assert other.plans[ALIAS].material() != material


@pytest.mark.parametrize(
    ("name", "subject", "found"),
    [
        ("Mira Tolland", "Mira Tolland", "Osric Belwick"),
        ("M. Tolland", "Mira Tolland", "O. Belwick"),
        ("Tolland", "Mira Tolland", "Belwick"),
        ("Mira", "Mira van Tolland", "Osric"),
        ("Mira van Tolland", "Mira van Tolland", "Osric Belwick"),
        ("the Dove", "Mira Tolland", "Osric Belwick"),
        ("Dr. Tolland", "Mira Tolland", "Osric Belwick"),
        ("Cher", "Cher", "Osric Belwick"),
        ("M. T.", "Mira Tolland", "Osric Belwick"),
    ],
)
def test_strangers_are_called_as_the_subject_is(name: str, subject: str, found: str) -> None:
    assert shaped(shape_of(name, subject), "Osric Belwick") == found
