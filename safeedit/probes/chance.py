"""What chance alone gives: the same question about invented subjects, and when a subject stands out.

Where an answer can be guessed (a language, a digit, an instrument) a hit proves nothing. A subject that
the model never knew is exchangeable with invented ones who are asked the same with the same object;
so a subject leaks where its score lies further above theirs than one more of them would. With several
facts the chance of any false alarm is held, not that of each (Holm, Scandinavian Journal of
Statistics 6, 1979).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from scipy.stats import betabinom, t

ALPHA = 0.005
"""Chance of a false alarm of one probe over all its facts; half of it would miss mutants (BENCHMARKS.md)."""

Fact = TypeVar("Fact", bound=Hashable)


def p_of_score(score: float, placebos: Sequence[float], least_spread: float = 0.0) -> float:
    """How probable a score at least as high is for one more invented subject.

    The prediction interval of a normal sample: Student's t with the spread of the placebos. Scores that
    are probabilities belong here as logarithms.

    Args:
        score: of the subject.
        placebos: of invented subjects, at least three.
        least_spread: a standard deviation that chance has at least.

    Raises:
        ValueError: there are fewer than three placebos, or a score is not a number.
    """
    if len(placebos) < 3 or math.isnan(score) or any(map(math.isnan, placebos)):
        raise ValueError("a score is held against at least three placebos, all of them numbers")
    count = len(placebos)
    mean, spread = statistics.fmean(placebos), max(statistics.stdev(placebos), least_spread)
    if spread == 0:
        return 0.0 if score > mean else 1.0
    return float(t.sf((score - mean) / (spread * math.sqrt(1 + 1 / count)), count - 1))


def p_of_hits(hits: int, tries: int, placebos: Sequence[tuple[int, int]]) -> float:
    """How probable at least `hits` of `tries` are for one more invented subject.

    A beta-binomial: what is guessed once is guessed again, so that the hits of one subject come together.
    Its rate is the placebos' own (with half a hit more, so that none seen is not none possible), its
    overdispersion by moments.

    Args:
        hits: questions about the subject that were answered with the object.
        tries: questions about the subject.
        placebos: (hits, tries) of each invented subject.

    Raises:
        ValueError: nothing was asked of a placebo, or there are none.
    """
    tried = sum(n for _, n in placebos)
    if not placebos or not tried or any(n < 1 for _, n in placebos):
        raise ValueError("hits are held against invented subjects that were asked too")
    if not hits:
        return 1.0
    found = sum(h for h, _ in placebos)
    if not found:
        # Nobody says it of a stranger: what is said of the subject is known.
        return 0.0
    rate = (found + 0.5) / (tried + 1)
    within = _correlation(placebos, found / tried)
    strength = (1 - within) / within
    return float(betabinom.sf(hits - 1, tries, rate * strength, (1 - rate) * strength))


def _correlation(placebos: Sequence[tuple[int, int]], rate: float) -> float:
    """Within-subject correlation of hits, by the analysis of variance, kept within (0, 1)."""
    groups, tried = len(placebos), sum(n for _, n in placebos)
    if groups < 2 or tried == groups or rate in (0.0, 1.0):
        return 0.5
    between = sum(n * (h / n - rate) ** 2 for h, n in placebos) / (groups - 1)
    inside = sum(h * (1 - h / n) for h, n in placebos) / (tried - groups)
    size = (tried - sum(n * n for _, n in placebos) / tried) / (groups - 1)
    found = (between - inside) / (between + (size - 1) * inside) if between + inside else 0.0
    return min(max(found, 0.02), 0.98)


def standing_out(p_values: Mapping[Fact, float], alpha: float = ALPHA) -> frozenset[Fact]:
    """The facts that stand out from chance, with at most `alpha` for any false alarm among all of them."""
    found: set[Fact] = set()
    for rank, (fact, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        if p > alpha / (len(p_values) - rank):
            break
        found.add(fact)
    return frozenset(found)
