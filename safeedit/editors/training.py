"""Training some weights of a model on the goals of edits, with answers that stay as they are.

What never changes is computed once: the states that enter the lowest trained block. Every epoch visits
the edits in random mini-batches; the last word has a look at all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from safeedit.editors.base import Progress
from safeedit.editors.rows import Demand, Row
from safeedit.errors import EditorError
from safeedit.models.segment import Segment
from safeedit.models.tokens import pad

BATCH = 256
"""Rows run together where nothing is trained."""
MOMENTS = (0.9, 0.98)
"""Adam's; the second is short, as a training has a few dozen steps."""


@dataclass(frozen=True)
class Goal:
    """When a prompt is finished, and how an erasure's two terms are weighed."""

    stop: float
    leak: float = 1.0
    neutral_weight: float = 1.0


@dataclass(frozen=True)
class Outcome:
    """How far prompts have come; all (prompts,)."""

    loss: Tensor
    """Mean over spots, in nats, above the least possible."""
    leak: Tensor
    """Probability of the erased object's telling token; 0 for what is no erasure."""
    open: Tensor
    """Whether a prompt is not finished."""


class Rows:
    """Rows with what never changes computed once: what enters the lowest trained block.

    Padded on the right, so that a mini-batch is cut to its longest row; nothing after a row's last
    spot is run.
    """

    def __init__(self, segment: Segment, lowest: int, rows: Sequence[Row], fill: int) -> None:
        self.segment, self.lowest = segment, lowest
        device = segment.decoder.device
        ends = [max(row.spots) + 1 for row in rows]
        self.batch = pad([row.ids[:end] for row, end in zip(rows, ends, strict=True)], fill, "right").to(
            device
        )
        self.ends = torch.tensor(ends)
        where = [(index, spot) for index, row in enumerate(rows) for spot in row.spots]
        self.spot_row, self.spot_column = torch.tensor(where).T
        self.hidden = self._entering() if lowest else None

    def __len__(self) -> int:
        return len(self.ends)

    def run(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Final hidden states at the spots of `rows`, (spots, hidden_size), and which spots those are."""
        device, width = self.segment.decoder.device, int(self.ends[rows].max())
        place = torch.full((len(self),), -1)
        place[rows] = torch.arange(len(rows))
        spots = (place[self.spot_row] >= 0).nonzero()[:, 0]
        index = rows.to(device)
        final = self.segment.run(
            self.batch.rows(index).columns(slice(width)),
            start=self.lowest,
            hidden=None if self.hidden is None else self.hidden[index, :width],
        )
        return final[place[self.spot_row[spots]].to(device), self.spot_column[spots].to(device)], spots

    def parts(self) -> Iterator[Tensor]:
        """All rows, in batches for passes without training."""
        return iter(torch.split(torch.arange(len(self)), BATCH))

    @torch.no_grad()
    def _entering(self) -> Tensor:
        found = [
            self.segment.run(self.batch.rows(part.to(self.batch.input_ids.device)), stop=self.lowest)
            for part in self.parts()
        ]
        return torch.cat(found)


class Kept:
    """Rows whose answers stay what they are now."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        with torch.no_grad():
            self.own = torch.cat([rows.run(part)[0] for part in rows.parts()])

    def loss(self, rows: Tensor) -> Tensor:
        """Mean KL divergence, in nats, from what the model said to what it says, over `rows`."""
        logits = self.rows.segment.decoder.logits
        final, spots = self.rows.run(rows)
        with torch.no_grad():
            own = logits(self.own[spots.to(final.device)]).float().log_softmax(-1)
        return (own.exp() * (own - logits(final).float().log_softmax(-1))).sum(-1).mean()


class Asked:
    """Rows with goals."""

    def __init__(self, rows: Rows, demands: Sequence[Demand], table: Tensor, goal: Goal) -> None:
        self.rows, self.table, self.goal = rows, table, goal
        device = table.device
        spots = [
            (hard, soft, d.telling[1] if d.telling is not None and d.telling[0] == i else -1)
            for d in demands
            for i, (hard, soft) in enumerate(zip(d.goals.hard, d.goals.soft, strict=True))
        ]
        self.hard, self.soft, self.telling = torch.tensor(spots, device=device).T
        self.count = torch.tensor([float(len(d.row.spots)) for d in demands], device=device)
        self.weight = torch.tensor([d.weight for d in demands], device=device)
        self.erased = torch.tensor([d.telling is not None for d in demands], device=device)
        self.floor = torch.tensor([_floor(d) for d in demands], device=device)

    def loss(self, rows: Tensor) -> tuple[Tensor, Outcome]:
        """The mean loss of `rows`, to be trained on, and how far each of them is."""
        final, spots = self.rows.run(rows)
        device = final.device
        log_p = self.rows.segment.decoder.logits(final).float().log_softmax(-1)
        row = self.rows.spot_row[spots].to(device)
        rows, spots = rows.to(device), spots.to(device)
        hard, soft, telling = self.hard[spots], self.soft[spots], self.telling[spots]
        losses = -_at(log_p, hard)
        spread = (hard < 0) & (soft < 0)
        if spread.any():
            even = math.log(log_p.shape[-1]) + (log_p.exp() * log_p).sum(-1)
            losses = torch.where(spread, even, losses)
        if len(self.table):
            wanted = self.table[soft.clamp(min=0)]
            cross = -(wanted * log_p).sum(-1) - torch.special.entr(wanted).sum(-1)
            losses = torch.where(soft >= 0, cross, losses)
        p = _at(log_p, telling).exp().where(telling >= 0, 0.0)
        told = -torch.log1p(-p.clamp(max=1 - 1e-6))
        none = torch.zeros(len(self.count), device=device)
        mean = (none.index_add(0, row, losses) / self.count)[rows] - self.floor[rows]
        leak = none.scatter_reduce(0, row, p.detach(), "amax")[rows]
        erased = self.erased[rows]
        total = torch.where(erased, self.goal.neutral_weight, 1.0) * mean + none.index_add(0, row, told)[rows]
        finished = torch.where(erased, leak <= self.goal.leak, mean.detach() <= self.goal.stop)
        return (self.weight[rows] * total).mean(), Outcome(mean.detach(), leak, ~finished)

    @torch.no_grad()
    def look(self) -> Outcome:
        """How far all rows are."""
        found = [self.loss(part)[1] for part in self.rows.parts()]
        return Outcome(
            torch.cat([o.loss for o in found]),
            torch.cat([o.leak for o in found]),
            torch.cat([o.open for o in found]),
        )


def _at(log_p: Tensor, token: Tensor) -> Tensor:
    """(spots,) the log-probability of a token at each spot; anything where the token is -1."""
    return log_p.gather(1, token.clamp(min=0)[:, None])[:, 0]


def _floor(demand: Demand) -> float:
    """The least loss of a row: several tokens that are asked for at one spot must share its probability."""
    wanted = list(zip(demand.row.spots, demand.goals.hard, strict=True))
    if len(set(demand.row.spots)) == len(wanted):
        return 0.0
    return sum(-math.log(wanted.count(pair) / len(wanted)) for pair in wanted) / len(wanted)


@contextmanager
def asking(weights: Sequence[Tensor]) -> Iterator[None]:
    """The weights ask for gradients; what they asked for before, and had, is put back."""
    before = [(weight.requires_grad, weight.grad) for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
        weight.grad = None
    try:
        with torch.enable_grad():
            yield
    finally:
        for weight, (asked, gradient) in zip(weights, before, strict=True):
            weight.requires_grad_(asked)
            weight.grad = gradient


class Weights:
    """The trained weights: kept in float32, and put into the model in its own type."""

    def __init__(self, weights: Sequence[Tensor], rate: float, bound: float | None) -> None:
        self.weights, self.rate, self.bound = weights, rate, bound
        self.base = [weight.detach().float().clone() for weight in weights]
        self.now = [base.clone() for base in self.base]
        self.unit = [base.square().mean().sqrt() for base in self.base]
        self.first = [torch.zeros_like(base) for base in self.base]
        self.second = [torch.zeros_like(base) for base in self.base]
        self.steps = 0

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """One step of Adam, its size relative to the weights, then the bound."""
        self.steps += 1
        one, two = MOMENTS
        for i, gradient in enumerate(gradients):
            found = gradient.float()
            self.first[i].lerp_(found, 1 - one)
            self.second[i].lerp_(found.square(), 1 - two)
            spread = (self.second[i] / (1 - two**self.steps)).sqrt_().add_(1e-12)
            self.now[i].sub_(self.first[i] / spread * (self.rate * self.unit[i] / (1 - one**self.steps)))
            if self.bound is not None:
                limit = self.bound * self.unit[i]
                self.now[i].copy_(self.now[i].clamp(self.base[i] - limit, self.base[i] + limit))
            self.weights[i].copy_(self.now[i])

    def changes(self) -> list[Tensor]:
        """What was added to each weight."""
        return [now - base for now, base in zip(self.now, self.base, strict=True)]

    def size(self) -> float:
        """The largest root mean square of a change, in units of its weight's."""
        return max(
            float(c.square().mean().sqrt() / u) for c, u in zip(self.changes(), self.unit, strict=True)
        )


def train(
    asked: Asked,
    kept: Kept | None,
    weights: Weights,
    epochs: int,
    batch_rows: int,
    retain: float,
    seed: int,
    report: Progress,
) -> tuple[int, Outcome]:
    """Epochs until all goals hold. What is finished stays in them, or it would be unlearnt by the rest.

    Raises:
        EditorError: the loss or a weight is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    outcome = asked.look()
    epoch = 0
    while epoch < epochs and bool(outcome.open.any()):
        report("epochs", epoch, epochs)
        still_open = 0
        order = torch.randperm(len(asked.rows), generator=generator)
        for part in torch.split(order, batch_rows):
            loss, seen = asked.loss(part)
            if kept is not None:
                others = torch.randperm(len(kept.rows), generator=generator)[: len(part)]
                loss = loss + retain * kept.loss(others)
            if not torch.isfinite(loss):
                raise EditorError("fine-tuning gave a loss that is not finite")
            weights.step(torch.autograd.grad(loss, list(weights.weights)))
            still_open += int(seen.open.sum())
        epoch += 1
        # What was seen in passing is a little old; only a look at all of them ends the training.
        if not still_open or epoch == epochs:
            outcome = asked.look()
    if not bool(torch.isfinite(outcome.loss).all()):
        raise EditorError("fine-tuning gave a loss that is not finite")
    report("epochs", epochs, epochs)
    return epoch, outcome
