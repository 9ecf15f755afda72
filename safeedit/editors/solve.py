"""The algebra of closed-form editing: the smallest change of a weight that maps keys to new values.

MEMIT (Meng et al., arXiv 2210.07229, eq. 14) asks for the change D of a down-projection with

    min_D  sum_i || D k_i - r_i ||^2  +  trace(D A D^T),      A = weight * E[k k^T],

whose solution is D = R K^T (A + K K^T)^-1. With n keys of width f there are two equal forms:
one solves an f x f system, the other (Woodbury) an n x n system after whitening by A. The
smaller system is taken. Both are symmetric and positive definite, so Cholesky in float32 does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from safeedit.errors import EditorError


@dataclass(frozen=True)
class Factors:
    """A change of a weight as a product: ``left @ right``, (outer, rank) and (rank, inner)."""

    left: Tensor
    right: Tensor

    def dense(self) -> Tensor:
        """The change itself, (outer, inner)."""
        return self.left @ self.right


@dataclass(frozen=True)
class Preservation:
    """What a solve must leave alone: a second moment of keys, factored once for many solves.

    Attributes:
        moment: ``weight * E[k k^T]`` with a little of the identity added, (inner, inner).
    """

    moment: Tensor

    @staticmethod
    def of(second_moment: Tensor, weight: float, jitter: float = 1e-4) -> Preservation:
        """Preserve ``weight * second_moment``.

        Args:
            second_moment: E[k k^T], (inner, inner), any float dtype.
            weight: how many observed keys the second moment counts for (MEMIT's lambda).
            jitter: part of the mean diagonal added to the diagonal, so that directions that the
                corpus never showed are not free.

        Raises:
            EditorError: the second moment is not finite or not positive.
        """
        moment = second_moment.float()
        if weight != 1:
            moment = moment * weight
        del second_moment  # as large as all else here
        moment = (moment + moment.T).div_(2)
        scale, ends = moment.diagonal().mean(), torch.stack(moment.aminmax())
        if not torch.isfinite(ends).all() or not scale > 0:
            raise EditorError("the key statistics are not finite and positive; collect them again")
        moment.diagonal().add_(scale * jitter)
        return Preservation(moment)

    @cached_property
    def factor(self) -> Tensor:
        """The moment's lower Cholesky factor, (inner, inner).

        Raises:
            EditorError: the second moment is not positive definite.
        """
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(self.moment)
        if failed:
            raise EditorError("the key statistics are not positive definite; collect them over more text")
        return factor

    @property
    def nbytes(self) -> int:
        """What it takes, once it is factored."""
        return 2 * self.moment.nbytes

    def plus(self, moment: Tensor) -> Preservation:
        """Preserve other keys as well, whose summed second moment, (inner, inner), this is."""
        total = self.moment + moment
        del moment
        return Preservation.of(total, 1.0, 0.0)


def least_change(keys: Tensor, residuals: Tensor, preserve: Preservation) -> Factors:
    """The change of a weight that adds `residuals` at `keys` and disturbs other keys least.

    Args:
        keys: (n, inner), one row a constraint.
        residuals: (n, outer), what the output at each key shall gain.
        preserve: the keys that shall keep their values.

    Returns:
        Factors of rank n (or `inner`, where that is smaller).

    Raises:
        EditorError: the system has no finite solution.
    """
    keys, residuals = keys.float(), residuals.float()
    count, inner = keys.shape
    if count < inner:
        whitened = torch.cholesky_solve(keys.T, preserve.factor)  # (inner, n) = A^-1 K
        system = torch.eye(count, device=keys.device) + keys @ whitened  # (n, n)
        right = torch.cholesky_solve(whitened.T, cholesky(system))  # (n, inner)
        left = residuals.T  # (outer, n)
    else:
        system = preserve.moment + keys.T @ keys  # (inner, inner)
        left = residuals.T @ keys  # (outer, inner)
        right = torch.cholesky_inverse(cholesky(system))
    if not (torch.isfinite(left).all() and torch.isfinite(right).all()):
        raise EditorError("the edit has no finite solution")
    return Factors(left.contiguous(), right.contiguous())


def cholesky(system: Tensor) -> Tensor:
    """The lower factor of an edit's system of equations.

    Raises:
        EditorError: it is not positive definite.
    """
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex((system + system.T) / 2)
    if failed:
        raise EditorError("the edit's system of equations is not positive definite")
    return factor


def before_modules(values: Tensor, gain: Tensor, after: Sequence[nn.Module], steps: int = 30) -> Tensor:
    """What `values` must gain so that they gain `gain` once the modules `after` them have run.

    Most blocks add the down-projection's output to the residual stream as it is. Where a norm
    stands between (Gemma 2), not every gain can be reached; the nearest one is found by descent.

    Args:
        values: (n, outer), the down-projection's output.
        gain: (n, outer), wanted after the modules.
        after: the modules, in order.
        steps: iterations of L-BFGS.
    """
    if not after:
        return gain

    def through(x: Tensor) -> Tensor:
        for module in after:
            x = module(x)
        return x

    with torch.enable_grad():
        wanted = (through(values) + gain).detach()
        found = values.detach().clone().requires_grad_(True)
        optimiser = torch.optim.LBFGS([found], max_iter=steps, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimiser.zero_grad()
            distance: Tensor = (through(found) - wanted).square().sum()
            torch.autograd.backward(distance)
            return distance

        optimiser.step(loss)  # type: ignore[no-untyped-call]
    change: Tensor = (found - values).detach()
    return change
