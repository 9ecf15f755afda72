"""The paired bootstrap: what it weighs, what it covers, and where it says nothing."""

from __future__ import annotations

import random

import numpy as np
import pytest

from safeedit.errors import ProbeError
from safeedit.exams.paired import Draws, Sample, compared, harmonic_mean, interval, least_certain, reported


def test_the_first_row_is_the_data_and_resamples_are_of_the_same_size() -> None:
    marks = {("a", "m"): {3: 1.0, 5: 0.0, 9: 0.5}, ("b", "m"): {0: 1.0}, ("a", "k"): {5: 1.0}}
    draws = Draws(marks, 0, resamples=50)
    sample = Sample(marks, draws)
    assert sample.mean("a", "m")[0] == 0.5
    assert (sample.mean("b", "m") == 1.0).all()
    assert sample.pooled(["a", "b"], "m")[0] == pytest.approx(2.5 / 4)
    assert (draws.weights["a"].sum(axis=1) == 3).all()
    # A unit without the mark does not count, and a resample without any unit that has it says nothing.
    drawn = sample.mean("a", "k")
    assert set(drawn[np.isfinite(drawn)]) == {1.0}
    assert np.isnan(drawn).any()


def test_both_models_are_weighed_alike_whatever_the_order() -> None:
    before = {("a", "m"): {i: float(i % 3) for i in range(30)}}
    after = {("a", "m"): {i: float(i % 3) for i in reversed(range(30))}}
    base, edited = compared(before, after, 7)
    assert (base.mean("a", "m") == edited.mean("a", "m")).all()


def test_models_that_were_asked_otherwise_are_not_compared() -> None:
    for after in ({("a", "m"): {1: 0.0}}, {("b", "m"): {0: 0.0}}, {}):
        with pytest.raises(ProbeError, match="not asked the same"):
            compared({("a", "m"): {0: 0.0}}, after, 0)


def test_the_area_under_the_curve_is_that_of_all_pairs() -> None:
    rng = random.Random(1)
    marks = {(part, "m"): {i: rng.randrange(5) / 2 for i in range(n)} for part, n in (("a", 9), ("b", 14))}
    draws = Draws(marks, 0, resamples=20)
    found = Sample(marks, draws).auc(("a", "m"), ("b", "m"))
    for row in (0, 7, 20):
        won = total = 0.0
        for i, x in marks["a", "m"].items():
            for j, y in marks["b", "m"].items():
                weight = draws.weights["a"][row][i] * draws.weights["b"][row][j]
                won, total = won + weight * ((x > y) + (x == y) / 2), total + weight
        assert found[row] == pytest.approx(won / total)


def test_the_interval_of_a_change_covers_it() -> None:
    """In 95 of 100 experiments, give or take what 150 experiments let expect."""
    rng, covered = np.random.default_rng(2), 0
    for number in range(150):
        base = rng.uniform(size=60)
        edited = np.clip(base - 0.1 + rng.normal(0, 0.1, 60), -1, 2)
        marks = [{("a", "m"): dict(enumerate(map(float, values)))} for values in (base, edited)]
        before, after = compared(marks[0], marks[1], number)
        bounds = interval(after.mean("a", "m") - before.mean("a", "m"))
        assert bounds is not None
        covered += bounds[0] <= -0.1 <= bounds[1]
    assert 0.89 <= covered / 150 <= 0.99


def test_units_that_hang_together_are_drawn_together() -> None:
    marks = {("a", "m"): {i: float(i // 10 % 2) for i in range(100)}}
    apart = Sample(marks, Draws(marks, 0)).mean("a", "m")
    together = Sample(marks, Draws(marks, 0, {"a": {i: i // 10 for i in range(100)}})).mean("a", "m")
    assert apart[0] == together[0]
    assert together[1:].std() > 2.5 * apart[1:].std()


def test_no_change_at_all_is_bounded_exactly_and_never_called_certain() -> None:
    same = {"m": np.zeros(11), "s": np.zeros(11)}
    found = reported(same, same, {"m": 50})
    assert found["m_change_high95"] == least_certain(50) == pytest.approx(1 - 0.025 ** (1 / 50))
    assert found["m_change_low95"] == -found["m_change_high95"]
    assert "s_change_low95" not in found


def test_the_harmonic_mean_is_nothing_where_a_part_is() -> None:
    found = harmonic_mean([np.array([0.5, 0.0]), np.array([1.0, 1.0])])
    assert found.tolist() == [pytest.approx(2 / 3), 0.0]
