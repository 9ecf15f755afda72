"""Chance: what an unknown subject would score, and what stands out from it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeedit.probes.chance import ALPHA, p_of_hits, p_of_score, standing_out


@pytest.mark.parametrize("facts", [1, 7, 20])
def test_a_stranger_stands_out_no_more_often_than_alpha(facts: int) -> None:
    rng = np.random.default_rng(facts)
    alpha, rounds = 0.05, 2000
    alarms = 0
    for _ in range(rounds):
        scores = rng.normal(size=(facts, 21))
        p = {i: p_of_score(row[0], row[1:].tolist()) for i, row in enumerate(scores)}
        alarms += bool(standing_out(p, alpha))
    assert alarms / rounds <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / rounds)


@pytest.mark.parametrize(("rate", "correlation"), [(0.1, 0.0), (0.3, 0.3), (0.1, 0.6)])
def test_guesses_that_come_together_are_no_leak(rate: float, correlation: float) -> None:
    rng = np.random.default_rng(1)
    rounds, tries = 600, 20

    def guesses(count: int) -> list[int]:
        if not correlation:
            return rng.binomial(tries, rate, count).tolist()
        strength = 1 / correlation - 1
        return rng.binomial(tries, rng.beta(rate * strength, (1 - rate) * strength, count)).tolist()

    alarms = 0
    for _ in range(rounds):
        hits, *others = guesses(51)
        alarms += p_of_hits(hits, tries, [(h, tries) for h in others]) < 0.01
    assert alarms / rounds <= 0.03


def test_what_nobody_guesses_is_known() -> None:
    assert p_of_hits(1, 40, [(0, 40)] * 30) == 0.0
    assert p_of_hits(0, 40, [(0, 40)] * 30) == 1.0


def test_an_answer_that_is_always_given_stands_out() -> None:
    assert p_of_hits(20, 20, [(3, 20), (1, 20), (2, 20)] * 10) < 1e-6
    assert p_of_score(math.log(0.2), [math.log(x) for x in (1e-6, 3e-7, 2e-6, 8e-7)]) < ALPHA


def test_scores_without_spread() -> None:
    assert p_of_score(1.0, [0.0, 0.0, 0.0]) == 0.0
    assert p_of_score(0.0, [0.0, 0.0, 0.0]) == 1.0
    assert p_of_score(1.0, [0.0, 0.0, 0.0], least_spread=10.0) > 0.3


@pytest.mark.parametrize("scores", [[], [1.0, 2.0], [1.0, 2.0, math.nan]])
def test_missing_placebos_are_an_error(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="three placebos"):
        p_of_score(1.0, scores)


def test_a_score_that_is_no_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="three placebos"):
        p_of_score(math.nan, [1.0, 2.0, 3.0])


@pytest.mark.parametrize("placebos", [[], [(0, 0)], [(0, 4), (0, 0)]])
def test_placebos_that_were_not_asked_are_an_error(placebos: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="asked too"):
        p_of_hits(1, 4, placebos)


@given(st.dictionaries(st.integers(), st.floats(0, 1), max_size=8), st.floats(0.001, 0.2))
def test_holm_lies_between_bonferroni_and_no_correction(p: dict[int, float], alpha: float) -> None:
    found = standing_out(p, alpha)
    assert {i for i, x in p.items() if x <= alpha / len(p)} <= found if p else not found
    assert found <= {i for i, x in p.items() if x <= alpha}
