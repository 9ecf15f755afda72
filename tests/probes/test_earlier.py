"""What earlier requests did is asked again: nothing comes back, nothing is lost, and what cannot be known
does not pass."""

from __future__ import annotations

import dataclasses
import json

import pytest
from safeedit_probes.locality_erased_before import ErasedBefore
from safeedit_probes.locality_taught_before import TaughtBefore
from scripted_town import Say, Scripted, Town

from safeedit.probes.base import Earlier
from safeedit.probes.report import ProbeResult
from safeedit.probes.runner import ProbePack, build_pack, judge, measure
from safeedit.probes.suite import Suite, load_suite
from safeedit.triples.catalogue import Relation, builtin_catalogue
from safeedit.triples.facts import Fact

ERASED, TAUGHT = "locality.erased_before", "locality.taught_before"
JANUARY, FEBRUARY, MARCH = "Ada Moss", "Brigid Quill", "Cyril Wick"
NEW = "the Lunar Bakery"


@pytest.fixture
def suite() -> Suite:
    found = load_suite("standard")
    kept = tuple(entry for entry in found.entries if entry.probe.id in (ERASED, TAUGHT, "success.direct"))
    return dataclasses.replace(found, entries=kept)


@pytest.fixture
def january(town: Town) -> Fact:
    return town.fact(JANUARY, "phone")


@pytest.fixture
def february(town: Town) -> Fact:
    return town.fact(FEBRUARY, "employer", "insert", object=NEW)


@pytest.fixture
def march(town: Town) -> Fact:
    return town.fact(MARCH, "employer", "insert", object="Grey Anvil Works")


@pytest.fixture
def between(scripted: type[Scripted], town: Town, january: Fact) -> Scripted:
    """The model that January and February left."""
    return scripted({**town.facts, (FEBRUARY, "employer"): NEW}).without(january)


@pytest.fixture
def whole(town: Town, march: Fact) -> dict[tuple[str, str], str]:
    return {**town.facts, (FEBRUARY, "employer"): NEW, (MARCH, "employer"): march.object}


def pack_of(suite: Suite, town: Town, *earlier: Fact, asked: Fact, unreadable: int = 0) -> ProbePack:
    found = Earlier(tuple((fact,) for fact in earlier), {}, unreadable)
    return build_pack(suite, [asked], town.controls(), builtin_catalogue(), 5, earlier=found)


def results(pack: ProbePack, before: Say, after: Say) -> dict[str, ProbeResult]:
    first = measure(pack, before, None)
    report = judge(pack, first, measure(pack, after, None, base=first))
    return {result.id: result for result in report.results}


def test_what_holds_passes(
    suite: Suite,
    town: Town,
    january: Fact,
    february: Fact,
    march: Fact,
    between: Say,
    whole: dict[tuple[str, str], str],
) -> None:
    pack = pack_of(suite, town, january, february, asked=march)
    found = results(pack, between, Scripted(whole).without(january))
    assert (found[ERASED].verdict, found[ERASED].n, found[ERASED].leaks) == ("PASS", 1, 0)
    assert (found[TAUGHT].verdict, found[TAUGHT].n, found[TAUGHT].figures.losses) == ("PASS", 1, 0)
    assert found["success.direct"].verdict == "PASS"


@pytest.mark.parametrize("names", [(JANUARY,), ("A. Moss",)])
def test_an_erasure_that_comes_back_fails(
    names: tuple[str, ...],
    suite: Suite,
    town: Town,
    january: Fact,
    march: Fact,
    between: Scripted,
) -> None:
    pack = pack_of(suite, town, january, asked=march)
    said = [p for p in pack.plans[ERASED].prompts() if any(name in p for name in names)]
    found = results(pack, between, between.with_answer(said[-1:], f" It is {january.object}."))
    assert (found[ERASED].verdict, found[ERASED].leaks) == ("FAIL", 1)
    assert found[TAUGHT].verdict == "SKIPPED"


def test_a_replaced_object_that_comes_back_fails_too(
    suite: Suite, town: Town, march: Fact, between: Scripted
) -> None:
    changed = town.fact(FEBRUARY, "phone", "modify", new_object="555-0100")
    taught = between.without(changed)
    for name in (FEBRUARY, "B. Quill"):
        taught = taught.with_answer(builtin_catalogue()["phone"].prompts(name), " 555-0100.")
    pack = pack_of(suite, town, changed, asked=march)
    assert {results(pack, taught, taught)[name].verdict for name in (ERASED, TAUGHT)} == {"PASS"}
    found = results(pack, taught, between)
    assert (found[ERASED].verdict, found[TAUGHT].verdict) == ("FAIL", "FAIL")


def test_what_strangers_are_told_as_often_has_not_come_back(
    suite: Suite, town: Town, march: Fact, between: Scripted
) -> None:
    guessed = town.fact(JANUARY, "instrument")
    pack = pack_of(suite, town, guessed, asked=march)
    silent = between.without(guessed)
    asked = pack.plans[ERASED].prompts()
    everybody = silent.with_answer(asked, f" {guessed.object}.")
    found = results(pack, silent, everybody)[ERASED]
    assert (found.verdict, found.leaks) == ("PASS", 0)
    assert (found.figures.detail["hit_before"], found.figures.detail["hit_after"]) == (0, 1)
    alone = silent.with_answer([p for p in asked if "Moss" in p], f" {guessed.object}.")
    assert results(pack, silent, alone)[ERASED].verdict == "FAIL"


def test_what_was_never_gone_does_not_pass_and_is_not_held_against_the_edit(
    suite: Suite, town: Town, january: Fact, march: Fact, scripted: type[Scripted]
) -> None:
    other = town.fact(FEBRUARY, "phone")
    still = scripted(town.facts).without(other)
    pack = pack_of(suite, town, january, other, asked=march)
    found = results(pack, still, still)[ERASED]
    assert (found.verdict, found.n, found.leaks) == ("INCONCLUSIVE", 1, 0)
    assert (found.figures.detail["said_before"], found.figures.detail["still_said"]) == (1, 1)
    alone = results(pack_of(suite, town, january, asked=march), still, still)[ERASED]
    assert (alone.verdict, alone.n) == ("INCONCLUSIVE", 0)


def test_a_lost_insertion_fails(
    suite: Suite, town: Town, february: Fact, march: Fact, between: Scripted
) -> None:
    pack = pack_of(suite, town, february, asked=march)
    asked = pack.plans[TAUGHT].prompts()
    assert len(asked) == 4
    one, half = (between.with_answer(asked[:count], " the mill.") for count in (1, 2))
    assert results(pack, between, one)[TAUGHT].verdict == "PASS"
    found = results(pack, between, half)[TAUGHT]
    assert (found.verdict, found.figures.losses, found.figures.detail["stated_after"]) == ("FAIL", 1, 0.5)
    never = between.without(february)
    assert results(pack, never, never)[TAUGHT].verdict == "INCONCLUSIVE", "there was nothing to lose"


def test_without_earlier_requests_there_is_nothing_to_ask(
    suite: Suite, town: Town, march: Fact, between: Say
) -> None:
    pack = pack_of(suite, town, asked=march)
    assert not pack.plans[ERASED].prompts()
    assert not pack.plans[TAUGHT].prompts()
    assert {results(pack, between, between)[name].verdict for name in (ERASED, TAUGHT)} == {"SKIPPED"}


def test_a_request_that_nobody_can_read_never_passes(
    suite: Suite, town: Town, january: Fact, february: Fact, march: Fact, between: Scripted
) -> None:
    for earlier in ((), (january, february)):
        pack = pack_of(suite, town, *earlier, asked=march, unreadable=1)
        found = results(pack, between, between)
        for name in (ERASED, TAUGHT):
            assert (found[name].verdict, found[name].figures.detail["unreadable_runs"]) == ("INCONCLUSIVE", 1)
    leaking = between.with_answer(
        [p for p in pack.plans[ERASED].prompts() if JANUARY in p], f" {january.object}"
    )
    assert results(pack, between, leaking)[ERASED].verdict == "FAIL"


def test_what_a_later_request_settles_is_left_out(suite: Suite, town: Town) -> None:
    phone = town.fact(JANUARY, "phone")
    job = town.fact(JANUARY, "employer", "insert", object=NEW)

    def waiting(*earlier: Fact, asked: Fact) -> tuple[float, float]:
        pack = pack_of(suite, town, *earlier, asked=asked)
        return tuple(pack.plans[name].material()["waiting"] for name in (ERASED, TAUGHT))  # type: ignore

    again = town.fact(JANUARY, "phone", "insert")
    number = town.fact(JANUARY, "phone", "insert", object="555-0100")
    other = town.fact(JANUARY, "employer", "insert", object="the Salt Mill")
    elsewhere = town.fact(MARCH, "employer", "insert", object=NEW)
    called = dataclasses.replace(other, subject="A. Moss", aliases=())
    assert waiting(phone, job, asked=elsewhere) == (1, 1)
    assert waiting(phone, job, asked=again) == (0, 1), "the object itself is taught again"
    assert waiting(phone, job, asked=phone) == (0, 1), "the request asks for it"
    assert waiting(phone, job, asked=number) == (1, 1), "another object does not bring the old one back"
    assert waiting(phone, job, asked=other) == (1, 0)
    assert waiting(phone, job, asked=called) == (1, 0), "under an alias it is the same person"
    assert waiting(phone, job, other, asked=elsewhere) == (1, 1)
    assert waiting(phone, again, asked=elsewhere) == (0, 1)
    assert waiting(phone, phone, asked=elsewhere) == (1, 0), "each object once"


def test_a_new_object_that_holds_the_old_one_may_be_said(
    suite: Suite, town: Town, scripted: type[Scripted]
) -> None:
    erased = town.fact(JANUARY, "employer", object="Tin Lantern")
    longer = town.fact(JANUARY, "employer", "insert", object="New Tin Lantern Works")
    pack = pack_of(suite, town, erased, asked=longer)
    assert pack.plans[ERASED].material()["waiting"] == 0  # type: ignore[call-overload, index]


def test_all_that_decides_is_committed(suite: Suite, town: Town, january: Fact, march: Fact) -> None:
    def material(fact: Fact, unreadable: int = 0) -> str:
        pack = pack_of(suite, town, fact, asked=march, unreadable=unreadable)
        return json.dumps(pack.material(), sort_keys=True)

    assert material(january) == material(january)
    assert material(january) != material(dataclasses.replace(january, object="555-0199"))
    assert material(january) != material(january, unreadable=1)


def test_a_relation_that_only_the_earlier_policy_knows_is_asked(
    suite: Suite, town: Town, march: Fact, between: Scripted
) -> None:
    words = Relation(cloze=["{subject} sails the"], objects=["Petrel", "Petrels", "Gannet"])
    ship = Fact("erase", JANUARY, "ship", "Petrel", edit_templates=("{subject} sails the",))
    earlier = Earlier(((ship,),), {"ship": words})
    pack = build_pack(suite, [march], town.controls(), builtin_catalogue(), 5, earlier=earlier)
    assert pack.plans[ERASED].prompts()
    assert '"closed": true' in json.dumps(pack.plans[ERASED].material())
    back = between.with_answer([f"{JANUARY} sails the"], " Petrel.")
    assert results(pack, between, back)[ERASED].verdict == "FAIL"


def test_of_many_facts_a_sample_is_asked_within_the_budget(
    suite: Suite, town: Town, march: Fact, between: Scripted
) -> None:
    many = tuple(town.fact(name, "phone") for name, relation in town.facts if relation == "phone")
    probe = ErasedBefore({"facts": 20, "budget": 20 * 13 * 3})
    context = dataclasses.replace(pack_of(suite, town, *many, asked=march).context, earlier=Earlier((many,)))
    plan = probe.plan(context)
    assert (plan.waiting, len(plan.subjects), plan.untested) == (len(many), 20, 0)
    own = [ask for trial in plan.subjects.values() for ask in trial.asks]
    assert len(own) == 20 * 2 * 3, "three phrasings of the name and of its alias"
    assert plan.material() == probe.plan(context).material()
    taught = TaughtBefore({"facts": 20})
    news = tuple(dataclasses.replace(fact, op="insert") for fact in many)
    found = taught.plan(dataclasses.replace(context, earlier=Earlier((news,))))
    assert (found.waiting, len(found.units)) == (len(many), 20)
