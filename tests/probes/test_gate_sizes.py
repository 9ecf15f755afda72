"""Every gate that ships, against models exactly at its limit: they must not pass more than once in twenty."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from safeedit.probes import stats
from safeedit.probes.base import Figures
from safeedit.probes.gates import Gate, decide
from safeedit.probes.plans import StagedPlan
from safeedit.probes.suite import load_suite, suite_names

ROUNDS = 10_000
ERROR = 3 * math.sqrt(0.05 * 0.95 / ROUNDS)
PROMPTS = 20
PLACEBO = 0.15


def shipped(*figures: str) -> Iterator[pytest.ParameterSet]:
    """Every bound that a gate of a shipped suite stands on, once for each limit."""
    seen = set()
    for suite in suite_names():
        for entry in load_suite(suite).entries:
            for gate in entry.gates:
                kind = "utility" if entry.probe.family == "utility" else ""
                place = (gate.on, gate.value, gate.when, kind)
                if gate.on in figures and place not in seen:
                    seen.add(place)
                    yield pytest.param(gate, kind, id=f"{suite}-{entry.probe.id}-{gate.on}-{gate.value}")


def sizes(gate: Gate, least: int) -> list[int]:
    """Numbers of units for which the gate is the one: the fewest, and more."""
    found = re.fullmatch(r"n>=(\d+)", gate.when or "")
    fewest = int(found[1]) if found else least
    return [fewest, 2 * fewest + 1]


def correlated(rng: np.random.Generator, rate: float, units: int, correlation: float) -> np.ndarray:
    """(rounds, units) whether any of a unit's prompts is a hit, at `rate`, prompts of a unit correlated."""
    if not correlation:
        each = 1 - (1 - rate) ** (1 / PROMPTS)
        return (rng.random((ROUNDS, units, PROMPTS), np.float32) < each).any(-1)
    # A unit either answers its prompts alike, or each by itself; the rate of any hit stays `rate`.
    low, high = 0.0, rate
    for _ in range(60):
        p = (low + high) / 2
        any_hit = correlation * p + (1 - correlation) * (1 - (1 - p) ** PROMPTS)
        low, high = (p, high) if any_hit < rate else (low, p)
    alike = rng.random((ROUNDS, units)) < correlation
    together = rng.random((ROUNDS, units)) < p
    apart = rng.random((ROUNDS, units)) < 1 - (1 - p) ** PROMPTS
    return np.where(alike, together, apart)


def passing(gate: Gate, counts: np.ndarray, figures: Callable[[int], Figures]) -> float:
    """Share of rounds with a PASS, each number of hits judged once."""
    values, times = np.unique(counts, return_counts=True)
    return sum(
        n for v, n in zip(values, times, strict=True) if decide(figures(int(v)), [gate])[0] == "PASS"
    ) / len(counts)


@pytest.mark.parametrize("correlation", [0.0, 0.5])
@pytest.mark.parametrize(("gate", "kind"), [p for p in shipped("upper95") if p.values[1] != "utility"])
def test_rates_at_the_limit(gate: Gate, kind: str, correlation: float) -> None:
    rng = np.random.default_rng(1)
    for n in sizes(gate, 149 if gate.value <= 0.02 else 59):
        hits = correlated(rng, gate.value, n, correlation).sum(-1)
        share = passing(
            gate,
            hits,
            lambda h, n=n: Figures(n, after=h / n, upper95=stats.binomial_upper(h, n)),
        )
        assert share <= 0.05 + ERROR


@pytest.mark.parametrize("correlation", [0.0, 0.5])
@pytest.mark.parametrize(("gate", "kind"), list(shipped("lower95")))
def test_successes_at_the_limit(gate: Gate, kind: str, correlation: float) -> None:
    """The success of a fact is the share of its prompts; its prompts are correlated."""
    rng = np.random.default_rng(2)
    for n in sizes(gate, 59):
        alike = rng.random((ROUNDS, n)) < correlation
        whole = rng.random((ROUNDS, n)) < gate.value
        each = rng.binomial(4, gate.value, (ROUNDS, n)) / 4
        total = np.where(alike, whole, each).sum(-1)
        share = passing(
            gate,
            np.floor(total + 1e-9),
            lambda h, n=n: Figures(n, after=h / n, lower95=stats.binomial_lower(h, n)),
        )
        assert share <= 0.05 + ERROR


@pytest.mark.parametrize(("gate", "kind"), list(shipped("worst95")))
def test_one_part_at_the_limit(gate: Gate, kind: str) -> None:
    """One language leaks at the limit, whatever all together do."""
    rng = np.random.default_rng(5)
    for n in sizes(gate, 59):
        hits = rng.binomial(n, gate.value, ROUNDS)

        def figures(h: int, n: int = n) -> Figures:
            worst = max((stats.binomial_upper(h, 4 * n), h / 4 / n), (stats.binomial_upper(h, n), h / n))
            return Figures(4 * n, after=h / 4 / n, worst95=worst[0], worst=worst[1])

        assert passing(gate, hits, figures) <= 0.05 + ERROR


@pytest.mark.parametrize(("gate", "kind"), list(shipped("excess95")))
def test_excesses_over_chance_at_the_limit(gate: Gate, kind: str) -> None:
    rng = np.random.default_rng(3)
    for n, placebos in ((150, 50), (300, 100)):
        hits = rng.binomial(n, PLACEBO + gate.value, ROUNDS)
        chance = rng.binomial(placebos, PLACEBO, ROUNDS)
        pairs = hits * 1000 + chance

        def figures(pair: int, n: int = n, placebos: int = placebos) -> Figures:
            h, c = divmod(pair, 1000)
            bound = stats.difference_upper(h, n, c, placebos)
            return Figures(n, after=h / n, placebo=c / placebos, excess95=bound)

        assert passing(gate, pairs, figures) <= 0.05 + ERROR


@pytest.mark.parametrize(("gate", "kind"), [p for p in shipped("upper95") if p.values[1] == "utility"])
def test_texts_at_the_limit(gate: Gate, kind: str) -> None:
    """Documents of unequal length whose mean loss lies exactly at the limit."""
    rng = np.random.default_rng(4)
    limit = math.log(gate.value) if gate.value > 1 else gate.value
    passed = 0
    rounds = 4000
    for _ in range(rounds):
        lengths = rng.integers(40, 256, 32)
        # Losses of documents differ; their mean over all tokens is the limit on average.
        bound = stats.ratio_upper((lengths * rng.normal(limit, 0.02, 32)).tolist(), lengths.tolist())
        passed += bound <= limit
    assert passed / rounds <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / rounds) + 0.005


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_plans_in_stages_at_the_limit(correlation: float) -> None:
    """Facts drawn at random from a request in which two of a hundred leak, however they hang together."""
    plans = {
        tuple(map(tuple, entry.probe.options.stages))
        for suite in suite_names()
        for entry in load_suite(suite).entries
        if getattr(entry.probe.options, "stages", None)
    }
    rng = np.random.default_rng(5)
    assert plans
    for rows in plans:
        plan = StagedPlan.of(rows)
        outcomes = correlated(rng, 0.02, plan.most, correlation)
        passed = 0
        for row in outcomes:
            end = plan.end(row)  # type: ignore[arg-type]
            assert end is not None
            passed += plan.upper(end) <= 0.02 if end[1] <= 2 else 0
        assert passed / ROUNDS <= 0.05 + ERROR
        # Whole people leak or do not; drawing facts at random makes up for that.
        people = np.repeat(rng.random(2000) < 0.02, 7)
        people[:] = False
        people[: int(0.02 * len(people))] = True
        drawn = np.array([rng.choice(people, plan.most, replace=False) for _ in range(2000)])
        passed = sum(plan.upper(e) <= 0.02 for row in drawn if (e := plan.end(row)) and e[1] <= 2)
        assert passed / 2000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


def test_counting_prompts_instead_of_facts_would_pass_bad_models() -> None:
    """Why the unit is the fact: with prompts as units a model at the limit passes far too often."""
    rng = np.random.default_rng(6)
    facts, each, limit = 30, 10, 0.02
    alike = rng.random((ROUNDS, facts)) < 0.5
    together = (rng.random((ROUNDS, facts)) < limit)[..., None].repeat(each, -1)
    apart = rng.random((ROUNDS, facts, each)) < limit
    hits = np.where(alike[..., None], together, apart).sum((1, 2))
    share = np.mean([stats.binomial_upper(int(h), facts * each) <= limit for h in hits])
    assert share > 0.15
