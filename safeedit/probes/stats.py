"""Bounds for what was measured on a limited number of units. One-sided, 95 %, unless told otherwise.

Exact binomial bounds: Clopper and Pearson (Biometrika 26, 1934). Difference of two independent
proportions: Newcombe's hybrid (Statistics in Medicine 17, 1998) with these exact bounds in place of score
intervals, with which a model at the limit passes in up to 5.8 % of cases. Units that share
a subject or a document are not independent; the variance over clusters is that of the linearised
ratio estimator (Cochran, Sampling Techniques, 6.12), with Student's t.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from scipy.stats import beta, t

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
    """An upper bound of the rate of True that allows for hits that come in clusters.

    The exact bound for the number of independent units that carry as much information (Korn and
    Graubard, Survey Methodology 24, 1998), never for more units than there are. Without any hit
    nothing can be known of clustering, and every unit counts.

    Args:
        outcomes: the outcomes of each cluster.
        alpha: one minus the confidence.
    """
    flat = [outcome for group in outcomes.values() for outcome in group]
    n, hits, count = len(flat), sum(flat), len(outcomes)
    if count < 2 or hits in (0, n):
        return binomial_upper(hits, n, alpha)
    rate = hits / n
    spread = math.fsum((sum(group) - rate * len(group)) ** 2 for group in outcomes.values())
    variance = count / (count - 1) * spread / n**2
    effective: float = n
    if variance > 0:
        fewer_degrees = (t.ppf(1 - alpha, n - 1) / t.ppf(1 - alpha, count - 1)) ** 2
        effective = min(n, rate * (1 - rate) / variance * float(fewer_degrees))
    return float(beta.ppf(1 - alpha, rate * effective + 1, effective - rate * effective))


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
    first, second = hits / n, hits_other / n_other
    high = binomial_upper(hits, n, alpha)
    low = binomial_lower(hits_other, n_other, alpha)
    return first - second + math.sqrt((high - first) ** 2 + (second - low) ** 2)


def _check(hits: int, n: int) -> None:
    if not 0 <= hits <= n:
        raise ValueError(f"{hits} of {n} is not a count")
