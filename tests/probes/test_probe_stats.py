"""Bounds: against scipy, against simulation, and as plans that must not pass a bad model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from safeedit.probes import stats


@given(st.integers(1, 400), st.data())
def test_exact_bounds_are_scipys(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    interval = binomtest(hits, n).proportion_ci(confidence_level=0.9, method="exact")
    assert stats.binomial_upper(hits, n) == pytest.approx(interval.high, abs=1e-9)
    assert stats.binomial_lower(hits, n) == pytest.approx(interval.low, abs=1e-9)


def test_known_values() -> None:
    assert stats.binomial_upper(0, 149) == pytest.approx(0.0199, abs=5e-5)
    assert stats.binomial_upper(0, 148) > 0.02
    assert stats.binomial_upper(0, 59) <= 0.05 < stats.binomial_upper(0, 58)
    assert stats.binomial_upper(0, 0) == stats.binomial_upper(3, 3) == 1
    assert stats.binomial_lower(0, 0) == 0
    assert stats.binomial_lower(59, 59) >= 0.95 > stats.binomial_lower(58, 58)


@pytest.mark.parametrize(("hits", "n"), [(1, 0), (-1, 3), (4, 3)])
def test_impossible_counts_are_refused(hits: int, n: int) -> None:
    with pytest.raises(ValueError, match="not a count"):
        stats.binomial_upper(hits, n)
    with pytest.raises(ValueError, match="not a count"):
        stats.binomial_lower(hits, n)


@pytest.mark.parametrize(("limit", "n"), [(0.02, 149), (0.02, 313), (0.05, 59), (0.05, 150), (0.05, 250)])
def test_a_model_exactly_at_the_limit_passes_at_most_once_in_twenty(limit: float, n: int) -> None:
    passing = [hits for hits in range(n + 1) if stats.binomial_upper(hits, n) <= limit]
    assert passing
    assert binom.pmf(passing, n, limit).sum() <= 0.05 + 1e-12


def test_clusters_of_losses_do_not_pass_as_independent_ones() -> None:
    """A model at the limit whose losses come by the person (ICC 0.5) must pass rarely."""
    rng = np.random.default_rng(5)
    naive = honest = 0
    for _ in range(600):
        rates = rng.beta(0.05, 0.95, 60)
        people = {person: [bool(rng.random() < rate) for _ in range(7)] for person, rate in enumerate(rates)}
        flat = [outcome for group in people.values() for outcome in group]
        naive += stats.binomial_upper(sum(flat), len(flat)) <= 0.05
        honest += stats.clustered_rate_upper(people) <= 0.05
    assert naive / 600 > 0.15
    assert honest / 600 < 0.09


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=8))
def test_the_cluster_bound_is_a_bound_and_never_below_the_exact_one(groups: list[list[bool]]) -> None:
    flat = [outcome for group in groups for outcome in group]
    bound = stats.clustered_rate_upper(dict(enumerate(groups)))
    assert stats.binomial_upper(sum(flat), len(flat)) - 1e-9 <= bound <= 1


def test_without_a_hit_clusters_add_nothing_to_the_exact_bound() -> None:
    assert stats.clustered_rate_upper({1: [False] * 30, 2: [False] * 29}) == stats.binomial_upper(0, 59)
    assert stats.clustered_rate_upper({1: [True] * 3}) == 1
    assert stats.clustered_rate_upper({}) == 1


def test_the_ratio_bound_covers_the_truth() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(800):
        sizes = rng.integers(20, 80, 40)
        effects = rng.normal(0.02, 0.05, 40)
        totals = [
            effect * size + rng.normal(0, 0.3 * size**0.5)
            for effect, size in zip(effects, sizes, strict=True)
        ]
        covered += stats.ratio_upper([float(x) for x in totals], [float(s) for s in sizes]) >= 0.02
    assert 0.92 <= covered / 800 <= 0.98


def test_the_ratio_bound_needs_clusters() -> None:
    with pytest.raises(ValueError, match="two clusters"):
        stats.ratio_upper([1.0], [2.0])
    assert stats.ratio_upper([1.0, 2.0], [10.0, 20.0]) == pytest.approx(0.1)


def test_a_difference_lies_about_newcombes_example() -> None:
    """Newcombe 1998, table II (a): 56/70 against 48/80, two-sided 95 % interval 0.0524 to 0.3339.

    That is with score intervals; exact bounds in their place give a wider one, and not by much.
    """
    assert 0.3339 < stats.difference_upper(56, 70, 48, 80, alpha=0.025) < 0.3339 + 0.015
    assert 0.0524 - 0.015 < -stats.difference_upper(48, 80, 56, 70, alpha=0.025) < 0.0524
    with pytest.raises(ValueError, match="both sides"):
        stats.difference_upper(0, 0, 1, 2)
