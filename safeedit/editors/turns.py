"""Turns of gradients and least squares: what UltraEdit does once rows, goals and layers are known.

A turn runs the prompts whose goals do not hold forward and backward, with the weights frozen: all that is
taken are the edited layers' inputs, and the gradients by their outputs, at a few tokens. The rest is
algebra on those (`ultraedit` has the formulas).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from safeedit.deltas import DenseDelta, WeightDelta
from safeedit.editors.base import Progress
from safeedit.editors.constrained import ridge_change
from safeedit.editors.insertion import delta_of, joined
from safeedit.editors.journal import Bookmark, State, numbered, put_back, tensor_in
from safeedit.editors.lifelong import Normaliser
from safeedit.editors.prepared import BATCH, Prepared
from safeedit.editors.solve import Factors
from safeedit.editors.training import Asked, Outcome
from safeedit.errors import EditorError
from safeedit.models.hooks import inputs_of
from safeedit.models.structure import Projection

HALVINGS = 6
"""How often a step is halved that does not lower the loss."""


@dataclass(frozen=True)
class Step:
    """How large a turn's change is, and what it costs."""

    length: float
    """Root mean square of the changes of outputs, in units of that of the outputs ..."""
    eta: float | None
    """... or instead the factor of |h~|^2 g~."""
    ridge: float
    """In units of the mean squared norm of an input ..."""
    l2: float | None
    """... or instead the ridge itself."""
    still_weight: float
    """How much an input counts whose output shall gain nothing, beside those of edits."""
    centre: bool


class Inputs:
    """The tokens of some rows at which layers are looked at."""

    def __init__(self, prepared: Prepared, places: Sequence[Sequence[int]]) -> None:
        self.prepared = prepared
        mask = torch.zeros(prepared.batch.input_ids.shape, dtype=torch.bool)
        for index, tokens in enumerate(places):
            mask[index, list(tokens)] = True
        self.mask = mask.to(prepared.device)

    def at(self, rows: Tensor, states: Tensor) -> Tensor:
        """(tokens, features) float32 of `states`, (rows, columns, features), row after row."""
        return states[self.mask[rows, : states.shape[1]]].float()

    @torch.no_grad()
    def inputs(self, rows: Tensor, layers: Sequence[int], size: int) -> list[Tensor]:
        """What each of `layers` takes at the tokens of `rows`, (tokens, inner), `size` rows a pass."""
        found: list[list[Tensor]] = [[] for _ in layers]
        ready = self.prepared
        projections = [ready.segment.decoder.projections[layer] for layer in layers]

        def keep(part: Tensor, into: list[Tensor]) -> Callable[[Tensor], None]:
            return lambda x: into.append(self.at(part, x))

        for part in torch.split(rows, size):
            with ExitStack() as stack:
                for p, into in zip(projections, found, strict=True):
                    stack.enter_context(inputs_of(p.module, keep(part, into)))
                width = slice(int(ready.ends[part].max()))
                hidden = None if ready.hidden is None else ready.hidden[part, width]
                batch = ready.batch.rows(part).columns(width)
                ready.segment.run(batch, start=ready.lowest, stop=layers[-1] + 1, hidden=hidden)
        return [torch.cat(parts) for parts in found]


@dataclass(frozen=True)
class _Seen:
    """What went through one layer; rows are tokens."""

    inputs: Tensor
    gradients: Tensor
    outputs: Tensor

    @staticmethod
    def joined(parts: Sequence[_Seen]) -> _Seen:
        """The tokens of all parts."""
        return _Seen(
            torch.cat([p.inputs for p in parts]),
            torch.cat([p.gradients for p in parts]),
            torch.cat([p.outputs for p in parts]),
        )


class Turns:
    """Changes the model's weights; `insertion.restored_weights` undoes that, `changes` says what changed."""

    def __init__(
        self,
        asked: Asked,
        inputs: Inputs,
        still: Inputs | None,
        layers: Sequence[int],
        normalisers: Sequence[tuple[Normaliser, Normaliser]],
        step: Step,
        keeps: Sequence[bool],
    ) -> None:
        self.asked, self.inputs, self.still, self.step = asked, inputs, still, step
        self.keeps = torch.tensor(keeps, device=asked.rows.device)
        self.layers, self.normalisers = layers, normalisers
        self.projections = [asked.rows.segment.decoder.projections[layer] for layer in layers]
        self.length = step.length
        """Of the last step that was taken."""
        self.base = [p.weight.detach().float().clone() for p in self.projections]
        self.parts: list[list[Factors]] = [[] for _ in layers]
        """Each layer's changes, turn by turn, while they are smaller than the layer."""
        self.total = [
            torch.zeros(p.outer, p.inner, device=w.device)
            for p, w in zip(self.projections, self.base, strict=True)
        ]
        self.taken, self.at, self.moved = 0, 0, True
        """Turns that there were, parts of the rows that this one has had, whether it has changed anything."""

    def run(
        self, turns: int, turn_rows: int, batch_rows: int, report: Progress, bookmark: Bookmark | None = None
    ) -> tuple[int, Outcome]:
        """Take turns until all goals hold, no step helps, or there were `turns` of them.

        Args:
            turns: how many at most.
            turn_rows: rows whose change is found together.
            batch_rows: rows of a forward and backward pass.
            report: called as turns go by.
            bookmark: how far turns have come that were cut short.

        Returns:
            ``(taken, outcome)``: how many turns there were, and where that led.

        Raises:
            EditorError: the loss is not finite, or the systems have no solution.
        """
        bookmark = bookmark or Bookmark()
        state = bookmark.back()
        if state is not None:
            self._restore(state)
        every = torch.arange(len(self.asked.rows), device=self.asked.rows.device)
        parts = torch.split(every, turn_rows)
        outcome = self._finite(self._look(every))
        while self.at or (self.taken < turns and self.moved and bool(outcome.open.any())):
            if not self.at:
                report("turns", self.taken, turns)
                self.moved = False
            rows = parts[self.at]
            before = outcome if len(parts) == 1 else self._look(rows)
            if bool(before.open.any()):
                after = self._turn(rows, before, batch_rows)
                self.moved, outcome = self.moved or after is not before, after
            self.at = (self.at + 1) % len(parts)
            if not self.at:
                self.taken += 1
                outcome = outcome if len(parts) == 1 else self._look(every)
            if bookmark.due():
                bookmark.put(self._state())
        report("turns", turns, turns)
        return self.taken, outcome

    def changes(self) -> Iterator[tuple[Projection, WeightDelta]]:
        """Each layer's change; none where nothing was asked for that did not hold."""
        for p, parts, total in zip(self.projections, self.parts, self.total, strict=True):
            if parts:
                yield p, delta_of(p, joined(parts))
            elif total.any():
                yield p, DenseDelta(p.oriented(total).contiguous())

    def _state(self) -> State:
        factors = {
            f"{side}-{layer}-{number}": getattr(part, side)
            for layer, parts in enumerate(self.parts)
            for number, part in enumerate(parts)
            for side in ("left", "right")
        }
        return {
            "taken": self.taken,
            "at": self.at,
            "moved": self.moved,
            "length": self.length,
            **factors,
            **numbered("total", self.total),
            **numbered("normaliser", self._normalisers()),
        }

    @torch.no_grad()
    def _restore(self, state: State) -> None:
        self.taken, self.at, self.moved = int(state["taken"]), int(state["at"]), bool(state["moved"])
        self.length = float(state["length"])
        put_back(state, "total", self.total)
        put_back(state, "normaliser", self._normalisers())
        device = self.asked.rows.device
        for layer, parts in enumerate(self.parts):
            while f"left-{layer}-{len(parts)}" in state:
                sides = (tensor_in(state, f"{side}-{layer}-{len(parts)}") for side in ("left", "right"))
                parts.append(Factors(*(side.to(device) for side in sides)))
        self._write([torch.zeros_like(total) for total in self.total], 0.0)

    def _normalisers(self) -> list[Tensor]:
        return [part for pair in self.normalisers for one in pair for part in one.parts()]

    def _turn(self, rows: Tensor, before: Outcome, batch_rows: int) -> Outcome:
        """Change the weights for some rows; `before` itself where no step lowers their loss."""
        going, resting = rows[before.open], rows[~before.open & ~self.keeps[rows]]
        seen = self._backward(going, batch_rows)
        held = self._held(resting, batch_rows)
        found = [self._solve(*each) for each in zip(self.normalisers, seen, held, strict=True)]
        return self._step(rows, before, found)

    def _backward(self, rows: Tensor, size: int) -> list[_Seen]:
        """Inputs and outputs of the layers, and gradients by their outputs, at the tokens of `rows`."""
        found: list[list[_Seen]] = [[] for _ in self.projections]
        for part in torch.split(rows, size):
            caught: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
            with ExitStack() as stack, torch.enable_grad():
                for index, p in enumerate(self.projections):
                    stack.callback(p.module.register_forward_hook(_probing(caught, index)).remove)
                loss, _ = self.asked.loss(part)
                if not torch.isfinite(loss):
                    raise EditorError("the edits' loss is not finite")
                # Of the sum over rows, so that it does not matter how they are batched.
                gradients = torch.autograd.grad(
                    loss * len(part), [caught[i][2] for i in range(len(self.projections))]
                )
            for index, gradient in enumerate(gradients):
                taken, given, _ = caught[index]
                found[index].append(_Seen(*(self.inputs.at(part, x) for x in (taken, gradient, given))))
        return [_Seen.joined(parts) for parts in found]

    def _held(self, resting: Tensor, size: int) -> list[Tensor]:
        """By layer, (tokens, inner): inputs whose outputs shall gain nothing, with their weight."""
        device = self.asked.rows.device
        found = [torch.zeros(0, p.inner, device=device) for p in self.projections]
        if len(resting):
            found = self.inputs.inputs(resting, self.layers, size)
        if self.still is not None:
            every = torch.arange(len(self.still.prepared), device=device)
            still = self.still.inputs(every, self.layers, size)
            share = self.step.still_weight**0.5
            found = [torch.cat([own, share * other]) for own, other in zip(found, still, strict=True)]
        return found

    def _solve(self, normalisers: tuple[Normaliser, Normaliser], seen: _Seen, held: Tensor) -> Factors:
        """One layer's change: seen inputs' outputs move against their gradients, the held ones' do not."""
        taken, gradients = (
            normaliser.counted(rows, self.step.centre)
            for normaliser, rows in zip(normalisers, (seen.inputs, seen.gradients), strict=True)
        )
        values = -taken.square().sum(1, keepdim=True) * gradients
        if self.step.eta is not None:
            values = self.step.eta * values
        else:
            # A row of zeros stays one; where all are, there is nothing to go by.
            size = _size(values).clamp(min=torch.finfo(values.dtype).tiny)
            values = values * (self.step.length * _size(seen.outputs) / size)
        ridge = self.step.l2 or self.step.ridge * float(_size(seen.inputs) ** 2)
        keys = torch.cat([seen.inputs, held])
        return ridge_change(keys, torch.cat([values, values.new_zeros(len(held), values.shape[1])]), ridge)

    def _step(self, rows: Tensor, before: Outcome, found: Sequence[Factors]) -> Outcome:
        """Put in the changes, halved until they lower the loss of `rows`."""
        dense = [f.dense() for f in found]
        was, part = self._loss(rows, before), 1.0
        for _ in range(HALVINGS):
            self._write(dense, part)
            after = self._look(rows)
            if self.step.eta is not None or self._loss(rows, after) < was:
                for index, f in enumerate(found):
                    self._keep(index, part * dense[index], Factors(part * f.left, f.right))
                self.length = part * self.step.length
                return self._finite(after)
            part /= 2
        self._write(dense, 0.0)
        return before

    def _keep(self, index: int, change: Tensor, factors: Factors) -> None:
        """Count a layer's change in; its factors are let go once the layer itself is smaller."""
        first, (outer, inner) = not self.total[index].any(), change.shape
        self.total[index] += change
        rank = sum(f.left.shape[1] for f in (*self.parts[index], factors))
        if rank * (outer + inner) >= outer * inner:
            self.parts[index] = []
        elif first or self.parts[index]:
            self.parts[index].append(factors)

    @torch.no_grad()
    def _write(self, changes: Sequence[Tensor], part: float) -> None:
        """The weights as they were at first, with all that was found so far and `part` of `changes`."""
        for p, base, total, change in zip(self.projections, self.base, self.total, changes, strict=True):
            p.weight.copy_((base + p.oriented(total + part * change)).to(p.weight.dtype))

    @torch.no_grad()
    def _look(self, rows: Tensor) -> Outcome:
        found = [self.asked.loss(part)[1] for part in torch.split(rows, BATCH)]
        return Outcome(*(torch.cat(parts) for parts in zip(*(_parts(o) for o in found), strict=True)))

    def _finite(self, outcome: Outcome) -> Outcome:
        if not torch.isfinite(outcome.loss).all():
            raise EditorError("the edits' loss is not finite")
        return outcome

    def _loss(self, rows: Tensor, outcome: Outcome) -> float:
        """What a step must lower: the loss whose gradients are taken. Not a number where that is not."""
        told = -torch.log1p(-outcome.leak.clamp(max=1 - 1e-6))
        weight = torch.where(self.asked.erased[rows], self.asked.goal.neutral_weight, 1.0)
        return float((self.asked.weight[rows] * (weight * outcome.loss + told)).sum())


def _probing(caught: dict[int, tuple[Tensor, Tensor, Tensor]], index: int) -> Any:
    """A forward hook that adds nothing, in a way that the output's gradient can be asked for."""

    def hook(_: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        probe = torch.zeros_like(output, requires_grad=True)
        caught[index] = (args[0].detach(), output.detach(), probe)
        return output + probe

    return hook


def _parts(outcome: Outcome) -> tuple[Tensor, Tensor, Tensor]:
    return outcome.loss, outcome.leak, outcome.open


def _size(rows: Tensor) -> Tensor:
    """The root mean square of the rows' norms."""
    return rows.square().sum(1).mean().sqrt()
