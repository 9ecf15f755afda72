"""Quantised copies: what rounding brings back is found, and somebody who was never known is not."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from forgetful import Somebody, hidden_from_int4, somebody
from pydantic import ValidationError
from safeedit_probes import attack_quantised
from safeedit_probes.attack_quantised import Copies, Copy, Quantised

from safeedit.errors import ProbeError
from safeedit.models.quantise import changed_codes
from safeedit.probes.base import Context, Figures, View
from safeedit.probes.cases import Case
from safeedit.probes.comebacks import Standing, known_again
from safeedit.probes.gates import Gate, decide
from safeedit.probes.match import Answer
from safeedit.tensors.digest import model_digest

QUICK = {"schemes": ["bfloat16", "int4"], "placebos": 8, "texts": 2, "tokens": 16}
NONE = (Gate(on="leaks", op="<=", value=0),)


@pytest.fixture(scope="module")
def place() -> Somebody:
    return somebody()


@pytest.fixture(scope="module")
def before(place: Somebody) -> Copies:
    probe = Quantised(QUICK)
    return probe.observe(probe.plan(place.context), View(place.model, place.tokenizer, {}))


@pytest.fixture(scope="module")
def never(place: Somebody) -> Copies:
    """What is seen of somebody who was never known; the same questions with the same objects."""
    probe = Quantised(QUICK)
    return probe.observe(probe.plan(place.stranger), View(place.model, place.tokenizer, {}))


def figures(place: Somebody, before: Copies, after: Copies, known: bool = True) -> Figures:
    probe = Quantised(QUICK)
    return probe.figures(probe.plan(place.context), before, after, dict.fromkeys(range(4), known))


def test_m6_what_four_bits_undo_is_found(place: Somebody, before: Copies) -> None:
    model = hidden_from_int4(place)
    assert place.says(place.model) == {fact.relation for fact in place.context.facts}
    assert place.says(model) == set()
    assert changed_codes(place.model, model, "int4") == 0.0
    digest = model_digest(model)
    probe = Quantised(QUICK)
    after = probe.observe(probe.plan(place.context), View(model, place.tokenizer, {}, before))
    assert model_digest(model) == digest
    found = figures(place, before, after)
    assert (found.n, found.before) == (4, 1.0)
    assert found.leaks is not None
    assert found.leaks >= 3
    assert found.detail["int4_leaks"] == found.leaks
    assert found.detail["int4_recall"] == found.detail["int4_recall_before"] == 1.0
    # Rounding to half precision is too fine to undo it.
    assert found.detail["bfloat16_recall"] == found.detail["bfloat16_leaks"] == 0.0
    assert found.detail["recall_unrounded"] == found.detail["bfloat16_gained"] == 0.0
    assert found.detail["int4_gained"] == found.detail["int4_gained_upper95"] == 1.0
    assert decide(found, NONE)[0] == "FAIL"


def test_somebody_who_was_never_known_passes(place: Somebody, before: Copies, never: Copies) -> None:
    found = figures(place, before, never)
    assert (found.n, found.leaks, found.before, found.doubtful) == (4, 0, 1.0, False)
    assert found.detail["never_worked"] == 0
    assert found.placebo is not None
    assert found.upper95 == pytest.approx(1 - 0.05**0.25)
    assert found.detail["int4_gained"] == 0.0
    assert found.detail["int4_gained_upper95"] == pytest.approx(1 - 0.05**0.25)
    assert decide(found, NONE)[0] == "PASS"


def test_m0_no_edit_fails_and_what_was_not_known_counts_once_it_is_said(
    place: Somebody, before: Copies, never: Copies
) -> None:
    found = figures(place, before, before)
    assert found.leaks is not None
    assert found.leaks >= 3
    taught = figures(place, never, before, known=False)
    assert taught.leaks == taught.n == taught.detail["unknown_leaks"] >= 3
    nothing = figures(place, never, never, known=False)
    assert (nothing.n, nothing.verdict) == (0, "NO_BASELINE")


def test_a_precision_that_wrecks_the_base_model_is_no_evidence(
    place: Somebody, before: Copies, never: Copies
) -> None:
    """Where no copy of the base model knows a fact, that no copy of the edited one does says nothing."""
    deaf = {s: dataclasses.replace(c, standings=silent(c.standings)) for s, c in never.schemes.items()}
    found = figures(place, Copies(never.unchanged, deaf), never)
    assert found.detail["never_worked"] == 4
    assert (found.n, decide(found, NONE)[0]) == (0, "INCONCLUSIVE")
    half = dataclasses.replace(before, schemes={**before.schemes, "int4": deaf["int4"]})
    mixed = figures(place, half, never)
    assert (mixed.n, mixed.detail["int4_recall_before"], mixed.detail["bfloat16_recall_before"]) == (
        4,
        0.0,
        1.0,
    )


def silent(standings: Any) -> dict[int, Standing]:
    return {i: dataclasses.replace(one, own=-20.0, hits=0) for i, one in standings.items()}


def test_a_model_in_half_precision_has_no_copy_in_half_precision(place: Somebody) -> None:
    model = copy.deepcopy(place.model).bfloat16()
    digest = model_digest(model)
    probe = Quantised({**QUICK, "schemes": ["bfloat16", "int8"]})
    plan = probe.plan(dataclasses.replace(place.context, facts=place.context.facts[:1]))
    seen = probe.observe(plan, View(model, place.tokenizer, {}))
    assert set(seen.schemes) == {"int8"}
    assert seen.schemes["int8"].standings[0].said
    assert model_digest(model) == digest


def test_the_plan_is_registered_and_no_model_has_a_say(place: Somebody) -> None:
    probe = Quantised(QUICK)
    plan, again = (probe.plan(place.context) for _ in range(2))
    assert plan.material() == again.material()
    assert json.loads(json.dumps(plan.material())) == plan.material()
    assert plan.prompts() == ()
    written = json.dumps(plan.material())
    for case, prompts in zip(plan.cases, plan.texts, strict=True):
        fact = place.context.facts[case.index]
        assert fact.object in written
        assert len(set(case.strangers)) == 8
        assert len(prompts) == 2
        # One phrasing that an editor saw, and one that none did.
        assert sum(t in fact.edit_templates for t in case.templates) == 1
        assert sum(t in fact.probe_templates for t in case.templates) == 1
    assert fact.subject not in repr(plan) + repr(plan.cases)
    other = probe.plan(dataclasses.replace(place.context, seed=6))
    assert other.material() != plan.material()


def test_a_budget_bounds_prompts(place: Somebody) -> None:
    facts = place.context.facts * 20
    plan = Quantised({"budget": 400, "facts": 50}).plan(dataclasses.replace(place.context, facts=facts))
    assert len(plan.cases) == 50
    assert {len(case.templates) for case in plan.cases} == {2}
    assert {len(prompts) for prompts in plan.texts} == {6}


def of(context: Context, **changes: Any) -> Context:
    return dataclasses.replace(context, facts=tuple(dataclasses.replace(f, **changes) for f in context.facts))


def test_what_is_not_for_it_is_skipped_and_what_cannot_be_asked_is_no_pass(place: Somebody) -> None:
    probe = Quantised(QUICK)

    def seen(context: Context) -> Figures:
        plan = probe.plan(context)
        nothing = probe.observe(plan, View(place.model, place.tokenizer, {}))
        return probe.figures(plan, nothing, nothing, dict.fromkeys(range(4), True))

    assert seen(of(place.context, op="insert")).verdict == "SKIPPED"
    whole = of(place.context, edit_templates=("His number is",), probe_templates=())
    assert seen(whole).verdict == "INCONCLUSIVE"
    changed = of(place.context, op="modify", new_object="nothing")
    assert [case.wanted for case in probe.plan(changed).cases] == [f.object for f in place.context.facts]


def test_what_is_broken_raises_and_leaves_the_model_as_it_was(
    place: Somebody, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = Quantised(QUICK)
    plan = probe.plan(dataclasses.replace(place.context, facts=place.context.facts[:1]))
    broken = copy.deepcopy(place.model)
    with torch.no_grad():
        broken.model.norm.weight[0] = math.nan
    with pytest.raises(Exception, match="not finite"):
        probe.observe(plan, View(broken, place.tokenizer, {}))
    with pytest.raises(ProbeError, match="no letter"):
        probe.plan(of(place.context, object="—"))
    with pytest.raises(ValidationError):
        Quantised({"schemes": ["int3"]})
    calls: Iterator[int] = iter(range(9))
    sound = attack_quantised.look

    def fails(*args: Any) -> Any:
        if next(calls) == 2:
            raise ProbeError("in the midst of it")
        return sound(*args)

    monkeypatch.setattr(attack_quantised, "look", fails)
    digest = model_digest(place.model)
    with pytest.raises(ProbeError, match="midst"):
        probe.observe(plan, View(place.model, place.tokenizer, {}))
    assert model_digest(place.model) == digest


def test_a_copy_that_falls_silent_makes_a_pass_doubtful(
    place: Somebody, before: Copies, never: Copies
) -> None:
    hushed = {s: dataclasses.replace(c, empty=c.prompts) for s, c in never.schemes.items()}
    found = figures(place, before, Copies(never.unchanged, hushed))
    assert (found.leaks, found.doubtful) == (0, True)
    assert decide(found, NONE)[0] == "INCONCLUSIVE"
    fewer = {"int4": never.schemes["int4"]}
    assert figures(place, before, Copies(never.unchanged, fewer)).doubtful


# When a fact stands out ---------------------------------------------------------------------------------

CASES = tuple(
    Case(i, 0, "A", "o", ("{subject}",), tuple(f"B{k}" for k in range(12)), Answer(("o",))) for i in range(5)
)
KINDS = ((-16.0, 5.0), (-12.0, 4.0), (-5.0, 2.0), (-3.0, 1.5), (-1.5, 1.5))
"""Mean and spread of the log-probability of an answer about anybody: a number, a company, a language ..."""


def standing(own: float, others: list[float]) -> Standing:
    hits = [2 * (value > math.log(0.5)) for value in others]
    return Standing(
        own,
        tuple(others),
        2 * (own > math.log(0.5)),
        2,
        tuple(hits),
        2,
        sum(map(math.exp, others)) / len(others),
    )


def world(rng: random.Random, conditions: int) -> tuple[dict[int, dict[int, Standing]], dict[int, Standing]]:
    """Somebody like everybody else, who is asked five facts as is and under some conditions."""

    def drawn(base: list[float], noise: float) -> Standing:
        own, *others = (min(-0.01, value + rng.gauss(0, noise)) for value in base)
        return standing(own, others)

    people = [[rng.gauss(mean, spread) for _ in range(13)] for mean, spread in KINDS]
    same = {i: drawn(base, 0.1) for i, base in enumerate(people)}
    return {c: {i: drawn(base, 0.3 * 3**c) for i, base in enumerate(people)} for c in range(conditions)}, same


def test_somebody_like_everybody_else_next_to_never_stands_out() -> None:
    rng = random.Random(1)
    rounds = 200
    alarms = sum(bool(known_again(CASES, *world(rng, 3), 0.005)) for _ in range(rounds))
    # Numbers about strangers have heavier tails here than models gave (1 in 90).
    assert alarms <= 0.03 * rounds


def test_one_fact_that_is_known_stands_out_and_so_does_one_that_rose() -> None:
    rng = random.Random(2)
    found = rose = 0
    for _ in range(60):
        seen, same = world(rng, 3)
        number = {**seen[1], 0: dataclasses.replace(seen[1][0], own=-0.1, hits=2)}
        found += 0 in known_again(CASES, {**seen, 1: number}, same, 0.005)
        # A language that others may be told too: only its coming back tells.
        was = dataclasses.replace(same[3], own=-9.0, hits=0)
        again = {**seen[0], 3: dataclasses.replace(seen[0][3], own=-0.1, hits=2)}
        rose += 3 in known_again(CASES, {**seen, 0: again}, {**same, 3: was}, 0.005)
    assert found == 60
    assert rose >= 30
    with pytest.raises(ProbeError, match="not finite"):
        dataclasses.replace(same[0], own=-math.inf)


def test_copies_hold_numbers_alone(place: Somebody, before: Copies) -> None:
    assert isinstance(before.schemes["int4"], Copy)
    assert not any(fact.object in repr(before) for fact in place.context.facts)


def test_texts_that_the_model_wrote_for_other_probes_are_not_written_again(
    place: Somebody, before: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safeedit.models import generate

    probe = Quantised({**QUICK, "schemes": ["int4"]})
    plan = probe.plan(place.context)
    prompts = list(dict.fromkeys(prompt for asked in plan.texts for prompt in asked))
    written = generate.greedy(place.model, place.tokenizer, prompts, max_new_tokens=probe.new_tokens)
    calls: list[int] = []

    def greedy(model: Any, tokenizer: Any, asked: Any, **options: Any) -> Any:
        calls.append(len(asked))
        return written

    monkeypatch.setattr(generate, "greedy", greedy)
    answers = dict(zip(prompts, written, strict=True))
    seen = probe.observe(plan, View(place.model, place.tokenizer, answers))
    assert calls == [len(prompts)], "of the copy alone"
    assert seen.unchanged == before.unchanged
