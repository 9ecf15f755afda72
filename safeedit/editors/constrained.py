"""The algebra that `solve` has not: constraints that hold exactly, and changes kept out of a subspace.

All closed-form editors ask for a change D of a weight with D k_i near r_i. What differs is what is
given up for it. With A = weight * E[k k^T] of observed keys, K the keys (one a column), R what they gain:

- MEMIT:     D = R (K^T A^-1 K + I)^-1 K^T A^-1        (`least_change`, here with slack 1)
- EMMET:     D = R (K^T A^-1 K)^-1 K^T A^-1            (arXiv 2403.14236; slack 0; ROME for one key)
- AlphaEdit: D = R K^T P (K K^T P + B P + l I)^-1      (arXiv 2410.02355), P the projection on the
  directions that observed keys hardly have, B the moment of keys that shall stay in those, too.
- UltraEdit: D = R (K^T K + l I)^-1 K^T                (arXiv 2505.14679): no observed keys at all, so that
  A is a multiple of the identity, which is never formed while there are fewer keys than directions.

AlphaEdit's matrix is not symmetric, but P is a projection, so with Q = P K the same change is
R Q^T (Q Q^T + P B P + l I)^-1: MEMIT's form for projected keys. P itself is never formed: what is
kept is a basis of the few directions that it takes away.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from safeedit.editors.solve import Factors, Preservation, cholesky, least_change
from safeedit.errors import EditorError

LOOSE = 1e-3
"""An equality that is missed by more than this part has no solution in float32."""
AT_ONCE = 16 * 2**20
"""Numbers in double precision that a system of many keys is put together and solved with, beside itself."""


def equal_change(keys: Tensor, residuals: Tensor, preserve: Preservation, slack: float = 0.0) -> Factors:
    """The change that adds exactly `residuals` at `keys` and disturbs other keys least.

    Args:
        keys: (n, inner), one row a constraint.
        residuals: (n, outer), what the output at each key shall gain.
        preserve: the keys that shall keep their values.
        slack: how much constraints may give, against the units of `preserve`; 1 is `least_change`.

    Returns:
        Factors of rank n (or `inner`, where that is smaller).

    Raises:
        EditorError: the constraints contradict each other, or there are more of them than directions.
    """
    keys, residuals = keys.float(), residuals.float()
    count, inner = keys.shape
    if count > inner and not slack:
        raise EditorError(
            f"{count} values cannot all hold exactly in a layer whose keys have {inner} directions; "
            "edit fewer names at once, or give slack"
        )
    if count > inner:
        left, right = residuals.T @ keys, _many(keys, preserve, slack)  # (outer, inner), (inner, inner)
    else:
        left, right = residuals.T.contiguous(), _few(keys, preserve, slack)  # (outer, n), (n, inner)
    if not (torch.isfinite(right).all() and torch.isfinite(left).all()):
        raise EditorError("the edit has no finite solution; two names may share one key")
    if not slack and not _missed(keys, right) <= LOOSE:
        raise EditorError("the names' keys are too alike for all values to hold exactly; give slack")
    return Factors(left, right)


def _few(keys: Tensor, preserve: Preservation, slack: float) -> Tensor:
    """(n, inner): (K^T A^-1 K + slack I)^-1 K^T A^-1, beside which little more than the system is held."""
    whitened = torch.cholesky_solve(keys.T, preserve.factor).T  # (n, inner) = K^T A^-1
    width = max(1, AT_ONCE // len(keys))
    # Solved as it is rather than made symmetric: so the equalities hold whatever rounding A^-1 K has.
    system = torch.zeros(len(keys), len(keys), dtype=torch.double, device=keys.device)
    for ours, theirs in zip(*(torch.split(x, width, dim=1) for x in (whitened, keys)), strict=True):
        system.addmm_(ours.double(), theirs.T.double())
    system.diagonal().add_(slack)
    factors, pivots, failed = torch.linalg.lu_factor_ex(system)
    del system
    if failed:
        raise EditorError("the edit has no finite solution; two names may share one key")
    right = torch.empty_like(whitened, memory_format=torch.contiguous_format)
    for found, ours in zip(*(torch.split(x, width, dim=1) for x in (right, whitened)), strict=True):
        found.copy_(torch.linalg.lu_solve(factors, pivots, ours.double()))
    return right


def _many(keys: Tensor, preserve: Preservation, slack: float) -> Tensor:
    """(inner, inner): (K K^T + slack A)^-1; K^T times this is what `_few` would give."""
    system = slack * preserve.moment.double()
    for part in torch.split(keys, max(1, AT_ONCE // keys.shape[1])):
        wide = part.double()
        system.addmm_(wide.T, wide)
    return torch.cholesky_inverse(cholesky(system)).float()


def _missed(keys: Tensor, right: Tensor) -> float:
    """By what part the worst equality is missed."""
    worst = []
    for rows in torch.split(torch.arange(len(keys), device=keys.device), max(1, AT_ONCE // len(keys))):
        gained = right[rows] @ keys.T  # (rows, n)
        gained.scatter_add_(1, rows[:, None], -torch.ones_like(gained[:, :1]))
        worst.append(gained.abs().max())
    return float(torch.stack(worst).max())


def ridge_change(keys: Tensor, residuals: Tensor, ridge: float) -> Factors:
    """The change that adds `residuals` at `keys` and is small itself, whatever other keys there are.

    Args:
        keys: (n, inner), one row a constraint.
        residuals: (n, outer), what the output at each key shall gain. Rows of zeros shall stay.
        ridge: the cost of the change's squared size.

    Returns:
        Factors whose rank is the number of residuals that are not zero, or `inner`, where that is smaller.

    Raises:
        EditorError: the system has no finite solution.
    """
    keys, residuals = keys.float(), residuals.float()
    count, inner = keys.shape
    if count < inner:
        asked = residuals.any(1)
        whole = cholesky(keys @ keys.T + ridge * torch.eye(count, device=keys.device))
        wanted = torch.eye(count, device=keys.device)[:, asked]  # (n, asked)
        left, right = residuals[asked].T, torch.cholesky_solve(wanted, whole).T @ keys  # (asked, inner)
    else:
        left = residuals.T @ keys  # (outer, inner)
        right = torch.cholesky_inverse(cholesky(keys.T @ keys + ridge * torch.eye(inner, device=keys.device)))
    if not (torch.isfinite(left).all() and torch.isfinite(right).all()):
        raise EditorError("the edit has no finite solution")
    return Factors(left.contiguous(), right.contiguous())


def rank_one(direction: Tensor, key: Tensor, residual: Tensor, preserve: Preservation) -> Factors:
    """The change along A^-1 `direction` that adds `residual` at `key`.

    Where the two keys are one, it is `equal_change` for one key. ROME's code takes the mean over
    contexts as the direction and the bare prompt as the key (arXiv 2403.07175, section 3).

    Args:
        direction: (inner,).
        key: (inner,).
        residual: (outer,).
        preserve: the keys that shall keep their values.

    Raises:
        EditorError: the keys have so little in common that the change would be out of all proportion.
    """
    both = torch.stack([direction, key]).float()
    whitened = torch.cholesky_solve(both.T, preserve.factor).T.double()
    common = whitened @ both.T.double()  # (2, 2)
    shared = common[0, 1]
    size = (common[0, 0] * common[1, 1]).sqrt()
    if not torch.isfinite(common).all() or not torch.isfinite(residual).all():
        raise EditorError("the edit has no finite solution")
    if not shared > 0.05 * size:
        raise EditorError(
            "a name's key behind other texts has next to nothing in common with its key alone, so that "
            "ROME's change would break the model; r-rome takes one key for both"
        )
    return Factors(residual.float()[:, None], (whitened[0] / shared).float()[None])


@dataclass(frozen=True)
class Projected(Preservation):
    """What AlphaEdit leaves alone: some directions altogether, in the others whatever is large.

    Attributes:
        complement: (inner, rank) orthonormal columns, the directions that no change may have.
    """

    complement: Tensor

    @staticmethod
    def within(complement: Tensor, ridge: float) -> Projected:
        """Changes that avoid the columns of `complement` and cost `ridge` for their squared size.

        Raises:
            EditorError: `complement` leaves no direction.
        """
        inner, rank = complement.shape
        if rank >= inner:
            raise EditorError("the observed keys fill all directions, so that none is free for an edit")
        identity = torch.eye(inner, device=complement.device)
        return Projected(ridge * identity, complement)

    def plus(self, moment: Tensor) -> Projected:
        """Preserve other keys as well, as far as they lie in the free directions; see `Preservation`."""
        free = self.project(self.project(moment).T)
        grown = Preservation.of(self.moment + free, 1.0, 0.0)
        return Projected(grown.moment, self.complement)

    @property
    def nbytes(self) -> int:
        """See `Preservation`."""
        return super().nbytes + self.complement.nbytes

    def project(self, keys: Tensor) -> Tensor:
        """The part of `keys`, (n, inner), that lies in the free directions."""
        free = keys - (keys @ self.complement) @ self.complement.T
        # Once more, as what rounding leaves of the complement is divided by a small ridge later.
        return free - (free @ self.complement) @ self.complement.T


def projected_change(keys: Tensor, residuals: Tensor, preserve: Preservation) -> Factors:
    """AlphaEdit's change: as `least_change`, and nothing at all in the directions that are kept.

    Args:
        keys: (n, inner), one row a constraint.
        residuals: (n, outer), what the output at each key shall gain.
        preserve: a `Projected`.

    Raises:
        EditorError: the system has no finite solution.
    """
    assert isinstance(preserve, Projected)
    found = least_change(preserve.project(keys.float()), residuals, preserve)
    return Factors(found.left, preserve.project(found.right))


def main_directions(
    second_moment: Tensor, *, energy: float | None = None, threshold: float | None = None
) -> Tensor:
    """Directions that observed keys have most of: all that a change must avoid.

    Args:
        second_moment: E[k k^T], (inner, inner).
        energy: the share of the keys' mean squared norm, 0 to 1, that the directions shall hold at least;
            the fewest directions that do are taken.
        threshold: instead, those along which the mean square is at least this (AlphaEdit's way; its 0.02
            presumes the scale of the models that it was found on).

    Returns:
        (inner, rank) orthonormal columns, those with most first.

    Raises:
        EditorError: the second moment is not finite.
    """
    if (energy is None) == (threshold is None):
        raise ValueError("give either energy or threshold")
    moment = second_moment.float()
    if not torch.isfinite(moment).all():
        raise EditorError("the key statistics are not finite; collect them again")
    values, vectors = torch.linalg.eigh((moment + moment.T) / 2)
    values, vectors = values.flip(0).clamp(min=0).double(), vectors.flip(1)
    if threshold is not None:
        rank = int((values >= threshold).sum())
    else:
        assert energy is not None
        before = values.cumsum(0) - values
        rank = int((before < energy * values.sum() * (1 - 1e-9)).sum())
    found: Tensor = vectors[:, :rank].contiguous()
    return found
