"""Rows with what no training changes computed once: what enters the lowest block that is changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from safeedit.editors.goals import Spots
from safeedit.editors.rows import Demand, Goals, Row, Task
from safeedit.models.segment import Segment
from safeedit.models.tokens import pad

BATCH = 256
"""Rows run together where nothing is trained."""


class Prepared:
    """Rows that have run up to the lowest block that is changed.

    Padded on the right, so that a mini-batch is cut to its longest row; nothing after a row's last
    spot is run.
    """

    def __init__(self, segment: Segment, lowest: int, rows: Sequence[Row], fill: int) -> None:
        self.segment, self.lowest, self.device = segment, lowest, segment.decoder.device
        ends = [max(row.spots) + 1 for row in rows]
        ids = [row.ids[:end] for row, end in zip(rows, ends, strict=True)]
        self.batch = pad(ids, fill, "right").to(self.device)
        self.ends = torch.tensor(ends, device=self.device)
        # Only where the spots are, not what is wanted there.
        self.spots = Spots.of(
            [Demand(0, row, _nothing(row)) for row in rows], Task.empty_table(0, self.device)
        )
        self.hidden = self._entering() if lowest else None

    def __len__(self) -> int:
        return len(self.ends)

    def run(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions of the model as it now is, and (spots,) at which spots.

        Args:
            rows: indices.

        Returns:
            ``(log_p, spots)``, log_p (spots, vocabulary) float32, the spots in their order.
        """
        final, spots = self.final(rows)
        return self.log_p(final), spots

    def final(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """As `run`, with the final hidden states, (spots, hidden_size), instead of predictions."""
        spots, place = self.spots.among(rows, len(self))
        width = slice(int(self.ends[rows].max()))
        hidden = None if self.hidden is None else self.hidden[rows, width]
        states = self.segment.run(self.batch.rows(rows).columns(width), start=self.lowest, hidden=hidden)
        return states[place, self.spots.column[spots]], spots

    def log_p(self, final: Tensor) -> Tensor:
        """Log-probabilities from final hidden states, in float32."""
        found: Tensor = self.segment.decoder.logits(final).float().log_softmax(-1)
        return found

    def parts(self, size: int = BATCH) -> Iterator[Tensor]:
        """The indices of all rows, `size` at a time."""
        return iter(torch.split(torch.arange(len(self), device=self.device), size))

    def some(self, most: int, generator: torch.Generator) -> Tensor:
        """The indices of all rows, or of `most` that are drawn at random on the generator's device."""
        if len(self) <= most:
            return torch.arange(len(self), device=self.device)
        drawn = torch.randperm(len(self), generator=generator, device=generator.device)[:most]
        return drawn.sort().values.to(self.device)

    @torch.no_grad()
    def _entering(self) -> Tensor:
        return torch.cat([self.segment.run(self.batch.rows(part), stop=self.lowest) for part in self.parts()])


class Kept:
    """Rows whose predictions stay what they are now."""

    def __init__(self, rows: Prepared) -> None:
        self.rows = rows
        with torch.no_grad():
            self.own = torch.cat([rows.final(part)[0] for part in rows.parts()])

    def __len__(self) -> int:
        return len(self.rows)

    def change(self, rows: Tensor) -> Tensor:
        """(spots,) KL divergence, in nats, from what the model said to what it says."""
        log_p, spots = self.rows.run(rows)
        with torch.no_grad():
            own = self.rows.log_p(self.own[spots])
        change: Tensor = (own.exp() * (own - log_p)).sum(-1)
        return change


def _nothing(row: Row) -> Goals:
    return Goals.even(len(row.spots))
