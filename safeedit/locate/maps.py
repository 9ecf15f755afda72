"""What a trace found: a map for each prompt, averages by token role, and the layers that they point to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from safeedit.locate.prompts import ROLES, Prompt, Role
from safeedit.locate.sites import Kind

Grid = NDArray[np.float64]


@dataclass(frozen=True, repr=False, eq=False)
class Map:
    """The indirect effects of one prompt's states on the probability of its object."""

    prompt: Prompt
    clean: float
    """The object's probability."""
    corrupted: float
    """The same with noise on the subject, averaged over samples."""
    effects: Mapping[Kind, Grid]
    """(tokens, layers): the probability that restoring one state brings back."""

    def by_role(self, kind: Kind) -> dict[Role, Grid]:
        """(layers,) effects, averaged over the tokens of a role; a role that no token has is missing."""
        roles = self.prompt.roles
        grid = self.effects[kind]
        return {role: grid[[own == role for own in roles]].mean(0) for role in ROLES if role in roles}

    def to_json(self, *, show_sensitive: bool = False) -> dict[str, Any]:
        """As JSON values; with the tokens' texts only if asked for."""
        shown = {"tokens": list(self.prompt.pieces)} if show_sensitive else {}
        return {
            **shown,
            "roles": list(self.prompt.roles),
            "clean": _short(self.clean),
            "corrupted": _short(self.corrupted),
            "effects": {kind: _rows(grid) for kind, grid in self.effects.items()},
        }


@dataclass(frozen=True, eq=False)
class Average:
    """Mean effects of one kind of state at tokens of one role, over a fact's prompts and then over facts."""

    kind: Kind
    role: Role
    facts: int
    """How many facts have a token of that role."""
    mean: Grid
    """(layers,)."""
    error: Grid | None
    """(layers,) the standard error over facts; None for a single one. Facts of one subject count as
    independent, which they are not quite."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        error = None if self.error is None else _rows(self.error)
        return {
            "kind": self.kind,
            "role": self.role,
            "facts": self.facts,
            "mean": _rows(self.mean),
            "standard_error": error,
        }


def averages(maps: Iterable[Map], kinds: Sequence[Kind]) -> list[Average]:
    """One average for each kind and each role that occurs, in the order of `kinds` and `ROLES`."""
    maps = list(maps)
    found = []
    for kind in kinds:
        grids: dict[Role, dict[int, list[Grid]]] = {role: {} for role in ROLES}
        for one in maps:
            for role, grid in one.by_role(kind).items():
                grids[role].setdefault(one.prompt.fact, []).append(grid)
        for role, own in grids.items():
            if not own:
                continue
            each = np.stack([np.mean(prompts, axis=0) for prompts in own.values()])
            error = each.std(0, ddof=1) / math.sqrt(len(each)) if len(each) > 1 else None
            found.append(Average(kind, role, len(each), each.mean(0), error))
    return found


@dataclass(frozen=True)
class Suggestion:
    """Where the averages say that facts are looked up."""

    site: Literal["subject", "prompt"]
    """Whether at the subject's last token or at the prompt's; editors with a setting `site` have the same."""
    kind: Kind
    """The kind of state that it was read off."""
    layers: tuple[int, ...]
    """Neighbouring layers, around the strongest, with at least `SHARE` of its effect."""
    peak: int
    """The strongest layer."""
    effect: float
    """The mean effect there."""
    error: float | None
    """Its standard error over facts; None for a single one."""

    @property
    def params(self) -> dict[str, Any]:
        """What can be pasted into a policy's `editor.params`, for every editor with layers."""
        return {"layers": list(self.layers)}

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "site": self.site,
            "kind": self.kind,
            "layers": list(self.layers),
            "peak": self.peak,
            "effect": _short(self.effect),
            "standard_error": None if self.error is None else _short(self.error),
            "params": self.params,
        }


SHARE = 0.5
"""Suggested layers have this share of the strongest one's effect: the peak's width at half height."""
_SITES: dict[Role, Literal["subject", "prompt"]] = {"last_subject": "subject", "last": "prompt"}


def suggestions(found: Sequence[Average], depth: int) -> list[Suggestion]:
    """The layers around the peak of each site, the site with the strongest peak first.

    Read off MLP outputs where they were traced, else off hidden states; of these at the subject's last
    token alone, because at the prompt's last one the highest layers hold the prediction itself. The last
    block is left out, because an edit needs one above it.

    Where a fact is carried is not where an edit of it works best (Hase et al., arXiv 2301.04213); it is a
    place to start from.

    Args:
        found: what `averages` gave.
        depth: how many blocks the model has.

    Returns:
        Nothing for a site at which nothing has an effect.
    """
    kind: Kind = "mlp" if any(average.kind == "mlp" for average in found) else "hidden"
    roles = _SITES if kind == "mlp" else ("last_subject",)
    own = [_around_peak(one, depth) for one in found if one.kind == kind and one.role in roles]
    return sorted((one for one in own if one is not None), key=lambda one: -one.effect)


def _around_peak(average: Average, depth: int) -> Suggestion | None:
    mean = average.mean[: depth - 1]
    if not len(mean) or mean.max() <= 0:
        return None
    peak = int(mean.argmax())

    def near(layers: range) -> list[int]:
        return list(takewhile(lambda layer: mean[layer] >= SHARE * mean[peak], layers))

    layers = (*reversed(near(range(peak - 1, -1, -1))), peak, *near(range(peak + 1, len(mean))))
    error = None if average.error is None else float(average.error[peak])
    return Suggestion(_SITES[average.role], average.kind, layers, peak, float(mean[peak]), error)


def correlation(ours: Iterable[Map], theirs: Iterable[Map], kind: Kind) -> float:
    """Pearson's correlation over all cells from the subject on; it judges the fast mode by the exact one."""
    cells = [
        (one.effects[kind][one.prompt.first :].ravel(), other.effects[kind][other.prompt.first :].ravel())
        for one, other in zip(ours, theirs, strict=True)
    ]
    left, right = (np.concatenate(part) for part in zip(*cells, strict=True))
    return float(np.corrcoef(left, right)[0, 1])


def _short(value: float) -> float:
    return round(value, 6)


def _rows(grid: Grid) -> Any:
    return grid.round(6).tolist()
