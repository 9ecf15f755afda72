"""Training some weights of a model on the goals of edits, with answers that stay as they are.

Every epoch visits what is unfinished, and a part of the rest, in random mini-batches; the last word has
a look at all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from safeedit.deltas import DenseDelta, WeightDelta
from safeedit.editors import adam
from safeedit.editors.base import Progress
from safeedit.editors.goals import Spots
from safeedit.editors.journal import Bookmark, State, numbered, put_back, tensor_in
from safeedit.editors.prepared import BATCH, Kept, Prepared
from safeedit.editors.rows import Demand
from safeedit.editors.tables import Table
from safeedit.errors import EditorError

MOMENTS = (0.9, 0.98)
"""Adam's; the second is short, as a training has a few dozen steps."""

KEPT_PER_ROW = 1
"""Kept rows of each kind in a step for each row that is asked for. They cost as much as those; with fewer of
what edits themselves name, it is their subjects whose other answers go."""


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
    """Rows with goals: the first of `rows`, one for each demand.

    `stops` are those of the rows, where they are not all the goal's.
    """

    def __init__(
        self,
        rows: Prepared,
        demands: Sequence[Demand],
        table: Tensor | Table,
        goal: Goal,
        stops: Sequence[float] | None = None,
    ) -> None:
        self.rows, self.goal = rows, goal
        device = table.device
        self.spots = Spots.of(demands, table)
        self.count = torch.tensor([float(d.row.length) for d in demands], device=device)
        self.weight = torch.tensor([d.weight for d in demands], device=device)
        self.erased = torch.tensor([bool(d.telling) for d in demands], device=device)
        self.floor = torch.tensor([_floor(d) for d in demands], device=device)
        self.stop = torch.tensor(stops or [goal.stop] * len(demands), device=device)
        self.members = torch.arange(len(demands), device=device)
        """Which of `rows` are asked for, by number."""

    def only(self, members: Sequence[int]) -> Self:
        """The same, of some rows alone."""
        some = copy(self)
        some.members = torch.tensor(members, device=self.rows.device)
        return some

    def loss(self, rows: Tensor) -> tuple[Tensor, Outcome]:
        """The mean loss of `rows`, to be trained on, and how far each of them is."""
        return self.judged(rows, *self.rows.run(rows))

    def judged(self, rows: Tensor, log_p: Tensor, index: Tensor) -> tuple[Tensor, Outcome]:
        """As `loss`, of what `Prepared.run` gave for `rows`."""
        spots = self.spots[index]
        losses = spots.losses(log_p)
        told, p = spots.told(log_p)
        none = torch.zeros(len(self.count), device=log_p.device)
        mean = (none.index_add(0, spots.row, losses) / self.count)[rows] - self.floor[rows]
        leak = none.scatter_reduce(0, spots.row, p, "amax")[rows]
        erased = self.erased[rows]
        told = none.index_add(0, spots.row, told)[rows]
        total = torch.where(erased, self.goal.neutral_weight, 1.0) * mean + told
        finished = torch.where(erased, leak <= self.goal.leak, mean.detach() <= self.stop[rows])
        return (self.weight[rows] * total).mean(), Outcome(mean.detach(), leak, ~finished)

    @torch.no_grad()
    def look(self) -> Outcome:
        """How far all members are."""
        found = [self.loss(part)[1] for part in torch.split(self.members, BATCH)]
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
def trained(weights: Sequence[Tensor]) -> Iterator[None]:
    """The weights ask for gradients; afterwards they are bit for bit what they were.

    What they asked for before, and the gradients that they had, is put back too.
    """
    before = [(weight.requires_grad, weight.grad, weight.detach().clone()) for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
        weight.grad = None
    try:
        with torch.enable_grad():
            yield
    finally:
        for weight, (asked, gradient, kept) in zip(weights, before, strict=True):
            weight.detach().copy_(kept)
            weight.requires_grad_(asked)
            weight.grad = gradient


class Trainable(Protocol):
    """How the weights of a model are changed; what is trained need not be the weights themselves."""

    @property
    def weights(self) -> Sequence[Tensor]:
        """The weights in the model whose gradients a step needs."""

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Change them once."""

    def changes(self) -> list[WeightDelta]:
        """What was added to each weight so far."""

    def size(self) -> float:
        """The largest root mean square of a change, in units of its weight's."""

    def state(self) -> dict[str, Tensor | int | float]:
        """All that later steps depend on."""

    def restore(self, state: State) -> None:
        """Be what gave that state, the model's weights included."""


class Adam:
    """Adam on some tensors in place, with steps in units of each one's own scale."""

    def __init__(self, tensors: Sequence[Tensor], units: Sequence[Tensor], rate: float) -> None:
        self.tensors, self.units, self.rate = tensors, units, rate
        self.first = [torch.zeros_like(tensor) for tensor in tensors]
        self.second = [torch.zeros_like(tensor) for tensor in tensors]
        self.steps = 0

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """One step against the gradients, float32, of the tensors' shapes."""
        self.steps += 1
        every = zip(self.tensors, self.units, self.first, self.second, gradients, strict=True)
        for tensor, unit, first, second, gradient in every:
            adam.remember(first, second, gradient, MOMENTS)
            tensor.sub_(adam.move(first, second, self.steps, MOMENTS).mul_(self.rate * unit))

    def state(self) -> dict[str, Tensor | int | float]:
        """The tensors, and the moments of their gradients."""
        every = [*self.tensors, *self.first, *self.second]
        return {"adam_steps": self.steps, **numbered("adam", every)}

    def restore(self, state: State) -> None:
        """Be what gave that state."""
        self.steps = int(state["adam_steps"])
        put_back(state, "adam", [*self.tensors, *self.first, *self.second])


class Weights:
    """Weights that are trained themselves: kept in float32, and put into the model in its own type."""

    def __init__(self, weights: Sequence[Tensor], rate: float, bound: float | None) -> None:
        self.weights, self.bound = weights, bound
        self.base = [weight.detach().float().clone() for weight in weights]
        self.now = [base.clone() for base in self.base]
        self.unit = [scale(base) for base in self.base]
        self.adam = Adam(self.now, self.unit, rate)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """One step of Adam, its size relative to the weights, then the bound."""
        self.adam.step([gradient.float() for gradient in gradients])
        for weight, now, base, unit in zip(self.weights, self.now, self.base, self.unit, strict=True):
            if self.bound is not None:
                limit = self.bound * unit
                now.copy_(now.clamp(base - limit, base + limit))
            weight.copy_(now)

    def afresh(self) -> None:
        """Go on from here as if no gradient had been seen."""
        self.adam = Adam(self.now, self.unit, self.adam.rate)

    def changes(self) -> list[WeightDelta]:
        """See `Trainable`."""
        return [DenseDelta(change) for change in self._changes()]

    def size(self) -> float:
        """See `Trainable`."""
        return max(float(scale(c) / u) for c, u in zip(self._changes(), self.unit, strict=True))

    def state(self) -> dict[str, Tensor | int | float]:
        """See `Trainable`."""
        return self.adam.state()

    @torch.no_grad()
    def restore(self, state: State) -> None:
        """See `Trainable`."""
        self.adam.restore(state)
        for weight, now in zip(self.weights, self.now, strict=True):
            weight.copy_(now)

    def _changes(self) -> Iterator[Tensor]:
        return (now - base for now, base in zip(self.now, self.base, strict=True))


def scale(tensor: Tensor) -> Tensor:
    """The root mean square of a tensor's values."""
    return tensor.square().mean().sqrt()


def train(
    asked: Asked,
    kept: Kept | None,
    weights: Trainable,
    epochs: int,
    batch_rows: int,
    retain: float,
    seed: int,
    report: Progress,
    bookmark: Bookmark | None = None,
) -> tuple[int, Outcome]:
    """Epochs until all goals hold, or on from where they were cut short.

    An epoch visits what did not hold when it was last seen, and as many others, drawn at random: they
    would be unlearnt if they were left out, and cost most of the time if all of them were visited.

    Raises:
        EditorError: the loss or a weight is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    bookmark = bookmark or Bookmark()
    epoch, left, outcome = 0, torch.zeros(0, dtype=torch.long), None
    before = bookmark.back()
    if before is None:
        outcome = asked.look()
        still_open = outcome.open.cpu()
    else:
        epoch, left, still_open = int(before["epoch"]), tensor_in(before, "left"), tensor_in(before, "open")
        generator.set_state(tensor_in(before, "random"))
        weights.restore(before)
    while len(left) or (epoch < epochs and bool(still_open.any())):
        if not len(left):
            report("epochs", epoch, epochs)
            left = _visited(still_open, generator)
        part, left = left[:batch_rows], left[batch_rows:]
        loss, seen = _loss(asked, kept, asked.members[part.to(asked.rows.device)], retain, generator)
        if not torch.isfinite(loss):
            raise EditorError("training gave a loss that is not finite")
        # An expert that nothing was routed to has no gradient: it stays.
        weights.step(torch.autograd.grad(loss, list(weights.weights), materialize_grads=True))
        still_open[part] = seen.open.cpu()
        outcome = None
        if not len(left):
            epoch += 1
            # What was seen in passing is a little old; only a look at all of them ends the training.
            if epoch == epochs or not bool(still_open.any()):
                outcome = asked.look()
                still_open = outcome.open.cpu()
        if bookmark.due():
            drawn = {"left": left, "open": still_open, "random": generator.get_state()}
            bookmark.put({"epoch": epoch, **drawn, **weights.state()})
    if outcome is None:
        outcome = asked.look()
    if not bool(torch.isfinite(outcome.loss).all()):
        raise EditorError("training gave a loss that is not finite")
    report("epochs", epochs, epochs)
    return epoch, outcome


def _loss(
    asked: Asked, kept: Kept | None, part: Tensor, retain: float, generator: torch.Generator
) -> tuple[Tensor, Outcome]:
    """The loss of some rows that are asked for and of kept ones that are drawn, all in one pass."""
    if kept is None:
        return asked.loss(part)
    drawn = kept.some(KEPT_PER_ROW * len(part), generator)
    log_p, spots = kept.rows.run(torch.cat([part, drawn]))
    mine = int((spots < kept.spot).sum())
    loss, seen = asked.judged(part, log_p[:mine], spots[:mine])
    return loss + retain * kept.moved_by_row(log_p[mine:], spots[mine:]).mean(), seen


def _visited(still_open: Tensor, generator: torch.Generator) -> Tensor:
    """(visited,) indices in random order: all that are open, and at most as many that are not."""
    order = torch.randperm(len(still_open), generator=generator)
    finished = ~still_open[order]
    left_out = finished & (finished.cumsum(0) > int(still_open.sum()))
    return order[~left_out]
