"""Linear maps from hidden states to what they are said to hold, fitted and tested subject by subject.

Ridge regression, its penalty chosen by the error on the subject that is left out. That error needs no
refitting (Allen's PRESS, Technometrics 16, 1974), so that every subject is a fold of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from safeedit.errors import ProbeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PENALTIES = np.logspace(-3, 3, 13)
"""Penalties that are tried, in units of the states' mean variance."""


@dataclass(frozen=True, repr=False)
class LinearMap:
    """A fitted map."""

    centre: NDArray[np.float64]
    """(width,)."""
    scale: NDArray[np.float64]
    """(width,)."""
    weight: NDArray[np.float64]
    """(width, targets)."""
    offset: NDArray[np.float64]
    """(targets,)."""

    def __call__(self, states: NDArray[np.float64]) -> NDArray[np.float64]:
        """(rows, width) to (rows, targets)."""
        if not np.isfinite(states).all():
            raise ProbeError("a linear probe cannot be put to what is not finite")
        found: NDArray[np.float64] = (states - self.centre) / self.scale @ self.weight + self.offset
        return found


def ridge(
    states: NDArray[np.float64], targets: Sequence[NDArray[np.float64]]
) -> list[tuple[LinearMap, NDArray[np.float64]]]:
    """The map to each of several targets, and what it says of every row when it is fitted without that row.

    Args:
        states: (rows, width); one row a subject.
        targets: (rows, size) each.

    Raises:
        ProbeError: a number is not finite.
    """
    if not (np.isfinite(states).all() and all(np.isfinite(t).all() for t in targets)):
        raise ProbeError("a linear probe cannot be fitted to what is not finite")
    count, width = states.shape
    centre, scale = states.mean(0), np.maximum(states.std(0), 1e-6)
    rows = (states - centre) / scale
    values, vectors = np.linalg.eigh(rows @ rows.T / width)
    values = np.maximum(values, 0.0)
    unit = max(float(values.mean()), 1e-12)
    shares = [values / (values + penalty * unit) for penalty in PENALTIES]
    # What a row says of itself, the mean included.
    own = [1 / count + (vectors**2) @ share for share in shares]
    found = []
    for target in targets:
        offset = target.mean(0)
        inner = vectors.T @ (target - offset)
        best: tuple[float, NDArray[np.float64], float] | None = None
        for penalty, share, leverage in zip(PENALTIES, shares, own, strict=True):
            rest = target - offset - vectors @ (share[:, None] * inner)
            rest /= np.maximum(1 - leverage, 1e-9)[:, None]
            error = float((rest**2).sum())
            if best is None or error < best[0]:
                best = (error, target - rest, float(penalty))
        assert best is not None
        solved = vectors @ (inner / (values + best[2] * unit)[:, None])
        found.append((LinearMap(centre, scale, rows.T @ solved / width, offset), best[1]))
    return found


def nearness(said: NDArray[np.float64], candidates: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much nearer each candidate lies to what a map says than the nearest of the others does.

    Args:
        said: (rows, targets).
        candidates: (candidates, targets), at least two.

    Returns:
        (rows, candidates); positive for the nearest one alone.
    """
    near: NDArray[np.float64] = 2 * said @ candidates.T - (candidates**2).sum(1)
    first = near.argmax(1)
    rows = np.arange(len(near))
    ranked = np.sort(near, axis=1)
    others = np.repeat(ranked[:, -1:], near.shape[1], axis=1)
    others[rows, first] = ranked[:, -2]
    return near - others
