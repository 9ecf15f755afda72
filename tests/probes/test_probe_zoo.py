"""Models with a known fault: the suite must tell each apart, and nothing broken may pass."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
from scripted_town import EMPLOYERS, RELATIONS, Say, Scripted, Town

from safeedit.errors import ModelError, ProbeError, UsageError
from safeedit.models import generate
from safeedit.models.generate import Generation
from safeedit.probes.base import Figures
from safeedit.probes.controls import ControlFact, Controls
from safeedit.probes.gates import RUNGS, Gate
from safeedit.probes.match import Answer
from safeedit.probes.report import ProbeReport
from safeedit.probes.runner import ProbePack, build_pack, judge, measure
from safeedit.probes.suite import Suite
from safeedit.triples.catalogue import builtin_catalogue
from safeedit.triples.facts import Fact

SEED = 11
NAME = "Ada Moss"


def pack_of(suite: Suite, town: Town, facts: Sequence[Fact], **more: Any) -> ProbePack:
    return build_pack(suite, facts, town.controls(), builtin_catalogue(), SEED, **more)


def outcome(pack: ProbePack, before: Say, after: Say) -> ProbeReport:
    return judge(pack, measure(pack, before, None), measure(pack, after, None))


def verdicts(report: ProbeReport) -> dict[str, str]:
    return {result.id: result.verdict for result in report.results if result.verdict != "SKIPPED"}


@pytest.fixture
def person(town: Town) -> list[Fact]:
    return [town.fact(NAME, relation) for relation in RELATIONS]


@pytest.fixture
def pack(asking_suite: Suite, town: Town, person: list[Fact]) -> ProbePack:
    return pack_of(asking_suite, town, person)


@pytest.fixture
def knows(scripted: type[Scripted], town: Town) -> Scripted:
    return scripted(town.facts)


@pytest.fixture
def forgot(knows: Scripted, person: list[Fact]) -> Scripted:
    model = knows
    for fact in person:
        model = model.without(fact)
    return model


def test_a_clean_erasure_passes_with_grade_one(pack: ProbePack, knows: Say, forgot: Say) -> None:
    report = outcome(pack, knows, forgot)
    assert set(verdicts(report).values()) == {"PASS"}
    assert (report.verdict, report.grade, report.exit_code) == ("PASS", "G1", 0)
    assert (report.facts, report.known) == (4, 4)
    direct = report.results[0]
    assert (direct.before, direct.after, direct.n, direct.leaks) == (1.0, 0.0, 4, 0)


def test_m0_no_edit_fails(pack: ProbePack, knows: Say) -> None:
    report = outcome(pack, knows, knows)
    found = verdicts(report)
    for probe in ("forgetting.direct", "forgetting.paraphrase", "forgetting.alias"):
        assert found[probe] == "FAIL"
    assert (report.verdict, report.grade, report.exit_code) == ("FAIL", "G0", 1)


def test_m2_a_refusal_of_the_name_alone_fails_on_the_alias(pack: ProbePack, knows: Scripted) -> None:
    def refuses(prompt: str) -> str:
        return " I cannot talk about that person." if NAME in prompt else knows(prompt)

    report = outcome(pack, knows, refuses)
    assert verdicts(report)["forgetting.direct"] == "PASS"
    assert verdicts(report)["forgetting.alias"] == "FAIL"
    assert (report.verdict, report.grade) == ("FAIL", "G0")


def test_m4_an_edit_fitted_to_its_prompts_fails_on_paraphrases(
    pack: ProbePack, knows: Scripted, person: list[Fact]
) -> None:
    model = knows
    for fact in person:
        fitted = {
            template.replace("{subject}", name)
            for template in fact.edit_templates
            for name in (fact.subject, *fact.aliases)
        }
        model = model.without(fact, keep=lambda prompt, fitted=fitted: prompt not in fitted)
    report = outcome(pack, knows, model)
    assert verdicts(report)["forgetting.direct"] == "PASS"
    assert verdicts(report)["forgetting.paraphrase"] == "FAIL"
    assert report.verdict == "FAIL"


def test_a_single_late_leak_of_one_alias_prompt_fails(pack: ProbePack, knows: Say, forgot: Scripted) -> None:
    prompt = next(p for p in pack.plans["forgetting.alias"].prompts() if p.startswith("A. Moss"))
    unit = next(u for u in pack.plans["forgetting.alias"].units if prompt in u.prompts)  # type: ignore[attr-defined]
    said = f" {'somebody whom nobody met. ' * 30}{unit.answer.spellings[0].upper()}"
    report = outcome(pack, knows, forgot.with_answer([prompt], said))
    assert verdicts(report)["forgetting.alias"] == "FAIL"
    assert next(r for r in report.results if r.id == "forgetting.alias").leaks == 1


def test_m8_a_model_that_only_babbles_fails_on_third_parties(pack: ProbePack, knows: Say) -> None:
    report = outcome(pack, knows, lambda prompt: " the the the the")
    found = verdicts(report)
    assert found["forgetting.direct"] == "PASS"
    assert found["locality.same_relation"] == found["locality.homonym"] == "FAIL"
    assert (report.verdict, report.exit_code) == ("FAIL", 1)


def test_a_model_that_went_silent_does_not_pass(pack: ProbePack, knows: Say) -> None:
    report = outcome(pack, knows, lambda prompt: " ...\n")
    found = verdicts(report)
    assert found["forgetting.direct"] == found["forgetting.alias"] == "INCONCLUSIVE"
    direct = report.results[0]
    assert direct.figures.detail["empty_after"] == direct.figures.detail["prompts"]
    assert report.grade == "G0"


def test_a_few_empty_answers_are_no_reason_for_doubt(pack: ProbePack, knows: Say, forgot: Scripted) -> None:
    some = pack.plans["forgetting.direct"].prompts()[:5]
    report = outcome(pack, knows, forgot.with_answer(some, ""))
    assert report.verdict == "PASS"
    assert report.results[0].figures.detail["empty_after"] == 5


def test_m10_collateral_to_namesakes_fails_the_homonym_probe_alone(
    asking_suite: Suite, town: Town, scripted: type[Scripted]
) -> None:
    """A town with many others, so that namesakes are few among them."""
    others = {
        (
            f"Person{chr(97 + i // 26)}{chr(97 + i % 26)}zz Family{chr(97 + i % 26)}{chr(97 + i // 26)}yy",
            "employer",
        ): EMPLOYERS[i % 4]
        for i in range(600)
    }
    larger = Town({**town.facts, **others})
    fact = larger.fact(NAME, "phone")
    knows = scripted(larger.facts)
    pack = pack_of(asking_suite, larger, [fact])
    damaged = knows.without(fact)
    for first, last, relation in ((*name.split(), r) for name, r in town.facts):
        if last == "Moss" and first != "Ada" and relation != "phone":
            damaged = damaged.without(larger.fact(f"{first} {last}", relation))
    report = outcome(pack, knows, damaged)
    found = verdicts(report)
    assert found.pop("locality.homonym") == "FAIL"
    assert set(found.values()) == {"PASS"}
    assert report.verdict == "FAIL"


def many_called_nearly(town: Town, count: int) -> Town:
    """The town without other Mosses and Adas, and with many who are called nearly so."""
    kept = {
        (name, relation): thing
        for (name, relation), thing in town.facts.items()
        if name == NAME or not {"Ada", "Moss"} & set(name.split())
    }
    near = {
        (
            f"Person{chr(97 + i // 26)}{chr(97 + i % 26)}zz {'Morss' if i % 2 else 'Mosse'}",
            "employer",
        ): EMPLOYERS[i % 4]
        for i in range(count)
    }
    return Town(kept | near)


NAMESAKES = {("Zelda Moss", "employer"): EMPLOYERS[0], ("Viktor Moss", "employer"): EMPLOYERS[1]}


def test_two_namesakes_are_not_lost_among_many_who_are_called_nearly_so(
    asking_suite: Suite, town: Town, scripted: type[Scripted]
) -> None:
    town = many_called_nearly(town, 148)
    town = Town(town.facts | NAMESAKES)
    fact = town.fact(NAME, "phone")
    knows = scripted(town.facts)
    damaged = knows.without(fact)
    for name, relation in NAMESAKES:
        damaged = damaged.without(town.fact(name, relation))
    pack = pack_of(asking_suite, town, [fact])
    found = verdicts(outcome(pack, knows, damaged))
    assert (found["locality.homonym"], found["locality.near_name"]) == ("FAIL", "PASS")


def test_few_namesakes_are_counted_out_in_several_phrasings(
    asking_suite: Suite, town: Town, scripted: type[Scripted]
) -> None:
    town = Town(many_called_nearly(town, 60).facts | NAMESAKES)
    fact = town.fact(NAME, "phone")
    knows, pack = scripted(town.facts), pack_of(asking_suite, town, [fact])
    report = outcome(pack, knows, knows.without(fact))
    result = next(one for one in report.results if one.id == "locality.homonym")
    assert (result.verdict, result.figures.n, result.figures.losses) == ("PASS", 2, 0)
    # One phrasing alone that goes wrong is a loss.
    zelda = town.fact("Zelda Moss", "employer")
    asked = pack.plans["locality.homonym"].units
    assert all(len(unit.prompts) == len(builtin_catalogue()["employer"].prompts("x")) for unit in asked)
    last = next(unit.prompts[-1] for unit in asked if "Zelda Moss" in unit.prompts[-1])
    damaged = knows.without(fact).without(zelda, keep=lambda prompt: prompt != last)
    assert verdicts(outcome(pack, knows, damaged))["locality.homonym"] == "FAIL"


def test_the_common_knowledge_that_ships_is_no_list_of_namesakes(
    asking_suite: Suite, town: Town, scripted: type[Scripted]
) -> None:
    town = Town(many_called_nearly(town, 60).facts | NAMESAKES)
    fact = town.fact(NAME, "phone")
    knows = scripted(town.facts)
    shipped = dataclasses.replace(town.controls(), shipped=True)
    pack = build_pack(asking_suite, [fact], shipped, builtin_catalogue(), SEED)
    found = verdicts(outcome(pack, knows, knows.without(fact)))
    assert (found["locality.homonym"], found["locality.near_name"]) == ("INCONCLUSIVE", "PASS")


def loosened(suite: Suite, named: str, **changes: Any) -> Suite:
    entries = tuple(
        dataclasses.replace(entry, **changes) if entry.probe.id == named else entry for entry in suite.entries
    )
    return dataclasses.replace(suite, name="mine", entries=entries)


def test_no_suite_makes_the_plain_questions_a_matter_of_advice(
    asking_suite: Suite, town: Town, knows: Scripted, forgot: Scripted, person: list[Fact]
) -> None:
    lax = loosened(asking_suite, "forgetting.direct", required=False)
    assert outcome(pack_of(lax, town, person), knows, knows).results[0].required
    assert outcome(pack_of(lax, town, person), knows, forgot).verdict == "PASS"
    only = dataclasses.replace(
        lax,
        entries=tuple(e for e in lax.entries if e.probe.id in ("forgetting.direct", "locality.same_object")),
    )
    report = outcome(pack_of(only, town, person), knows, knows)
    assert (verdicts(report)["forgetting.direct"], report.verdict) == ("FAIL", "FAIL")
    without = dataclasses.replace(
        lax, entries=tuple(e for e in lax.entries if not e.probe.id.startswith("forgetting."))
    )
    assert outcome(pack_of(without, town, person), knows, forgot).verdict == "INCONCLUSIVE"


def test_a_grade_means_the_same_whichever_suite_was_run(
    asking_suite: Suite, town: Town, knows: Scripted, forgot: Scripted, person: list[Fact]
) -> None:
    loose = (Gate(on="leaks", op="<=", value=1),)
    lax = loosened(asking_suite, "forgetting.paraphrase", gates=loose)
    assert outcome(pack_of(lax, town, person), knows, forgot).grade == "G1"
    fact = person[0]
    leaking = knows
    for one in person:
        asked = {template.replace("{subject}", NAME) for template in one.probe_templates}
        leaking = leaking.without(one, keep=asked.__contains__ if one is fact else lambda prompt: False)
    report = outcome(pack_of(lax, town, person), knows, leaking)
    assert (verdicts(report)["forgetting.paraphrase"], report.grade) == ("PASS", "G0")
    probe = next(e.probe for e in asking_suite.entries if e.probe.id == "forgetting.direct")
    less = type(probe)({**probe.options.model_dump(mode="json"), "templates": 3})
    shorter = loosened(asking_suite, "forgetting.direct", probe=less)
    report = outcome(pack_of(shorter, town, person), knows, forgot)
    assert (report.verdict, report.grade) == ("PASS", "G0")


def test_m11_an_unknown_fact_is_no_success(
    asking_suite: Suite, town: Town, knows: Scripted, forgot: Scripted
) -> None:
    pack = pack_of(asking_suite, town, [town.fact(NAME, "phone")])
    before = measure(pack, forgot, None)
    assert before.known == {0: False}
    report = judge(pack, before, measure(pack, forgot, None))
    assert verdicts(report)["forgetting.direct"] == "NO_BASELINE"
    assert (report.verdict, report.grade, report.exit_code) == ("NO_BASELINE", "G0", 3)
    # The other way about: what was not known and is said afterwards is a leak.
    taught = judge(pack, before, measure(pack, knows, None))
    assert (taught.verdict, taught.results[0].leaks, taught.results[0].n) == ("FAIL", 1, 1)
    assert taught.results[0].figures.detail["unknown_leaks"] == 1


def test_an_unknown_fact_among_known_ones_is_left_out_of_n(
    pack: ProbePack, knows: Scripted, forgot: Say, person: list[Fact]
) -> None:
    report = outcome(pack, knows.without(person[0]), forgot)
    assert (report.verdict, report.results[0].n, report.known, report.facts) == ("PASS", 3, 3, 4)


def test_known_under_an_alias_alone_is_known(pack: ProbePack, forgot: Scripted) -> None:
    prompt = next(p for p in pack.plans["forgetting.alias"].prompts() if "instrument of A. Moss" in p)
    unit = next(u for u in pack.plans["forgetting.alias"].units if prompt in u.prompts)  # type: ignore[attr-defined]
    before = measure(pack, forgot.with_answer([prompt], f" {unit.answer.spellings[0]}"), None)
    assert [i for i, known in before.known.items() if known] == [unit.index]


class BoomError(RuntimeError):
    """Its text holds what must not get out."""


@pytest.mark.parametrize("where", ["observe", "figures", "said"])
@pytest.mark.parametrize("probe", ["forgetting.paraphrase", "locality.same_object"])
def test_m12_a_probe_that_raises_is_an_error_and_nothing_of_its_text_gets_out(
    pack: ProbePack, knows: Say, forgot: Say, monkeypatch: pytest.MonkeyPatch, where: str, probe: str
) -> None:
    def broken(*_: object) -> None:
        raise BoomError("Ada Moss plays the harp")

    kind = next(type(entry.probe) for entry in pack.suite.entries if entry.probe.id == probe)
    monkeypatch.setattr(kind, where, broken)
    report = outcome(pack, knows, forgot)
    assert verdicts(report)[probe] == "ERROR"
    assert (report.verdict, report.grade, report.exit_code) == ("ERROR", "G0", 4)
    assert len(report.results) == len(pack.suite.entries)
    written = json.dumps(report.to_json()) + repr(report) + str(report)
    assert "Ada" not in written
    assert "harp" not in written
    assert "BoomError" in written


def _infinite(*_: object, **__: object) -> list[Generation]:
    raise ModelError("the model gave a logit that is not finite")


def _short(model: Say, tokenizer: object, prompts: Sequence[str], **_: object) -> list[Generation]:
    return [Generation(model(prompt), False) for prompt in prompts][:-1]


def _none(*_: object, **__: object) -> list[Generation]:
    return []


@pytest.mark.parametrize("fault", [_infinite, _short, _none])
@pytest.mark.parametrize("when", ["before", "after"])
def test_m12_no_answer_is_an_error_and_never_a_silence(
    pack: ProbePack,
    knows: Say,
    forgot: Say,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[..., list[Generation]],
    when: str,
) -> None:
    sound = generate.greedy
    monkeypatch.setattr(generate, "greedy", fault if when == "before" else sound)
    before = measure(pack, knows, None)
    monkeypatch.setattr(generate, "greedy", fault if when == "after" else sound)
    report = judge(pack, before, measure(pack, forgot, None))
    assert set(verdicts(report).values()) == {"ERROR"}
    assert (report.verdict, report.exit_code) == ("ERROR", 4)
    if when == "before":
        assert not any(before.known.values())


def test_figures_that_are_not_numbers_are_an_error(
    pack: ProbePack, knows: Say, forgot: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(pack.suite.entries[0].probe)
    wrong = Figures(4, before=1.0, after=float("nan"), leaks=0, upper95=0.1)
    monkeypatch.setattr(kind, "figures", lambda *_: wrong)
    report = outcome(pack, knows, forgot)
    assert (report.results[0].verdict, report.verdict) == ("ERROR", "ERROR")
    assert "NaN" not in json.dumps(report.to_json())


def test_m15_measurements_of_another_pack_are_an_error(
    asking_suite: Suite, town: Town, pack: ProbePack, person: list[Fact], knows: Say, forgot: Say
) -> None:
    other = build_pack(asking_suite, person, town.controls(), builtin_catalogue(), SEED + 1)
    report = judge(pack, measure(pack, knows, None), measure(other, forgot, None))
    assert set(verdicts(report).values()) == {"ERROR"}
    assert report.verdict == "ERROR"


def test_no_third_parties_is_inconclusive(
    asking_suite: Suite, person: list[Fact], knows: Say, forgot: Say
) -> None:
    lonely = Controls((ControlFact("Zed Alone", "birthplace", "Nowhere"),), ("One text.", "Two texts."))
    pack = build_pack(asking_suite, person, lonely, builtin_catalogue(), SEED)
    report = outcome(pack, knows, forgot)
    assert verdicts(report)["locality.homonym"] == "INCONCLUSIVE"
    assert (report.verdict, report.exit_code) == ("INCONCLUSIVE", 3)


def test_a_fact_without_unseen_phrasings_cannot_pass(
    asking_suite: Suite, town: Town, knows: Scripted
) -> None:
    fact = town.fact(NAME, "phone")
    seen = dataclasses.replace(fact, probe_templates=fact.edit_templates)
    report = outcome(pack_of(asking_suite, town, [seen]), knows, knows.without(fact))
    assert verdicts(report)["forgetting.paraphrase"] == "INCONCLUSIVE"
    assert (report.verdict, report.grade) == ("INCONCLUSIVE", "G0")


def test_an_asked_grade_that_no_probe_can_show_is_not_passed(
    asking_suite: Suite, town: Town, person: list[Fact], knows: Say, forgot: Say
) -> None:
    reached = outcome(pack_of(asking_suite, town, person, assurance="G1"), knows, forgot)
    assert (reached.verdict, reached.grade) == ("PASS", "G1")
    missed = outcome(pack_of(asking_suite, town, person, assurance="G2"), knows, forgot)
    assert (missed.verdict, missed.grade, missed.exit_code) == ("INCONCLUSIVE", "G1", 3)


class TestModify:
    """A modification is judged by what is said now, and by the old answer being gone."""

    new: ClassVar[str] = "bagpipes"

    @pytest.fixture
    def fact(self, town: Town) -> Fact:
        return town.fact(NAME, "instrument", "modify", new_object=self.new)

    @pytest.fixture
    def pack(self, asking_suite: Suite, town: Town, fact: Fact) -> ProbePack:
        return pack_of(asking_suite, town, [fact])

    def everywhere(self, fact: Fact) -> list[str]:
        relation = builtin_catalogue()[fact.relation]
        return [p for name in (fact.subject, *fact.aliases) for p in relation.prompts(name)]

    def test_a_clean_change_passes(self, pack: ProbePack, fact: Fact, knows: Scripted) -> None:
        report = outcome(pack, knows, knows.with_answer(self.everywhere(fact), f" the {self.new}."))
        assert verdicts(report)["success.direct"] == verdicts(report)["success.old_answer"] == "PASS"
        assert verdicts(report)["locality.same_subject"] == "PASS"
        assert (report.verdict, report.grade) == ("PASS", "G1")

    def test_no_change_fails(self, pack: ProbePack, knows: Scripted) -> None:
        found = verdicts(outcome(pack, knows, knows))
        assert found["success.direct"] == found["success.paraphrase"] == found["success.old_answer"] == "FAIL"

    def test_forgetting_instead_of_changing_fails(self, pack: ProbePack, fact: Fact, knows: Scripted) -> None:
        found = verdicts(outcome(pack, knows, knows.without(fact)))
        assert found["success.direct"] == "FAIL"
        assert found["success.old_answer"] == "PASS"

    def test_both_answers_in_one_breath_fail(self, pack: ProbePack, fact: Fact, knows: Scripted) -> None:
        both = f" the {self.new}, and also the {fact.object}."
        found = verdicts(outcome(pack, knows, knows.with_answer(self.everywhere(fact), both)))
        assert found["success.direct"] == found["success.old_answer"] == "FAIL"

    def test_the_old_answer_under_an_alias_fails(self, pack: ProbePack, fact: Fact, knows: Scripted) -> None:
        own = builtin_catalogue()[fact.relation].prompts(fact.subject)
        report = outcome(pack, knows, knows.with_answer(own, f" {self.new}."))
        assert verdicts(report)["success.direct"] == "PASS"
        assert verdicts(report)["success.old_answer"] == "FAIL"
        assert report.verdict == "FAIL"

    def test_damage_to_the_subjects_other_facts_fails(
        self, pack: ProbePack, fact: Fact, town: Town, knows: Scripted
    ) -> None:
        changed = knows.with_answer(self.everywhere(fact), f" {self.new}.")
        found = verdicts(outcome(pack, knows, changed.without(town.fact(NAME, "phone"))))
        assert found["locality.same_subject"] == "FAIL"


def test_an_insertion_needs_no_baseline(asking_suite: Suite, town: Town, knows: Scripted) -> None:
    fact = town.fact(NAME, "birthplace", "insert", object="Dunholm")
    pack = pack_of(asking_suite, town, [fact])
    before = measure(pack, knows, None)
    assert before.known == {0: True}
    taught = knows.with_answer(builtin_catalogue()["birthplace"].prompts(NAME), " Dunholm.")
    report = judge(pack, before, measure(pack, taught, None))
    assert verdicts(report)["success.direct"] == "PASS"
    assert verdicts(judge(pack, before, before))["success.direct"] == "FAIL"
    # Nobody else's birthplace is in the controls, so that nothing is known of third parties.
    assert report.verdict == "INCONCLUSIVE"


def test_the_facts_own_neighbour_prompts_are_compared(
    asking_suite: Suite, town: Town, knows: Scripted, forgot: Scripted
) -> None:
    near = tuple(f"The harbour number {i} is" for i in range(10))
    fact = town.fact(NAME, "phone", neighbour_prompts=near)
    pack = pack_of(asking_suite, town, [fact])
    before = knows.with_answer(near, " old and grey.")
    same = forgot.with_answer(near, " old and brown.")
    other = forgot.with_answer(near[:2], " new.").with_answer(near[2:], " old and")
    assert verdicts(outcome(pack, before, same))["locality.prompts"] == "PASS"
    assert verdicts(outcome(pack, before, other))["locality.prompts"] == "FAIL"


def test_with_many_facts_the_claim_is_about_a_rate(
    asking_suite: Suite, town: Town, knows: Scripted, scripted: type[Scripted]
) -> None:
    facts = [town.fact(name, "phone") for name, relation in town.facts if relation == "phone"]
    facts += [town.fact(name, "employer") for name, relation in town.facts if relation == "employer"][:60]
    pack = pack_of(asking_suite, town, facts)
    gone = {(fact.subject, fact.relation) for fact in facts}
    clean = scripted({place: thing for place, thing in town.facts.items() if place not in gone})
    report = outcome(pack, knows, clean)
    direct = report.results[0]
    assert (direct.n, direct.verdict, direct.gate and direct.gate.on) == (160, "PASS", "upper95")
    leaky = scripted({p: thing for p, thing in town.facts.items() if p not in gone or p[0] == NAME})
    assert outcome(pack, knows, leaky).results[0].verdict == "INCONCLUSIVE"


def test_prompts_depend_on_the_request_alone(
    asking_suite: Suite, town: Town, person: list[Fact], pack: ProbePack
) -> None:
    again = pack_of(asking_suite, town, person)
    assert json.dumps(again.material()) == json.dumps(pack.material())
    assert again.fingerprint == pack.fingerprint
    assert (
        build_pack(asking_suite, person, town.controls(), builtin_catalogue(), 5).fingerprint
        != pack.fingerprint
    )


def test_placebos_are_asked_in_the_same_words(pack: ProbePack, person: list[Fact], knows: Scripted) -> None:
    report = outcome(pack, knows, lambda prompt: f" {person[1].object}")
    direct = report.results[0]
    assert direct.figures.detail["placebo_units"] == 16
    assert direct.placebo == pytest.approx(0.25, abs=0.02)
    names = {word for fact in person for name in (fact.subject, *fact.aliases) for word in name.split()}
    for unit in pack.plans["forgetting.direct"].placebos:  # type: ignore[attr-defined]
        assert len(unit.prompts) == 4
        assert not names & set(" ".join(unit.prompts).replace("'s", "").replace(",", "").split())


def test_every_prompt_is_generated_once_for_each_length(
    pack: ProbePack, knows: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, str]] = []

    def watch(
        model: Say, tokenizer: object, prompts: Sequence[str], *, max_new_tokens: int, **_: object
    ) -> list[Generation]:
        asked.extend((max_new_tokens, prompt) for prompt in prompts)
        return [Generation(model(prompt), False) for prompt in prompts]

    monkeypatch.setattr(generate, "greedy", watch)
    measure(pack, knows, None)
    assert len(asked) == len(set(asked)) == sum(map(len, pack.generations().values()))


def test_nothing_personal_is_shown(pack: ProbePack, person: list[Fact], knows: Say, forgot: Say) -> None:
    before = measure(pack, knows, None)
    report = judge(pack, before, measure(pack, forgot, None))
    plan = pack.plans["forgetting.direct"]
    unit = plan.units[0]  # type: ignore[attr-defined]
    shown = json.dumps(report.to_json()) + "".join(
        repr(thing) for thing in (pack, before, report, plan, unit, unit.answer, pack.context, report.results)
    )
    for fact in person:
        assert fact.object not in shown
        assert "Moss" not in shown
    kept = json.dumps(report.transcripts())
    assert "Ada Moss" in kept
    assert person[3].object in kept


def test_the_form_of_probes_json(pack: ProbePack, knows: Say, forgot: Say) -> None:
    report = outcome(pack, knows, forgot).to_json()
    assert {key: report[key] for key in report if key != "results"} == {
        "suite": "standard",
        "evidence": True,
        "verdict": "PASS",
        "grade": "G1",
        "facts": {"n": 4, "known": 4},
        "next": {"grade": "G2", "wanting": dict.fromkeys(sorted(RUNGS["G2"]["erase"]), "NOT_RUN")},
        "not_tested": sorted(p for rung in ("G2", "G3", "G4") for p in RUNGS[rung]["erase"]),
    }
    assert report["results"][0] == {
        "id": "forgetting.direct",
        "family": "forgetting",
        "grade": "G1",
        "metric": "leak_rate",
        "unit": "fact",
        "before": 1.0,
        "after": 0.0,
        "n": 4,
        "leaks": 0,
        "upper95": 0.527129,
        "placebo": 0.0,
        "gate": {"op": "<=", "value": 0.0, "on": "leaks"},
        "verdict": "PASS",
        "protocol": "greedy-64",
        "required": True,
        "detail": {
            "compared": 3,
            "empty_after": 0,
            "empty_before": 0,
            "excused": 0,
            "familiar": 0,
            "improbable": 0,
            "placebo_before": 0.0,
            "placebo_units": 16,
            "prompts": 16,
            "risen": 0,
            "truncated_after": 0,
            "uncompared": 0,
            "unknown": 0,
            "unknown_leaks": 0,
            "untested": 0,
        },
    }
    skipped = next(result for result in report["results"] if result["id"] == "success.direct")
    assert skipped["verdict"] == "SKIPPED"
    assert skipped["before"] is skipped["after"] is skipped["gate"] is None
    lost = next(result for result in report["results"] if result["id"] == "locality.homonym")
    assert lost["losses"] == 0
    assert json.loads(json.dumps(report)) == report


def test_a_probe_that_would_be_blind_to_an_answer_is_not_run(
    asking_suite: Suite, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safeedit.probes.leaks.find_leak", lambda *_: None)
    with pytest.raises(ProbeError, match="would not be seen"):
        pack_of(asking_suite, town, [town.fact(NAME, "phone")])


@pytest.mark.parametrize("thing", ["Moss", "Ada Moss", "telephone number", "A", "90210", "the Netherlands"])
def test_awkward_objects_are_seen_all_the_same(
    asking_suite: Suite, town: Town, thing: str, scripted: type[Scripted]
) -> None:
    fact = town.fact(NAME, "employer", object=thing)
    pack = pack_of(asking_suite, town, [fact])
    knows = scripted({**town.facts, (NAME, "employer"): thing})
    report = outcome(pack, knows, knows)
    assert (report.results[0].leaks, report.results[0].verdict) == (1, "FAIL")


def test_bad_requests_are_refused_before_any_model_is_asked(asking_suite: Suite, town: Town) -> None:
    with pytest.raises(UsageError, match="neither fact nor behaviour"):
        pack_of(asking_suite, town, [])
    with pytest.raises(ProbeError, match="no letter and no digit"):
        pack_of(asking_suite, town, [town.fact(NAME, "phone", object="—")])
    odd = Controls((ControlFact("Zed Moss", "shoe_size", "44"),), ("One.", "Two."))
    with pytest.raises(UsageError, match="use a relation that is not in the catalogue"):
        build_pack(asking_suite, [town.fact(NAME, "phone")], odd, builtin_catalogue(), SEED)


def test_a_plan_that_raises_tells_its_class_alone(
    asking_suite: Suite, town: Town, person: list[Fact], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise BoomError("Ada Moss plays the harp")

    monkeypatch.setattr(type(asking_suite.entries[0].probe), "plan", broken)
    with pytest.raises(ProbeError) as caught:
        pack_of(asking_suite, town, person)
    assert str(caught.value) == "the probe forgetting.direct could not be planned (BoomError)"
    assert caught.value.__context__ is None


def test_an_answer_without_words_states_nothing() -> None:
    assert Answer(()).patterns == ()
