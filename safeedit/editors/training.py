"""Training some weights of a model on the goals of edits, with answers that stay as they are.

Every epoch visits the edits in random mini-batches; the last word has a look at all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from safeedit.editors.base import Progress
from safeedit.editors.goals import Spots
from safeedit.editors.prepared import Kept, Prepared
from safeedit.editors.rows import Demand
from safeedit.errors import EditorError

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


class Asked:
    """Rows with goals."""

    def __init__(self, rows: Prepared, demands: Sequence[Demand], table: Tensor, goal: Goal) -> None:
        self.rows, self.goal = rows, goal
        device = table.device
        self.spots = Spots.of(demands, table)
        self.count = torch.tensor([float(len(d.row.spots)) for d in demands], device=device)
        self.weight = torch.tensor([d.weight for d in demands], device=device)
        self.erased = torch.tensor([d.telling is not None for d in demands], device=device)
        self.floor = torch.tensor([_floor(d) for d in demands], device=device)

    def loss(self, rows: Tensor) -> tuple[Tensor, Outcome]:
        """The mean loss of `rows`, to be trained on, and how far each of them is."""
        log_p, index = self.rows.run(rows)
        spots = self.spots[index]
        losses = spots.losses(log_p)
        told, p = spots.told(log_p)
        none = torch.zeros(len(self.count), device=log_p.device)
        mean = (none.index_add(0, spots.row, losses) / self.count)[rows] - self.floor[rows]
        leak = none.scatter_reduce(0, spots.row, p, "amax")[rows]
        erased = self.erased[rows]
        told = none.index_add(0, spots.row, told)[rows]
        total = torch.where(erased, self.goal.neutral_weight, 1.0) * mean + told
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
            loss, seen = asked.loss(part.to(asked.rows.device))
            if kept is not None:
                loss = loss + retain * kept.change(kept.rows.some(len(part), generator)).mean()
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
