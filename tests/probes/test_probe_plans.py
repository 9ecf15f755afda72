"""Plans in stages: exact by enumeration, honest by simulation, and asked only as far as needed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scripted_town import EMPLOYERS, Say, Scripted, Town

from safeedit.probes import stats
from safeedit.probes.plans import Stage, StagedPlan
from safeedit.probes.runner import ProbePack, build_pack, judge, measure
from safeedit.probes.suite import Suite, load_suite
from safeedit.triples.catalogue import builtin_catalogue

SMALL = st.builds(
    lambda n, more, accept, gap, last: ([n, accept, accept + gap], [n + more, last, last + 1]),
    st.integers(2, 5),
    st.integers(1, 4),
    st.integers(0, 1),
    st.integers(2, 3),
    st.integers(0, 4),
)


def test_known_figures_of_a_plan() -> None:
    """Those of the brief: size .0456; passes .994, .907 and .739 at true rates of .1, .3 and .5 %."""
    plan = StagedPlan.of([[165, 0, 3], [386, 2, 3]])
    assert plan.pass_probability(0.02) == pytest.approx(0.0456, abs=5e-5)
    assert [round(plan.pass_probability(rate), 3) for rate in (0.001, 0.003, 0.005)] == [0.994, 0.907, 0.739]
    assert plan.mean_units(0.001) == pytest.approx(198, abs=1)
    assert plan.upper((0, 0)) <= 0.02
    assert plan.upper((1, 2)) <= 0.02 < plan.upper((1, 3))


def test_a_plan_that_looks_too_early_has_a_bound_above_its_limit() -> None:
    plan = StagedPlan.of([[149, 0, 3], [386, 2, 3]])
    assert plan.pass_probability(0.02) > 0.05
    assert plan.upper((1, 2)) > 0.02


@given(SMALL, st.floats(0.02, 0.98))
@settings(max_examples=40, deadline=None)
def test_probabilities_are_those_of_every_sequence(stages: Sequence[Sequence[int]], rate: float) -> None:
    plan = StagedPlan.of(stages)
    passed = units = 0.0
    for outcomes in itertools.product([False, True], repeat=plan.most):
        end = plan.end(outcomes)
        assert end is not None
        p = rate ** sum(outcomes) * (1 - rate) ** (plan.most - sum(outcomes))
        passed += p * plan.accepted(end)
        units += p * plan.stages[end[0]].n
    assert plan.pass_probability(rate) == pytest.approx(passed, abs=1e-9)
    assert plan.mean_units(rate) == pytest.approx(units, abs=1e-9)


@given(SMALL, st.floats(0.05, 0.95))
@settings(max_examples=40, deadline=None)
def test_the_bound_lies_below_the_true_rate_at_most_once_in_twenty(
    stages: Sequence[Sequence[int]], rate: float
) -> None:
    plan = StagedPlan.of(stages)
    missed = 0.0
    for outcomes in itertools.product([False, True], repeat=plan.most):
        end = plan.end(outcomes)
        assert end is not None
        p = rate ** sum(outcomes) * (1 - rate) ** (plan.most - sum(outcomes))
        missed += p * (plan.upper(end) < rate - 1e-6)
    assert missed <= stats.ALPHA + 1e-9


@given(st.integers(1, 300), st.integers(0, 5))
def test_a_plan_of_one_stage_is_the_exact_bound(n: int, accept: int) -> None:
    assume(accept < n)
    plan = StagedPlan.of([[n, accept, accept + 1]])
    assert plan.upper((0, accept)) == pytest.approx(stats.binomial_upper(accept, n), abs=1e-6)


@pytest.mark.parametrize(
    "stages", [[], [[10, 0, 1], [20, 1, 2]], [[20, 0, 3], [10, 2, 3]], [[10, 0, 3]], [[0, 0, 1]]]
)
def test_senseless_plans_are_refused(stages: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="stage"):
        StagedPlan.of(stages)


def test_an_unfinished_plan_has_no_end() -> None:
    plan = StagedPlan((Stage(3, 0, 2), Stage(5, 1, 2)))
    assert plan.end([True, False]) is None
    assert plan.end([True, False, False]) is None
    assert plan.end([True, False, False, False, False]) == (1, 1)
    assert plan.end([True, True, False]) == (0, 2)


# A town of many, and a suite whose plan is small.


@pytest.fixture
def many() -> Town:
    rng = np.random.default_rng(3)
    names = [f"{chr(65 + i // 26)}ob{chr(97 + i % 26)} K{chr(97 + i % 26)}l{i // 26}" for i in range(90)]
    return Town({(name, "employer"): EMPLOYERS[rng.integers(4)] for name in names})


@pytest.fixture
def staged(tmp_path: Any) -> Suite:
    file = tmp_path / "staged.yaml"
    file.write_text(
        """
name: staged
probes:
  - id: forgetting.direct
    options: {templates: 2, placebos: 3, stages: [[10, 0, 2], [30, 1, 2]]}
    gates: [{on: upper95, op: <=, value: 0.3}]
""",
        "utf-8",
    )
    return load_suite(file)


class Counting:
    """A model, and what it was asked."""

    def __init__(self, model: Say) -> None:
        self.model = model
        self.asked: list[str] = []

    def __call__(self, prompt: str) -> str:
        self.asked.append(prompt)
        return self.model(prompt)


def pack_of(suite: Suite, town: Town) -> ProbePack:
    facts = [town.fact(name, relation) for name, relation in town.facts]
    return build_pack(suite, facts, town.controls(), builtin_catalogue(), 5)


def test_what_is_clear_early_is_asked_no_further(many: Town, staged: Suite, scripted: type[Scripted]) -> None:
    pack, knows = pack_of(staged, many), Scripted(many.facts)
    forgot = Counting(Scripted({}))
    report = judge(pack, measure(pack, knows, None), (after := measure(pack, knows, None)))
    assert report.verdict == "FAIL"
    assert report.results[0].n == 10
    before = measure(pack, knows, None)
    report = judge(pack, before, measure(pack, forgot, None, base=before))
    assert (report.results[0].verdict, report.results[0].n, report.results[0].leaks) == ("PASS", 10, 0)
    drawn = {u.prompts[0] for u in pack.plans["forgetting.direct"].units}  # type: ignore[attr-defined]
    assert sum(prompt in drawn for prompt in forgot.asked) == 10
    assert after.known


def test_what_is_not_clear_is_asked_to_the_end(many: Town, staged: Suite, scripted: type[Scripted]) -> None:
    pack, knows = pack_of(staged, many), Scripted(many.facts)
    before = measure(pack, knows, None)
    first = pack.plans["forgetting.direct"].units[0]  # type: ignore[attr-defined]
    one = Scripted({}).with_answer(first.prompts[:1], f" {first.answer.spellings[0]}")
    result = judge(pack, before, measure(pack, one, None, base=before)).results[0]
    assert (result.n, result.leaks, result.figures.detail["stage"]) == (30, 1, 2)
    assert result.verdict == "PASS"
    assert result.upper95 == StagedPlan.of([[10, 0, 2], [30, 1, 2]]).upper((1, 1))


def test_a_plan_that_cannot_end_is_inconclusive(many: Town, staged: Suite, scripted: type[Scripted]) -> None:
    pack = pack_of(staged, many)
    few = Scripted(dict(list(many.facts.items())[:8]))
    before = measure(pack, few, None)
    result = judge(pack, before, measure(pack, Scripted({}), None, base=before)).results[0]
    assert (result.verdict, result.leaks) == ("INCONCLUSIVE", None)


def test_the_order_is_registered(many: Town, staged: Suite) -> None:
    first, again = pack_of(staged, many), pack_of(staged, many)
    assert first.fingerprint == again.fingerprint
    facts = [many.fact(name, relation) for name, relation in many.facts]
    other = build_pack(staged, facts, many.controls(), builtin_catalogue(), 6)
    assert other.fingerprint != first.fingerprint
