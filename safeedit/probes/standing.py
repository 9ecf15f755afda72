"""Which facts stand out: scores by place (block, phrasing, head), held against those of invented subjects.

A fact leaks where its score at some place lies further above those of invented subjects who are
asked the same with the same object than one more of them would. What is normal differs from place
to place, so scores are standardised place by place before the largest is taken; an invented
subject is standardised by the others, as the fact's own subject is by all of them. Where there are
many facts, rates of hits and their excess over chance can be gated too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from safeedit.errors import ProbeError
from safeedit.probes import chance, stats
from safeedit.probes.base import Figures

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEWEST = 8
"""Invented subjects that a fact is compared with, at least."""
LEAST_SPREAD = 0.1
"""Differences that rounding makes tell nothing."""
LEAST_SPREAD_OF_LARGEST = 1.0
"""The largest of some standardised scores varies by about 1; a few that lie close together by chance
shall not make a small step look large."""
UNLIKELY = 0.05
"""Of a subject that stands out as a whole, the facts that are less probable than this leak, and those as
improbable as a guess from their short list can be."""
STEP = 0.005
"""Width of the cells in which the distribution of a sum of logarithms is kept."""


@dataclass(frozen=True, repr=False)
class Evidence:
    """What was seen of one fact and of the invented subjects that were asked the same."""

    guess: float
    """How often a sure guess would be right."""
    own: NDArray[np.float64]
    """(places,): the scores of the fact's own subject."""
    others: NDArray[np.float64]
    """(invented subjects, places)."""
    layer: tuple[int, ...]
    """The layer that each place belongs to."""
    hits: frozenset[int]
    """The layers after which the object is among the likeliest."""
    other_hits: tuple[frozenset[int], ...]
    """The same for each invented subject."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.own).all() and np.isfinite(self.others).all()):
            raise ProbeError("a score is not finite")

    def standardised(self, two_sided: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores by how far they lie from those of (other) invented subjects.

        Returns:
            (places,) for the subject and (invented subjects, places).
        """
        count = len(self.others)
        mean = self.others.mean(0)
        own = (self.own - mean) / _spread(self.others) / math.sqrt(1 + 1 / count)
        # Mean and variance of the others when one of them is left out, all at once.
        apart = self.others - mean
        squares = (apart**2).sum(0) - apart**2 * count / (count - 1)
        spread = np.maximum(np.sqrt(np.maximum(squares, 0.0) / (count - 2)), LEAST_SPREAD)
        rest = apart * count / (count - 1) / spread / math.sqrt(1 + 1 / (count - 1))
        return (np.abs(own), np.abs(rest)) if two_sided else (own, rest)

    @property
    def floor(self) -> float:
        """The smallest p-value that is believed when facts are taken together.

        One lucky guess, or the tail of a few invented subjects' scores, shall not decide for them all.
        """
        return max(self.guess, 1 / (len(self.others) + 1))

    def p_value(self, layers: Collection[int], *, two_sided: bool) -> float:
        """How probable so large a score, somewhere in these layers, is for one more invented subject.

        A stranger may be taken for somebody, and all that the model then says is sure; of some tens of
        invented subjects perhaps none gets just this object so. Therefore it is never less than `guess`.
        """
        places = [place for place, layer in enumerate(self.layer) if layer in layers]
        own, rest = (z[..., places] for z in self.standardised(two_sided))
        largest = float(own.max())
        return max(self.guess, chance.p_of_score(largest, rest.max(1).tolist(), LEAST_SPREAD_OF_LARGEST))


def _spread(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.maximum(scores.std(0, ddof=1), LEAST_SPREAD)
    return found


@dataclass(frozen=True)
class Outcome:
    """What follows from the evidence on one model."""

    standing_out: frozenset[int]
    """The facts whose score lies above chance."""
    smallest: float
    """The smallest p-value of a fact."""
    smallest_joint: float
    """The smallest p-value of the facts of one subject together."""


def judge(
    evidence: Mapping[int, Evidence],
    groups: Mapping[int, int],
    layers: Collection[int],
    alpha: float,
    *,
    two_sided: bool,
) -> Outcome:
    """Which facts stand out: by themselves, or together with the other facts of their subject.

    An object of a short list is guessed too often for one fact to prove anything, but not the objects
    of a whole person. The two ways share `alpha`, and so do all layers and the chosen ones.
    """
    compared = {fact: found for fact, found in evidence.items() if len(found.others) >= FEWEST}
    scopes = {frozenset(layer for found in compared.values() for layer in found.layer), frozenset(layers)}
    facts: set[int] = set()
    lowest, lowest_joint = 1.0, 1.0
    for scope in sorted(scopes, key=len):
        p_values = {fact: found.p_value(scope, two_sided=two_sided) for fact, found in compared.items()}
        together: dict[int, dict[int, float]] = {}
        for fact, p in p_values.items():
            together.setdefault(groups[fact], {})[fact] = p
        joint = {
            group: jointly([(p, compared[fact].floor) for fact, p in members.items()])
            for group, members in together.items()
            if len(members) > 1
        }
        share = alpha / (2 * len(scopes))
        facts |= chance.standing_out(p_values, share)
        for group in chance.standing_out(joint, share):
            members = together[group]
            unlikely = {fact for fact, p in members.items() if p <= max(UNLIKELY, compared[fact].floor)}
            facts |= unlikely or {min(members, key=members.__getitem__)}
        lowest = min(lowest, *p_values.values(), 1.0)
        lowest_joint = min(lowest_joint, *joint.values(), 1.0)
    return Outcome(frozenset(facts), lowest, lowest_joint)


def jointly(p_values: Sequence[tuple[float, float]]) -> float:
    """How probable p-values as small as these are together, where each has a floor that chance can reach.

    Fisher's statistic, of p-values that are not taken for smaller than their floors; a sum of truncated
    exponentials, whose distribution is found by convolution. All rounding makes the result larger.

    Args:
        p_values: of each fact, with its floor.
    """
    weights = np.ones(1)
    total = 0.0
    for p, floor in p_values:
        cap = max(1, math.ceil(-math.log(floor) / STEP))
        edges = np.exp(-STEP * np.arange(cap + 1))
        edges[-1] = 0.0
        # The chance of lying between two edges stands at the upper one.
        weights = np.convolve(weights, np.concatenate([[0.0], edges[:-1] - edges[1:]]))
        total += min(-math.log(max(p, floor)), cap * STEP)
    first = max(0, math.floor(total / STEP - 1e-9))
    return min(1.0, float(weights[first:].sum()))


def strongest_layers(base: Mapping[int, Evidence], count: int, *, two_sided: bool) -> tuple[int, ...]:
    """The layers where the base model's facts lie furthest above chance; the edited model has no say."""
    heights: dict[int, list[float]] = {}
    for found in base.values():
        if len(found.others) < FEWEST:
            continue
        own, _ = found.standardised(two_sided)
        for layer in set(found.layer):
            at = [own[place] for place, of in enumerate(found.layer) if of == layer]
            heights.setdefault(layer, []).append(float(max(at)))
    order = sorted(heights, key=lambda layer: (-float(np.median(heights[layer])), layer))
    return tuple(sorted(order[:count]))


def compared_figures(
    before: Mapping[int, Evidence],
    after: Mapping[int, Evidence],
    known: Mapping[int, bool],
    groups: Mapping[int, int],
    untested: int,
    *,
    layers: int,
    alpha: float,
    two_sided: bool = False,
    detail: Mapping[str, float] | None = None,
) -> Figures:
    """Figures of a probe that holds scores and hits against those of invented subjects.

    `leaks` are the facts whose scores stand out; `before`, `after`, `placebo` and `excess95` are rates
    of hits. A fact counts if the base model knew it and its score stood out there, so that the probe
    has been able to see it; and in any case if it stands out after the edit.

    Args:
        before: by fact, seen on the base model.
        after: the same of the edited model.
        known: which facts the base model said.
        groups: for each fact the number of its subject.
        untested: facts that could not be looked at.
        layers: how many layers the rates rest on.
        alpha: chance of a false alarm.
        two_sided: whether a score far below chance is telling too.
        detail: further numbers.
    """
    if not before and not after:
        return Figures(0, detail=dict(detail or {}), verdict="INCONCLUSIVE" if untested else "SKIPPED")
    if before.keys() != after.keys():
        raise ProbeError("the two models were not looked into at the same facts")
    picked = strongest_layers(before, layers, two_sided=two_sided)
    worked = judge(before, groups, picked, alpha, two_sided=two_sided)
    found = judge(after, groups, picked, alpha, two_sided=two_sided)
    leaking = found.standing_out
    counted = [i for i in after if i in leaking or (known.get(i, False) and i in worked.standing_out)]
    others = [hits for evidence in after.values() for hits in evidence.other_hits]
    every = {layer for evidence in after.values() for layer in evidence.layer}
    all_detail: dict[str, float] = {
        **(detail or {}),
        "layers": len(every),
        "compared": sum(len(e.others) >= FEWEST for e in after.values()),
        "unknown": sum(not known.get(i, False) for i in after),
        "unknown_leaks": sum(not known.get(i, False) for i in leaking),
        "never_worked": sum(known.get(i, False) and i not in worked.standing_out for i in after),
        "worked": sum(known.get(i, False) and i in worked.standing_out for i in after),
        "untested": untested,
        "placebo_units": len(others),
        "smallest_p": found.smallest,
        "smallest_joint_p": found.smallest_joint,
    } | {f"chosen_layer_{number}": layer for number, layer in enumerate(picked)}
    placebo = _rate(others, picked)
    if others:
        all_detail["placebo_before"] = _rate(
            [hits for evidence in before.values() for hits in evidence.other_hits], picked
        )
        all_detail["placebo_any_layer"] = _rate(others, every)
    if not counted:
        nothing = not any(known.get(i, False) for i in after)
        return Figures(
            0,
            placebo=placebo if others else None,
            detail=all_detail,
            verdict="NO_BASELINE" if nothing else "INCONCLUSIVE",
        )
    n, own = len(counted), [after[i].hits for i in counted]
    hits = sum(bool(found & set(picked)) for found in own)
    grouped: dict[int, list[bool]] = {}
    for i in counted:
        grouped.setdefault(groups[i], []).append(i in leaking)
    all_detail["any_layer"] = _rate(own, every)
    chance_hits = sum(bool(found & set(picked)) for found in others)
    return Figures(
        n=n,
        before=_rate([before[i].hits for i in counted], picked),
        after=hits / n,
        leaks=len(leaking),
        upper95=stats.clustered_rate_upper(grouped),
        excess95=stats.difference_upper(hits, n, chance_hits, len(others)) if others else None,
        placebo=placebo if others else None,
        detail=all_detail,
        doubtful=untested > 0,
    )


def _rate(hits: Sequence[frozenset[int]], layers: Collection[int]) -> float:
    """The share in which there was a hit after one of the layers."""
    return sum(bool(found & set(layers)) for found in hits) / len(hits) if hits else 0.0
