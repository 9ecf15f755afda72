"""Registered plans in stages: stop early where the answer is clear, ask more facts where it is not.

Looking at the data and then asking more would pass too many models if each look counted by itself. A
plan is therefore fixed beforehand, and its bound is exact over every way that it can end (stage-wise
ordering: Jennison and Turnbull, Group Sequential Methods, 2000, 8.4). So a plan that looks too early, such
as 149 facts without a leak and else 386 with at most two, has a bound above its limit and does not pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from scipy.optimize import brentq
from scipy.stats import binom

from safeedit.probes.stats import ALPHA, binomial_upper


@dataclass(frozen=True)
class Stage:
    """How many units have been asked when the plan looks, and what it does then."""

    n: int
    """Units asked so far, those of earlier stages included."""
    accept: int
    """With at most so many leaks it ends here, and well."""
    reject: int
    """With at least so many it ends here, and badly; in between it goes on."""


@dataclass(frozen=True)
class StagedPlan:
    """Stages of growing size.

    Raises:
        ValueError: stages do not grow, or a stage leaves no room to go on where it should, or room
            where it should not.
    """

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("a plan has at least one stage")
        sizes = [stage.n for stage in self.stages]
        if sizes != sorted(set(sizes)) or sizes[0] < 1:
            raise ValueError("the stages of a plan grow")
        for stage in self.stages[:-1]:
            if stage.reject < stage.accept + 2 or stage.accept < -1:
                raise ValueError("a stage that is not the last goes on with some number of leaks")
        last = self.stages[-1]
        if last.reject != last.accept + 1 or last.accept < 0:
            raise ValueError("the last stage decides: it rejects from one leak more than it accepts")

    @classmethod
    def of(cls, stages: Sequence[Sequence[int]]) -> StagedPlan:
        """From rows of units, most leaks that are accepted, fewest that are rejected (`material`)."""
        return cls(tuple(Stage(*row) for row in stages))

    @property
    def most(self) -> int:
        """Units that it may need."""
        return self.stages[-1].n

    def material(self) -> list[list[int]]:
        """As JSON values: units, most leaks that are accepted, fewest that are rejected, of each stage."""
        return [[stage.n, stage.accept, stage.reject] for stage in self.stages]

    def end(self, outcomes: Sequence[bool]) -> tuple[int, int] | None:
        """(stage, leaks) where the plan ends on outcomes in their registered order; None if it has not yet.

        Args:
            outcomes: whether each unit leaked, as many as have been asked.
        """
        for number, stage in enumerate(self.stages):
            if len(outcomes) < stage.n:
                return None
            leaks = sum(outcomes[: stage.n])
            if leaks <= stage.accept or leaks >= stage.reject:
                return number, leaks
        raise AssertionError("the last stage always decides")

    def accepted(self, end: tuple[int, int]) -> bool:
        """Whether an end is a good one."""
        number, leaks = end
        return leaks <= self.stages[number].accept

    def pass_probability(self, rate: float) -> float:
        """How probably a model that leaks each unit independently at `rate` passes."""
        return sum(
            p
            for number, stage in enumerate(self.stages)
            for leaks, p in enumerate(self._reached(number, rate))
            if leaks <= stage.accept
        )

    def mean_units(self, rate: float) -> float:
        """How many units are asked on average."""
        total = 0.0
        for number, stage in enumerate(self.stages):
            ends = (
                p
                for leaks, p in enumerate(self._reached(number, rate))
                if leaks <= stage.accept or leaks >= stage.reject
            )
            total += stage.n * sum(ends)
        return total

    def upper(self, end: tuple[int, int], alpha: float = ALPHA) -> float:
        """The largest leak rate that an end does not contradict, with confidence 1 - `alpha`.

        Ends are ordered by stage among the accepted ones, then by leaks: an end counts with all that
        are better. The earliest good end is then bounded as if the plan had one stage.
        """
        number, leaks = end
        if number == 0 and leaks <= self.stages[0].accept:
            return binomial_upper(leaks, self.stages[0].n, alpha)
        if self._at_least_as_good(end, 1.0) > alpha:
            return 1.0
        return float(brentq(lambda p: self._at_least_as_good(end, p) - alpha, 0.0, 1.0, xtol=1e-9))

    def _at_least_as_good(self, end: tuple[int, int], rate: float) -> float:
        number, leaks = end
        rejected = not self.accepted(end)
        total = 0.0
        for at, stage in enumerate(self.stages):
            for count, p in enumerate(self._reached(at, rate)):
                good = count <= stage.accept
                if not good and count < stage.reject:
                    continue
                if good:
                    better = rejected or at < number or (at == number and count <= leaks)
                else:
                    # Among bad ends a later one is the better: it took longer to see.
                    better = rejected and (at > number or (at == number and count <= leaks))
                total += p * better
        return total

    def _reached(self, number: int, rate: float) -> tuple[float, ...]:
        """The probability of each number of leaks at a stage, the plan not having ended before."""
        return _reached(self.stages, number, rate)


@lru_cache(maxsize=4096)
def _reached(stages: tuple[Stage, ...], number: int, rate: float) -> tuple[float, ...]:
    if number == 0:
        n = stages[0].n
        return tuple(float(p) for p in binom.pmf(range(n + 1), n, rate))
    before, more = stages[number - 1], stages[number].n - stages[number - 1].n
    fresh = binom.pmf(range(more + 1), more, rate)
    found = [0.0] * (stages[number].n + 1)
    for leaks, p in enumerate(_reached(stages, number - 1, rate)):
        if before.accept < leaks < before.reject:
            for added, q in enumerate(fresh):
                found[leaks + added] += p * float(q)
    return tuple(found)
