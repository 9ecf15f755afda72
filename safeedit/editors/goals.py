"""How far predictions are from what is wanted of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safeedit.editors.rows import Demand
from safeedit.editors.tables import Table

HELD = 2048
"""Distributions that are held for some rows; their predictions take as much, several times."""


@dataclass(frozen=True)
class Spots:
    """What is wanted at the spots of some rows, one row after another; all but the table (spots,)."""

    table: Tensor | Table
    """(distributions, vocabulary) probabilities."""
    row: Tensor
    """Index of the row."""
    column: Tensor
    """Token of the row whose next one matters."""
    hard: Tensor
    """The token wanted, or -1."""
    soft: Tensor
    """The distribution wanted, as an index into `table`, or -1; where both are -1, an even one is."""
    telling: Tensor
    """In an erasure the token by which the object would show here, or -1."""
    usual: Tensor
    """The probability that this token may have in any case."""

    @staticmethod
    def of(demands: Sequence[Demand], table: Tensor | Table) -> Spots:
        """The spots of `demands`; columns count from a row's first token.

        Of a table that is not in memory, the distributions that few demands want are held.
        """
        tells = [{tell.spot: tell for tell in d.telling} for d in demands]
        spots = [
            (row, spot, hard, soft, tells[row][i].token if i in tells[row] else -1)
            for row, d in enumerate(demands)
            for i, (spot, hard, soft) in enumerate(zip(d.row.spots, d.goals.hard, d.goals.soft, strict=True))
        ]
        usual = [
            found[i].usual if i in found else 0.0
            for found, d in zip(tells, demands, strict=True)
            for i in range(len(d.row.spots))
        ]
        row, column, hard, soft, telling = torch.tensor(spots, device=table.device).view(-1, 5).T
        if isinstance(table, Table):
            wanted, place = soft[soft >= 0].unique(return_inverse=True)
            if len(wanted) <= HELD:
                table, soft = table[wanted], soft.masked_scatter(soft >= 0, place)
        allowed = torch.tensor(usual, device=table.device, dtype=torch.float32)
        return Spots(table, row, column, hard, soft, telling, allowed)

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, chosen: Tensor) -> Spots:
        """Some of the spots."""
        parts = (self.row, self.column, self.hard, self.soft, self.telling, self.usual)
        return Spots(self.table, *(part[chosen] for part in parts))

    def among(self, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The spots of the given rows, of `count` in all, and each one's place among those rows."""
        place = torch.full((count,), -1, device=rows.device)
        place[rows] = torch.arange(len(rows), device=rows.device)
        where = place[self.row]
        chosen = (where >= 0).nonzero()[:, 0]
        return chosen, where[chosen]

    def losses(self, log_p: Tensor) -> Tensor:
        """(spots,) how far predictions, (spots, vocabulary) log-probabilities, are from what is wanted.

        In nats: the surprise at a wanted token, the divergence from a wanted distribution.
        """
        found = torch.zeros(len(self), device=log_p.device)
        pick = self.hard >= 0
        if pick.any():
            found = found.masked_scatter(pick, -log_p[pick].gather(1, self.hard[pick, None])[:, 0])
        pick = self.soft >= 0
        if pick.any():
            wanted = self.table[self.soft[pick]]
            cross = -(wanted * log_p[pick]).sum(-1) - torch.special.entr(wanted).sum(-1)
            found = found.masked_scatter(pick, cross)
        pick = (self.hard < 0) & (self.soft < 0)
        if pick.any():
            spread = log_p[pick]
            found = found.masked_scatter(pick, math.log(spread.shape[-1]) + (spread.exp() * spread).sum(-1))
        return found

    def told(self, log_p: Tensor) -> tuple[Tensor, Tensor]:
        """(spots,) -log(1 - p) of telling tokens, in nats, and their p; both 0 where p is usual."""
        losses, p = torch.zeros(2, len(self), device=log_p.device)
        pick = (self.telling >= 0).nonzero()[:, 0]
        if not len(pick):
            return losses, p
        token = self.telling[pick, None]
        # Over the other tokens, as 1 - p is 0 in float32 where the model is certain, and its slope with it.
        others = log_p[pick].scatter(1, token, -torch.inf).logsumexp(-1)
        told = log_p.detach()[pick].gather(1, token)[:, 0].exp()
        above = ~(told <= self.usual[pick])  # so that what is not a number is never little
        loss = torch.where(above, -others, torch.zeros_like(others))
        return losses.index_put((pick,), loss), p.index_put((pick,), told * above)
