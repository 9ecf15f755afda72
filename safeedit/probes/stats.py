"""Bounds for what was measured on a limited number of units. One-sided, 95 %, unless told otherwise.

Exact binomial bounds: Clopper and Pearson (Biometrika 26, 1934). Difference of two independent
proportions: Newcombe's hybrid score interval (Statistics in Medicine 17, 1998). Units that share
a subject or a document are not independent; their bounds come from the linearised ratio
estimator over clusters (Cochran, Sampling Techniques, 6.12) with Student's t.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from scipy.stats import beta, norm, t

ALPHA = 0.05


def binomial_upper(hits: int, n: int, alpha: float = ALPHA) -> float:
    """The largest rate that `hits` of `n` does not contradict; 1 if nothing was tried.

    Raises:
        ValueError: `hits` does not lie between 0 and `n`.
    """
    _check(hits, n)
    return 1.0 if hits == n else float(beta.ppf(1 - alpha, hits + 1, n - hits))


def binomial_lower(hits: int, n: int, alpha: float = ALPHA) -> float:
    """The smallest rate that `hits` of `n` does not contradict; 0 if nothing was tried.

    Raises:
        ValueError: `hits` does not lie between 0 and `n`.
    """
    _check(hits, n)
    return 0.0 if hits == 0 else float(beta.ppf(alpha, hits, n - hits + 1))


def clustered_rate_upper(outcomes: Mapping[int, Sequence[bool]], alpha: float = ALPHA) -> float:
    """An upper bound of the rate of True that holds for independent and for clustered outcomes.

    The larger of the exact binomial bound and the cluster bound: with no hit at all only the
    former says anything, with hits that come in clusters only the latter is wide enough.

    Args:
        outcomes: the outcomes of each cluster.
        alpha: one minus the confidence.
    """
    flat = [outcome for group in outcomes.values() for outcome in group]
    exact = binomial_upper(sum(flat), len(flat), alpha)
    if len(outcomes) < 2 or not any(flat):
        return exact
    hits = [float(sum(group)) for group in outcomes.values()]
    pooled = ratio_upper(hits, [float(len(group)) for group in outcomes.values()], alpha)
    return min(1.0, max(exact, pooled))


def ratio_upper(totals: Sequence[float], sizes: Sequence[float], alpha: float = ALPHA) -> float:
    """Upper bound of ``sum(totals) / sum(sizes)``, the pairs being independent clusters.

    Args:
        totals: the sum of the measured quantity over each cluster.
        sizes: how many units each cluster has.
        alpha: one minus the confidence.

    Raises:
        ValueError: fewer than two clusters; nothing can be said about their spread.
    """
    count = len(totals)
    if count < 2 or count != len(sizes):
        raise ValueError("a cluster bound needs at least two clusters")
    size = math.fsum(sizes)
    mean = math.fsum(totals) / size
    spread = math.fsum((x - mean * m) ** 2 for x, m in zip(totals, sizes, strict=True))
    error = math.sqrt(count / (count - 1) * spread) / size
    return mean + float(t.ppf(1 - alpha, count - 1)) * error


def difference_upper(hits: int, n: int, hits_other: int, n_other: int, alpha: float = ALPHA) -> float:
    """Upper bound of the first rate minus the second, both from independent units.

    Raises:
        ValueError: a count does not lie between 0 and its n, or an n is 0.
    """
    _check(hits, n)
    _check(hits_other, n_other)
    if not n or not n_other:
        raise ValueError("a difference of rates needs units on both sides")
    z = float(norm.ppf(1 - alpha))
    first, second = hits / n, hits_other / n_other
    high = _score(hits, n, z)[1]
    low = _score(hits_other, n_other, z)[0]
    return first - second + math.sqrt((high - first) ** 2 + (second - low) ** 2)


def _score(hits: int, n: int, z: float) -> tuple[float, float]:
    """Wilson's score interval."""
    rate, square = hits / n, z * z / n
    centre = (rate + square / 2) / (1 + square)
    half = z * math.sqrt(rate * (1 - rate) / n + square / (4 * n)) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


def _check(hits: int, n: int) -> None:
    if not 0 <= hits <= n:
        raise ValueError(f"{hits} of {n} is not a count")
