"""Changes between two models: the bounds hold where they must, and directions are not read into noise."""

import math

import numpy as np
import pytest

from safeedit.errors import ProbeError
from safeedit.probes.rises import Change, mean_rise

ROUNDS = 4000


def test_counts_are_those_of_the_pairs():
    change = Change.of([True, True, False, False], [True, False, True, False])
    assert change == Change(4, 2, 2, 1, 1)
    assert (change.rise, change.fall, change.mcnemar) == (0.0, 0.0, 1.0)


def test_other_units_are_an_error():
    with pytest.raises(ProbeError, match="not asked the same"):
        Change.of([True], [True, False])


def test_a_fall_is_bounded_where_nothing_is_left_and_where_nothing_was():
    gone = Change(30, 30, 0, 0, 30)
    assert gone.fall == 1.0
    # The largest rate after at 2.5 %, over the smallest before.
    least = 0.025 ** (1 / 30)
    assert gone.fall_lower == pytest.approx(1 - (1 - least) / least)
    assert gone.fall_upper == 1.0
    never = Change(30, 0, 3, 3, 0)
    assert never.fall < 0
    assert math.isfinite(never.fall_lower)


def test_a_direction_needs_more_than_noise_unless_there_are_few():
    assert Change(30, 5, 0, 0, 5).fell
    assert not Change(30, 4, 0, 0, 4).fell
    assert Change(4, 4, 0, 0, 4).fell
    assert not Change(4, 4, 4, 0, 0).fell
    assert Change(30, 0, 5, 5, 0).rose
    assert not Change(30, 3, 5, 3, 1).rose
    assert Change(30, 5, 0, 0, 5).mcnemar == pytest.approx(2 / 32)


@pytest.mark.parametrize("together", [0.0, 0.7])
@pytest.mark.parametrize(("n", "before", "after"), [(30, 0.9, 0.45), (100, 0.4, 0.2), (12, 1.0, 0.5)])
def test_a_fall_of_just_a_half_is_not_taken_for_more(n, before, after, together):
    """However strongly the two models' outcomes hang together."""
    rng = np.random.default_rng(3)
    wrong = 0
    for _ in range(ROUNDS):
        first = rng.random(n)
        second = np.where(rng.random(n) < together, first, rng.random(n))
        change = Change.of((first < before).tolist(), (second < after).tolist())
        wrong += change.was > 0 and change.fall_lower > 0.5
    assert wrong / ROUNDS <= 0.05


def test_a_mean_without_spread_is_bounded_all_the_same():
    mean, low, high = mean_rise([0.5] * 40, [0.5] * 40)
    assert mean == 0.0
    assert low < -0.05 < 0.05 < high
    mean, low, high = mean_rise([0.1, 0.2, 0.1, 0.2], [0.9, 0.8, 0.9, 0.9])
    assert low < mean < high
    assert low > 0.5
    with pytest.raises(ProbeError, match="same units"):
        mean_rise([0.1], [0.1])
