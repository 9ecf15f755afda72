"""Training a side memory: the change of one weight, for the rows of some edits, from its block upward.

What enters the block, what the module takes there and what lies before the edited token never changes,
so it is computed once. Rows that are finished leave, and are looked at again at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safeedit.editors import adam
from safeedit.editors.goals import Spots
from safeedit.editors.journal import Bookmark, numbered, put_back, tensor_in
from safeedit.editors.rows import Demand
from safeedit.editors.sharding import Masked
from safeedit.editors.tables import Table
from safeedit.errors import EditorError
from safeedit.models.hooks import inputs_of
from safeedit.models.segment import Segment
from safeedit.models.tokens import pad_around


@dataclass(frozen=True)
class Margins:
    """WISE's margins for how far the memory moves an output, and inputs that it shall not move (eq. 2)."""

    alpha: float
    beta: float
    gamma: float
    others: Tensor
    """(inputs, inner) float32."""
    drawn: int = 256
    """How many of them a step looks at."""


@dataclass(frozen=True)
class Way:
    """How a memory is trained."""

    steps: int
    rate: float
    stop: float
    near: float
    leak: float
    batch_rows: int
    ridge: float
    method: str = "values"
    """`values`: by the wanted moves of names; `adam`, `sgd`: by entries."""
    whole: bool = False
    """Whether the memory is used from the edited token on, instead of there alone."""
    margins: Margins | None = None
    drop: float = 0.0
    """Share of each input's entries that a step does not see (not for `values`): what is trained on a few
    inputs must not hang on what these alone have."""


@dataclass
class Result:
    """What a training came to."""

    steps: int = 0
    open: int = 0
    """Names that are not finished."""


class Batch:
    """Some rows, ready to run from the block of the edited module on."""

    def __init__(
        self,
        segment: Segment,
        layer: int,
        rows: Sequence[Demand],
        table: Tensor | Table,
        fill: int,
        whole: bool,
    ) -> None:
        self.segment, self.layer, self.whole = segment, layer, whole
        projection = segment.decoder.projections[layer]
        self.module, device = projection.module, segment.decoder.device
        self.demands = list(rows)
        pivots = [d.row.pivot for d in rows]
        padded = pad_around([d.row.ids[: max(d.row.spots) + 1] for d in rows], pivots, fill).to(device)
        with torch.no_grad():
            self.hidden, self.prefix = segment.with_prefix(padded, max(pivots), layer)
            self.batch = padded.columns(slice(max(pivots), None))
            seen: list[Tensor] = []
            with inputs_of(self.module, lambda taken: seen.append(taken.float())):
                segment.run(self.batch, start=layer, stop=layer + 1, hidden=self.hidden, prefix=self.prefix)
        self.inputs = seen[0] if whole else seen[0][:, :1].clone()
        self.real = self.batch.attention_mask[:, : self.inputs.shape[1]].float()
        self.spots = Spots.of(rows, table)
        self.column = self.spots.column - torch.tensor(pivots, device=device)[self.spots.row]
        self.weight = torch.tensor([d.weight for d in rows], device=device)
        self.keep = torch.tensor([d.keep for d in rows], device=device)

    def losses(self, rows: Tensor, moves: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the rows come to when the module gives `moves` more.

        Args:
            rows: indices.
            moves: (rows, columns, outer) float32, at the first columns.

        Returns:
            ``(loss, row, loss of each spot, leak of each spot)``; `row` is each spot's.
        """
        spots, place = self.spots.among(rows, len(self.demands))

        def put(_: object, __: object, given: Tensor) -> Tensor:
            width = moves.shape[1]
            added = (given[:, :width].float() + moves).to(given.dtype)
            return torch.cat([added, given[:, width:]], dim=1)

        prefix = self.prefix.rows(rows) if self.prefix is not None else None
        handle = self.module.register_forward_hook(put)
        try:
            final = self.segment.run(
                self.batch.rows(rows), start=self.layer, hidden=self.hidden[rows], prefix=prefix
            )
        finally:
            handle.remove()
        log_p = self.segment.decoder.logits(final[place, self.column[spots]]).float().log_softmax(-1)
        some = self.spots[spots]
        found = some.losses(log_p)
        told, leak = some.told(log_p)
        total = (self.weight[some.row] * (found + told)).sum()
        return total, some.row, found.detach(), leak


class Training:
    """The rows of some names, and the change that is trained on them."""

    def __init__(
        self,
        batches: Sequence[Batch],
        names: Sequence[Tensor],
        inputs: Tensor,
        owners: Tensor,
        unit: float,
        way: Way,
        seed: int,
    ) -> None:
        """Nothing is trained yet.

        Args:
            batches: the rows.
            names: for each batch (rows,) whose each row is, counted from 0.
            inputs: (inputs, inner) what the module takes for those names, wherever they stand.
            owners: (inputs,) whose each is; -1 where nothing shall be moved.
            unit: size of a step, `way.rate` apart: of outputs for `values`, of entries for `adam`.
            way: how.
            seed: of what is drawn.
        """
        self.batches, self.names, self.inputs, self.owners = batches, names, inputs, owners
        self.unit, self.way = unit, way
        self.count = 1 + max(int(n.max()) for n in names)
        self.generator = torch.Generator().manual_seed(seed)

    def run(self, change: Tensor, mask: Tensor, bookmark: Bookmark | None = None) -> tuple[Tensor, Result]:
        """Train the masked entries of a change, in place of nothing.

        Args:
            change: (outer, inner) float32, where it starts.
            mask: (outer, inner) bool.
            bookmark: how far a training of this change has come that was cut short.

        Raises:
            EditorError: the loss or the change is not finite.
        """
        way, result = self.way, Result()
        values = way.method == "values"
        solver = Masked(self.inputs, mask, way.ridge) if values else None
        shape = (self.count, change.shape[0]) if values else tuple(change.shape)
        first, second = torch.zeros(2, *shape, device=change.device)
        active = torch.ones(self.count, dtype=torch.bool, device=change.device)
        bookmark = bookmark or Bookmark()
        before = bookmark.back()
        if before is not None:
            change = tensor_in(before, "change").to(change.device)
            put_back(before, "moment", (first, second))
            active = tensor_in(before, "active").to(change.device)
            self.generator.set_state(tensor_in(before, "random"))
            result.steps = int(before["steps"])
        while True:
            everything = bool(active.all())
            gradient, open_ = self._look(change, active, values)
            if not bool(open_.any()) and not everything:
                # Steps for some names move others a little, so that the last word has a look at all.
                active = torch.ones_like(active)
                continue
            if not bool(open_.any()) or result.steps == way.steps:
                break
            active = open_
            result.steps += 1
            move = gradient
            if way.method != "sgd":
                adam.remember(first, second, gradient)
                move = adam.move(first, second, result.steps)
            step = -way.rate * self.unit * move
            if solver is not None:
                step = torch.where(open_[:, None], step, 0.0)
                wanted = step[self.owners.clamp(min=0)] * (self.owners >= 0)[:, None]
                change = change + solver.change(wanted)
            else:
                change = change + step * mask
            if values:
                first[~open_], second[~open_] = 0.0, 0.0
            if bookmark.due():
                moments = numbered("moment", (first, second))
                drawn = {"active": active, "random": self.generator.get_state()}
                bookmark.put({"steps": result.steps, "change": change, **drawn, **moments})
        result.open = int(open_.sum())
        if not bool(torch.isfinite(change).all()):
            raise EditorError("the side memory became not finite")
        return change, result

    def _look(self, change: Tensor, active: Tensor, values: bool) -> tuple[Tensor, Tensor]:
        """The gradient, by name or by entry, and (names,) which of the active ones are not finished."""
        gradient = torch.zeros(
            (self.count, change.shape[0]) if values else tuple(change.shape), device=change.device
        )
        open_ = torch.zeros_like(active)
        for batch, names in zip(self.batches, self.names, strict=True):
            for rows in torch.split(active[names].nonzero()[:, 0], self.way.batch_rows):
                if not len(rows):
                    continue
                taken = self._thinned(batch.inputs[rows])
                moves = ((taken @ change.T) * batch.real[rows][..., None]).requires_grad_(True)
                with torch.enable_grad():
                    total, row, losses, leak = batch.losses(rows, moves)
                    total = total + self._margin(moves[~batch.keep[rows]][:, 0])
                if not torch.isfinite(total):
                    raise EditorError("training the side memory gave a loss that is not finite")
                (found,) = torch.autograd.grad(total, moves)
                if values:
                    gradient.index_add_(0, names[rows], found[:, 0])
                else:
                    gradient += torch.einsum("rco,rci->oi", found, taken) / max(1, len(rows))
                limit = torch.where(batch.spots.hard >= 0, self.way.stop, self.way.near)
                mine, _ = batch.spots.among(rows, len(batch.demands))
                unmet = ((losses > limit[mine]) | (leak > self.way.leak)) & ~batch.keep[row]
                open_[names[row[unmet]]] = True
        if not values and self.way.margins is not None:
            gradient += self._margin_of_others(change)
        return gradient, open_

    def _thinned(self, taken: Tensor) -> Tensor:
        """(rows, columns, inner) inputs without what is dropped of them, the rest as much larger."""
        drop = self.way.drop
        if not drop or self.way.method == "values":
            return taken
        shown = torch.rand(taken.shape, generator=self.generator) >= drop
        return taken * shown.to(taken.device) / (1 - drop)

    def _margin(self, moves: Tensor) -> Tensor:
        """How far the edited inputs, whose (inputs, outer) moves these are, stay below their margin."""
        if self.way.margins is None or not len(moves):
            return moves.new_zeros(())
        short: Tensor = self.way.margins.beta - torch.linalg.vector_norm(moves + 1e-12, dim=-1)
        return short.clamp(min=0).sum()

    def _margin_of_others(self, change: Tensor) -> Tensor:
        """(outer, inner) the gradient of the margins that other inputs have, alone and beside edited ones."""
        margins = self.way.margins
        assert margins is not None
        drawn = torch.randint(len(margins.others), (margins.drawn,), generator=self.generator)
        others = margins.others[drawn.to(change.device)]
        own = torch.cat([b.inputs[~b.keep][:, 0] for b in self.batches])
        edited = own[torch.randint(len(own), (margins.drawn,), generator=self.generator).to(own.device)]
        leaf = change.clone().requires_grad_(True)
        with torch.enable_grad():
            other = torch.linalg.vector_norm(others @ leaf.T + 1e-12, dim=-1)
            mine = torch.linalg.vector_norm(edited @ leaf.T + 1e-12, dim=-1)
            loss = (other - margins.alpha).clamp(min=0) + (margins.gamma - (mine - other)).clamp(min=0)
            (gradient,) = torch.autograd.grad(loss.mean(), leaf)
        return gradient
