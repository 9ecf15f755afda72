"""Knowledge sharding (WISE, arXiv 2405.14768, section 2.3.2): which entries of a weight serve which edits.

Edits are divided into shards, and each shard may change a random part of the weight's entries only. Parts
overlap a little, and where they do, merging decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

_Item = TypeVar("_Item")
BUDGET = 32_000_000
"""Numbers in the systems that are solved, or whose factors are kept, together."""


def divided(items: Sequence[_Item], most: int) -> list[list[_Item]]:
    """The items in order, in as few parts of at most `most` as there can be, of nearly the same size."""
    parts = max(1, -(-len(items) // most))
    return in_parts(items, parts)


def in_parts(items: Sequence[_Item], parts: int) -> list[list[_Item]]:
    """The items in order, in `parts` parts of nearly the same size, or in as many as there are items."""
    parts = min(parts, len(items))
    bounds = [len(items) * i // parts for i in range(parts + 1)]
    return [list(items[a:b]) for a, b in pairwise(bounds)]


def random_mask(outer: int, inner: int, density: float, generator: torch.Generator) -> Tensor:
    """(outer, inner) bool: in each row as many entries, so that no output is left without any."""
    count = max(1, round(density * inner))
    if count >= inner:
        return torch.ones(outer, inner, dtype=torch.bool)
    order = torch.rand(outer, inner, generator=generator).argsort(1)[:, :count]
    return torch.zeros(outer, inner, dtype=torch.bool).scatter_(1, order, True)


class Masked:
    """Changes of the masked entries of a weight that move outputs as wanted, in the least-squares sense.

    For output o with entries S the change x minimises ||A_S x - d||^2 + ridge ||x||^2, for inputs A and
    wanted moves d. That is what gradient steps on the masked entries come to, without the many steps that
    they need where inputs resemble each other.
    """

    def __init__(self, inputs: Tensor, mask: Tensor, ridge: float) -> None:
        """Factor what does not depend on the moves.

        Args:
            inputs: (inputs, inner) float32.
            mask: (outer, inner) bool, on the same device.
            ridge: in units of the mean squared length of an input's masked part.
        """
        self.inputs, self.mask = inputs, mask
        size = inputs.square().sum(1).mean() * mask.float().mean()
        self.ridge = float((ridge * size).clamp(min=1e-12))
        self.whole = bool(mask.all())
        self.gram = inputs.T @ inputs if len(inputs) > inputs.shape[1] or not self.whole else None
        self.kept: list[tuple[Tensor, ...]] | None = None

    def change(self, moves: Tensor) -> Tensor:
        """(outer, inner) the change for (inputs, outer) moves."""
        if self.whole:
            return self._unmasked(moves)
        wanted = (self.inputs.T @ moves).T  # (outer, inner)
        found = torch.zeros_like(wanted)
        for rows, places, real, factor in self._systems():
            right = wanted[rows].gather(1, places) * real
            solved = torch.cholesky_solve(right[..., None], factor)[..., 0] * real
            found[rows] = found[rows].scatter_add(1, places, solved)
        return found

    def _unmasked(self, moves: Tensor) -> Tensor:
        if self.gram is not None:
            system = self.gram.clone()
            system.diagonal().add_(self.ridge)
            found: Tensor = torch.linalg.solve(system, self.inputs.T @ moves).T
            return found
        system = self.inputs @ self.inputs.T
        system.diagonal().add_(self.ridge)
        weights: Tensor = torch.linalg.solve(system, moves)
        return (self.inputs.T @ weights).T

    def _systems(self) -> Iterator[tuple[Tensor, ...]]:
        """For some outputs at a time: which, (outputs, entries) their entries, which are real, the factor."""
        if self.kept is not None:
            yield from self.kept
            return
        widest = int(self.mask.sum(1).max())
        step = max(1, BUDGET // (widest * widest))
        keep = len(self.mask) <= step
        for rows in torch.split(torch.arange(len(self.mask), device=self.mask.device), step):
            real, places = self.mask[rows].to(torch.uint8).sort(dim=1, descending=True, stable=True)
            real, places = real[:, :widest].float(), places[:, :widest]
            assert self.gram is not None
            system = self.gram[places[:, :, None], places[:, None, :]] * real[:, :, None] * real[:, None]
            system.diagonal(dim1=1, dim2=2).add_(self.ridge)
            found = (rows, places, real, torch.linalg.cholesky(system))
            if keep:
                self.kept = [found]
            yield found
