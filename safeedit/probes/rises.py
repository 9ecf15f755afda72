"""How much more or less often units are toxic on one model than on another, and what that allows to be said.

Both models see the same units. Bounds are exact (Clopper and Pearson) and put together by Bonferroni's
inequality, so that they hold however the two models' outcomes hang together, and where a count is 0, which no
bootstrap can bound. Tests of a direction are McNemar's, exact (Psychometrika 12, 1947).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binom, t

from safeedit.errors import ProbeError
from safeedit.probes import stats

FEWEST = 5
"""Fewer units than these cannot show a direction beyond noise, even if all of them go the same way."""


@dataclass(frozen=True)
class Change:
    """Units that are toxic, before and after."""

    n: int
    was: int
    now: int
    gained: int
    """Toxic after, not before."""
    lost: int
    """Toxic before, not after."""

    @classmethod
    def of(cls, before: Sequence[bool], after: Sequence[bool]) -> Change:
        """Counted over the same units in the same order.

        Raises:
            ProbeError: there are more units on one side.
        """
        if len(before) != len(after):
            raise ProbeError("the two models were not asked the same, so they cannot be compared")
        pairs = list(zip(before, after, strict=True))
        gained = sum(now and not was for was, now in pairs)
        lost = sum(was and not now for was, now in pairs)
        return cls(len(pairs), sum(before), sum(after), gained, lost)

    @property
    def rise(self) -> float:
        """The rate after less the rate before."""
        return (self.gained - self.lost) / self.n

    @property
    def rise_upper(self) -> float:
        """Upper bound of the rise: what was gained less what was lost, each exact at half the error."""
        return _most(self.gained, self.n) - _least(self.lost, self.n)

    @property
    def rise_lower(self) -> float:
        """Lower bound of the rise, likewise."""
        return _least(self.gained, self.n) - _most(self.lost, self.n)

    @property
    def fall(self) -> float:
        """By what part of what it was the rate fell; negative if it rose."""
        return 1 - self.now / max(self.was, 1)

    @property
    def fall_lower(self) -> float:
        """Lower bound of `fall`: the largest rate after, by the smallest rate before that one unit allows."""
        return 1 - _most(self.now, self.n) / max(_least(self.was, self.n), 1 / self.n)

    @property
    def fall_upper(self) -> float:
        """Upper bound of `fall`."""
        return 1 - _least(self.now, self.n) / _most(self.was, self.n)

    @property
    def p_rose(self) -> float:
        """McNemar's one-sided p that no more became toxic than ceased to be."""
        return float(binom.sf(self.gained - 1, self.gained + self.lost, 0.5))

    @property
    def p_fell(self) -> float:
        """McNemar's one-sided p that no fewer became toxic than ceased to be."""
        return float(binom.sf(self.lost - 1, self.gained + self.lost, 0.5))

    @property
    def mcnemar(self) -> float:
        """McNemar's two-sided p that as many became toxic as ceased to be."""
        return min(1.0, 2 * min(self.p_rose, self.p_fell))

    @property
    def rose(self) -> bool:
        """Whether more became toxic than ceased to be, beyond noise."""
        return self.gained > self.lost and self.p_rose <= stats.ALPHA

    @property
    def fell(self) -> bool:
        """Whether more ceased to be toxic than became so, beyond noise; of a few units at all."""
        return self.lost > self.gained and (self.p_fell <= stats.ALPHA or self.n < FEWEST)


def mean_rise(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    """The mean of paired differences with its one-sided 95 % bounds: (mean, lower, upper).

    By Student's t over the units. Where no unit differs from the others there is no spread to go by, and the
    bounds are those of a unit in n that was not seen.

    Raises:
        ProbeError: the sides differ in length, or there are fewer than two units.
    """
    if len(before) != len(after) or len(before) < 2:
        raise ProbeError("a paired mean needs the same units on both sides, and two at least")
    n = len(before)
    found = [now - was for was, now in zip(before, after, strict=True)]
    mean = math.fsum(found) / n
    spread = math.sqrt(math.fsum((one - mean) ** 2 for one in found) / (n - 1) / n)
    margin = float(t.ppf(1 - stats.ALPHA, n - 1)) * spread if spread else stats.binomial_upper(0, n)
    return mean, mean - margin, mean + margin


def _most(hits: int, n: int) -> float:
    return stats.binomial_upper(hits, n, stats.ALPHA / 2)


def _least(hits: int, n: int) -> float:
    return stats.binomial_lower(hits, n, stats.ALPHA / 2)
