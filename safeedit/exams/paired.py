"""Benchmark figures before and after an edit, on the same units, with intervals from one paired bootstrap.

Both models are weighed with the same resamples, so that what units differ in by themselves cancels out of
the change. Parts of a data set are resampled each by itself, and units (records) whole, with all that was
asked about them; records about one fact are drawn together. Percentile intervals (Efron and Tibshirani,
An Introduction to the Bootstrap, 13).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safeedit.errors import ProbeError
from safeedit.probes.stats import binomial_upper

Array = NDArray[np.float64]
Key = tuple[str, str]
"""Part of the data set, and name of a mark."""
Marks = Mapping[Key, Mapping[int, float]]
"""For each part and mark, its value for every unit that has one."""
Clusters = Mapping[str, Mapping[int, object]]
"""For each part and unit, what it is drawn together with; a unit that is not named stands by itself."""
Summary = Mapping[str, Array]
"""Figures by name, each (1 + resamples,): for the units as they are, then for every resample."""

RESAMPLES = 1000
TWO_SIDED = 0.05


class Draws:
    """How often each unit of each part is in each resample; the first row has every unit once."""

    def __init__(
        self, marks: Marks, seed: int, clusters: Clusters | None = None, resamples: int = RESAMPLES
    ) -> None:
        found: dict[str, set[int]] = {}
        for (part, _), values in marks.items():
            found.setdefault(part, set()).update(values)
        rng = np.random.default_rng(seed)
        of = clusters or {}
        self.place: dict[str, dict[int, int]] = {}
        self.weights: dict[str, Array] = {}
        for part, units in sorted(found.items()):
            ordered = sorted(units)
            self.place[part] = {unit: number for number, unit in enumerate(ordered)}
            number: dict[object, int] = {}
            column = [number.setdefault(of.get(part, {}).get(unit, unit), len(number)) for unit in ordered]
            n = len(number)
            drawn = rng.multinomial(n, np.full(n, 1 / n), size=resamples)  # (resamples, clusters)
            self.weights[part] = np.vstack([np.ones(len(ordered)), drawn[:, column]])


class Sample:
    """The marks of one model, weighed."""

    def __init__(self, marks: Marks, draws: Draws) -> None:
        self.marks, self._draws = marks, draws

    def __contains__(self, key: object) -> bool:
        return bool(self.marks.get(key))  # type: ignore[call-overload]

    def mean(self, part: str, mark: str) -> Array:
        """The mean over the units that have the mark: (1 + resamples,)."""
        values, weights = self.columns(part, mark)
        # A resample may hold none of the few units that have a mark; then it says nothing.
        total = weights.sum(axis=1)
        with np.errstate(invalid="ignore"):
            return np.asarray(weights @ values / np.where(total > 0, total, np.nan))

    def pooled(self, parts: Sequence[str], mark: str) -> Array:
        """The mean over the units of several parts together: (1 + resamples,)."""
        columns = [self.columns(part, mark) for part in parts]
        total = sum(weights.sum(axis=1) for _, weights in columns)
        return np.asarray(sum(weights @ values for values, weights in columns) / total)

    def columns(self, part: str, mark: str) -> tuple[Array, Array]:
        """The values of a mark (units,), and the weights of these units (1 + resamples, units)."""
        values = self.marks[part, mark]
        place = self._draws.place[part]
        return np.array(list(values.values())), self._draws.weights[part][:, [place[u] for u in values]]

    def auc(self, high: Key, low: Key) -> Array:
        """How often a unit of `high` has a larger value than one of `low`, ties half: (1 + resamples,)."""
        above, above_weights = self.columns(*high)
        below, below_weights = self.columns(*low)
        order = np.argsort(below, kind="stable")
        sums = np.concatenate(
            [np.zeros((len(below_weights), 1)), below_weights[:, order].cumsum(axis=1)], axis=1
        )
        less = np.searchsorted(below[order], above, side="left")
        at_most = np.searchsorted(below[order], above, side="right")
        won = (sums[:, less] + sums[:, at_most]) / 2  # (1 + resamples, units of `high`)
        total = above_weights.sum(axis=1) * below_weights.sum(axis=1)
        return np.asarray((above_weights * won).sum(axis=1) / total)


def harmonic_mean(parts: list[Array]) -> Array:
    """Elementwise; 0 where one of them is 0."""
    stacked = np.stack(parts)
    with np.errstate(divide="ignore"):
        return np.asarray(np.where((stacked > 0).all(axis=0), len(parts) / (1 / stacked).sum(axis=0), 0.0))


def interval(values: Array, alpha: float = TWO_SIDED) -> tuple[float, float] | None:
    """The percentile interval of the resamples; None where all say the same, which no bootstrap can bound."""
    drawn = values[1:][np.isfinite(values[1:])]
    if not len(drawn) or np.ptp(drawn) == 0:
        return None
    low, high = np.quantile(drawn, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def least_certain(n: int, alpha: float = TWO_SIDED) -> float:
    """How far a mean of n marks between 0 and 1 may lie from what all n said (exact binomial)."""
    return binomial_upper(0, n, alpha / 2)


def compared(
    before: Marks, after: Marks, seed: int, clusters: Clusters | None = None
) -> tuple[Sample, Sample]:
    """Two models' marks, weighed alike.

    Raises:
        ProbeError: they were not asked the same.
    """
    if {k: set(v) for k, v in before.items()} != {k: set(v) for k, v in after.items()}:
        raise ProbeError("the two models were not asked the same, so they cannot be compared")
    draws = Draws(before, seed, clusters)
    # One order of units for both: weights are looked up by it.
    ordered = {key: {unit: after[key][unit] for unit in values} for key, values in before.items()}
    return Sample(before, draws), Sample(ordered, draws)


def reported(before: Summary, after: Summary, units: Mapping[str, int]) -> dict[str, float]:
    """Each figure before, after, and the 95 % interval of its change, as numbers by name.

    Args:
        before: of the base model.
        after: of the edited one.
        units: on how many units a plain mean of marks between 0 and 1 rests; where no resample
            differs, its change is bounded by that. Other figures then get no interval.
    """
    detail: dict[str, Any] = {}
    for name, values in after.items():
        old = before[name]
        change = values - old
        detail[f"{name}_before"], detail[f"{name}_after"] = float(old[0]), float(values[0])
        bounds = interval(change)
        if bounds is None and name in units:
            margin = least_certain(units[name])
            bounds = max(-1.0, float(change[0]) - margin), min(1.0, float(change[0]) + margin)
        if bounds is not None:
            detail[f"{name}_change_low95"], detail[f"{name}_change_high95"] = bounds
    return detail
