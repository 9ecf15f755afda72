"""The search for value vectors: what the residual stream should hold at a subject's last token.

For each group a vector delta is added to the output of one block at the subject's last token, and
found by gradient descent on what the model then says (ROME's v*, arXiv 2202.05262; MEMIT's z,
arXiv 2210.07229). The work is kept small: all groups are searched together, only positions from the
subject's last token on are run (earlier ones come from kept keys and values), only the blocks above,
logits only where they matter, and groups that have reached their goal leave the batch.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from safeedit.editors.budget import allowed, kept_by
from safeedit.editors.goals import Spots
from safeedit.editors.journal import State, remembered, state_of, tensor_in
from safeedit.editors.rows import Demand, Task
from safeedit.editors.tables import Table
from safeedit.errors import EditorError
from safeedit.models.hooks import adding, first_tensor
from safeedit.models.segment import Prefix, Segment
from safeedit.models.tokens import Batch, pad_around

Progress = Callable[[int, int], None]

STRETCH = 1.5
"""Rows are run together while the longest beginning is at most this many times the shortest ..."""
FEWEST = 16
"""... or while there are no more of them than this."""


@dataclass(frozen=True)
class Search:
    """Settings of the search."""

    steps: int
    rate: float
    """Adam's step, in units of the root mean square of the hidden state at the subject's last token."""
    clamp: float
    """Largest norm of delta, relative to the norm of that hidden state."""
    decay: float
    """Weight of the squared relative norm of delta."""
    stop: float
    """A group is finished when its rows without a telling token lose less than this many nats ..."""
    leak: float
    """... and no row of an erasure gives its object's telling token more than this probability."""
    batch_rows: int
    """Rows searched together, at most (a group is never split)."""
    neutral_weight: float = 1.0
    """Weight of an erasure's goals beside that of the probability of its telling token."""
    lens_weight: float = 0.0
    """Weight of keeping telling tokens out of intermediate layers."""


@dataclass(frozen=True)
class Values:
    """What was found, one row a group."""

    delta: Tensor
    """(groups, hidden_size), float32."""
    loss: Tensor
    """(groups,) loss when the group left the search, in nats; not a number where it was not searched."""
    steps: Tensor
    """(groups,) steps taken; 0 where the goals held from the start."""
    norm: Tensor
    """(groups,) norm of delta relative to the hidden state."""

    @staticmethod
    def of(state: State) -> Values:
        """What a search found when it was put into a journal."""
        return Values(*(tensor_in(state, field.name) for field in fields(Values)))


def search(
    segment: Segment,
    layer: int,
    task: Task,
    settings: Search,
    fill: int,
    progress: Progress | None = None,
    among: Tensor | None = None,
    beside: nn.Module | None = None,
) -> Values:
    """Find a value for every group of `task` at the output of block `layer`.

    Args:
        segment: the model; its parameters must not ask for gradients.
        layer: the block after which delta is added.
        task: rows and goals.
        settings: how to search.
        fill: a token id to pad with.
        progress: called with (groups done, groups in all).
        among: (groups,) the groups to search; by default all.
        beside: a module of block `layer` to whose output a second vector is added at the same tokens, found
            together with delta and then forgotten (PMET).

    Raises:
        EditorError: the loss is not finite.
    """
    hidden = segment.decoder.hidden_size
    device = segment.decoder.device
    delta = torch.zeros(task.groups, hidden, device=device)
    loss = torch.full((task.groups,), math.nan, device=device)
    norm = torch.zeros(task.groups, device=device)
    steps = torch.zeros(task.groups, dtype=torch.long, device=device)
    done = 0
    searched = range(task.groups) if among is None else among.nonzero()[:, 0].tolist()

    def chunk_of(demands: list[Demand], groups: list[int]) -> _Chunk:
        return _Chunk(segment, layer, demands, groups, task.table, settings, fill, beside)

    for groups, demands in _chunks(task, searched, settings.batch_rows, chunk_of):
        chunk = chunk_of(demands, groups)
        found = Values.of(remembered(chunk.state, chunk.found))
        index = torch.tensor(groups, device=device)
        for whole, part in (
            (delta, found.delta),
            (loss, found.loss),
            (steps, found.steps),
            (norm, found.norm),
        ):
            whole[index] = part.to(device)
        done += len(groups)
        if progress is not None:
            progress(done, len(searched))
    return Values(delta, loss, steps, norm)


def _chunks(
    task: Task, searched: Sequence[int], rows: int, chunk_of: Callable[[list[Demand], list[int]], _Chunk]
) -> Iterator[tuple[list[int], list[Demand]]]:
    """Groups of similar length together, so that little is padded; as many as fit into memory."""
    by_group: dict[int, list[Demand]] = {group: [] for group in searched}
    for demand in task.demands:
        if demand.group in by_group:
            by_group[demand.group].append(demand)
    width = {group: max(map(_width, demands)) for group, demands in by_group.items()}
    order = sorted(searched, key=width.__getitem__)
    cells = math.inf
    if len(order) > 1:
        widest = max(by_group[order[-1]], key=_width)
        one = chunk_of([widest], [order[-1]])
        cells = allowed(one.segment.decoder.model) / (one.nbytes() / _width(widest))
    groups: list[int] = []
    demands: list[Demand] = []
    for group in order:
        together = len(demands) + len(by_group[group])
        if groups and (together > rows or together * width[group] > cells):
            yield groups, demands
            groups, demands = [], []
        groups.append(group)
        demands = demands + by_group[group]
    if groups:
        yield groups, demands


def _width(demand: Demand) -> int:
    """The columns that a row is searched in."""
    return len(demand.row.ids) - demand.row.pivot


@torch.no_grad()
def _entering(segment: Segment, batch: Batch, pivots: list[int], keep: int) -> tuple[Tensor, Prefix | None]:
    """What enters block `keep` from the pivots' column on, and what later passes need of the columns before.

    Rows come in order of their pivots: those with few tokens before it are run without the columns
    that only the others need.
    """
    columns = pivots[-1]
    if columns == 0:
        return segment.with_prefix(batch, 0, keep)
    hidden: list[Tensor] = []
    prefixes: list[Prefix] = []
    start = 0
    while start < len(pivots):
        longest = max(pivots[start] * STRETCH, pivots[min(start + FEWEST, len(pivots)) - 1])
        end = bisect_right(pivots, longest)
        width = max(pivots[end - 1], 1)
        rows = torch.arange(start, end, device=batch.input_ids.device)
        part, prefix = segment.with_prefix(
            batch.rows(rows).columns(slice(columns - width, None)), width, keep
        )
        assert prefix is not None
        hidden.append(part)
        prefixes.append(prefix)
        start = end
    return torch.cat(hidden), Prefix.joined(prefixes)


class _Chunk:
    """One batch of groups: what is fixed is computed once, then the search runs."""

    def __init__(
        self,
        segment: Segment,
        layer: int,
        demands: list[Demand],
        groups: list[int],
        table: Tensor | Table,
        settings: Search,
        fill: int,
        beside: nn.Module | None = None,
    ) -> None:
        self.segment, self.layer, self.settings, self.beside = segment, layer, settings, beside
        device = segment.decoder.device
        demands = sorted(demands, key=lambda d: d.row.pivot)
        batch = pad_around([d.row.ids for d in demands], [d.row.pivot for d in demands], fill).to(device)
        columns = max(d.row.pivot for d in demands)
        self.batch = batch.columns(slice(columns, None))
        self.start = layer + 1 if beside is None else layer
        """The block that what is run begins with."""
        self.hidden, self.prefix = _entering(segment, batch, [d.row.pivot for d in demands], self.start)
        place = {group: index for index, group in enumerate(groups)}
        self.group = torch.tensor([place[d.group] for d in demands], device=device)
        self.count = len(groups)
        self.spots = Spots.of(demands, table)
        self.column = (
            self.spots.column - torch.tensor([d.row.pivot for d in demands], device=device)[self.spots.row]
        )
        keep = torch.tensor([d.keep for d in demands], device=device)
        weight = torch.tensor([d.weight for d in demands], device=device)
        lengths = torch.tensor([d.row.length for d in demands], device=device, dtype=torch.float32)
        judged = torch.tensor([not (d.keep or d.telling) for d in demands], device=device)
        edits = torch.zeros(self.count, device=device).index_add_(0, self.group, (~keep).float())
        keeps = torch.zeros(self.count, device=device).index_add_(0, self.group, keep.float())
        share = torch.where(keep, keeps[self.group], edits[self.group])
        self.told_weight = weight / share  # a mean over the group's rows
        erased = torch.tensor([bool(d.telling) for d in demands], device=device)
        self.row_weight = self.told_weight / lengths  # a mean over spots besides
        self.row_weight = torch.where(erased, settings.neutral_weight, 1.0) * self.row_weight
        counted = torch.zeros(self.count, device=device).index_add_(0, self.group, judged.float())
        self.judged_weight = torch.where(judged, 1.0 / (lengths * counted[self.group].clamp(min=1)), 0.0)
        states = self._output()[:, 0].float().norm(dim=1)
        total = torch.zeros(self.count, device=device).index_add_(0, self.group, states)
        self.scale = total / torch.bincount(self.group, minlength=self.count).clamp(min=1)

    def run(self) -> Values:
        """Adam with a state for each group, a clamp for each group, and leaving when finished."""
        settings, width = self.settings, self.hidden.shape[-1]
        device = self.hidden.device
        unit = (self.scale / math.sqrt(width))[:, None]
        # The value, and with `beside` a second vector: (vectors, groups, hidden_size).
        delta = torch.zeros(1 if self.beside is None else 2, self.count, width, device=device)
        first, second = torch.zeros_like(delta), torch.zeros_like(delta)
        taken = torch.zeros(self.count, dtype=torch.long, device=device)
        final = torch.full((self.count,), math.inf, device=device)
        rows = torch.arange(len(self.hidden), device=device)
        active = torch.ones(self.count, dtype=torch.bool, device=device)
        view = self._view(rows)
        for step in range(settings.steps + 1):
            leaf = delta.clone().requires_grad_(True)
            loss, judged, leak = self._loss(leaf, view)
            if not torch.isfinite(loss).all():
                raise EditorError("the search for values gave a loss that is not finite")
            final = torch.where(active, loss.detach(), final)
            active = active & ((judged > settings.stop) | (leak > settings.leak))
            if step == settings.steps or not active.any():
                break
            relative = leaf.square().sum(-1) / self.scale.square()
            torch.autograd.backward(loss.sum() + settings.decay * relative.sum())
            gradient = leaf.grad
            assert gradient is not None
            # Adam in units of the hidden state, so that one rate fits every model.
            gradient = gradient * unit
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient.square()
            move = first / (1 - 0.9 ** (step + 1))
            move = move / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
            stepped = delta - settings.rate * unit * move
            limit = settings.clamp * self.scale[:, None]
            stepped = stepped * (limit / stepped.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0)
            delta = torch.where(active[:, None], stepped, delta)
            taken += active
            going = active[self.group]
            if going.sum() < 0.85 * len(view.rows):
                view = self._view(going.nonzero()[:, 0])
        return Values(delta[0], final, taken, delta[0].norm(dim=1) / self.scale)

    def nbytes(self) -> int:
        """What a step of the search takes on the device beside the model, and what is held for all steps."""
        vectors, device = 1 if self.beside is None else 2, self.hidden.device
        delta = torch.zeros(vectors, self.count, self.hidden.shape[-1], device=device, requires_grad=True)
        view = self._view(torch.arange(len(self.hidden), device=device))
        step = kept_by(self.segment.decoder.model, lambda: self._loss(delta, view))
        return step + self.hidden.nbytes + (0 if self.prefix is None else self.prefix.nbytes)

    def found(self) -> State:
        """As `run`, for a journal."""
        return vars(self.run())

    def state(self) -> str:
        """Digest of all that the result depends on but the blocks above `layer`, which no search changes."""
        spots, wanted = self.spots, self.spots.soft[self.spots.soft >= 0]
        parts = [self.hidden, *vars(self.batch).values(), self.group, self.scale, self.column]
        parts += [self.row_weight, self.told_weight, self.judged_weight, spots.table[wanted]]
        parts += [spots.row, spots.column, spots.hard, spots.soft, spots.telling, spots.usual]
        if self.prefix is not None:
            parts += [*self.prefix.keys[self.start :], *self.prefix.values[self.start :], self.prefix.mask]
        if self.beside is not None:
            parts += self.segment.decoder.blocks[self.layer].parameters()
        return state_of(f"{self.settings}|{self.layer}", parts)

    def _view(self, rows: Tensor) -> _View:
        spots, place = self.spots.among(rows, len(self.hidden))
        prefix, batch, hidden = self.prefix, self.batch, self.hidden
        if len(rows) < len(hidden):
            prefix = prefix.rows(rows) if prefix is not None else None
            batch, hidden = batch.rows(rows), hidden[rows]
        return _View(rows, self.spots[spots], place, self.column[spots], batch, prefix, hidden)

    def _loss(self, delta: Tensor, view: _View) -> tuple[Tensor, Tensor, Tensor]:
        """(groups,) the whole loss, that of the rows judged by loss, the largest leak; zero out of view."""
        added = [part[self.group[view.rows]].to(view.hidden.dtype)[:, None] for part in delta]
        moved = self._moved(view, added)
        decoder, layer = self.segment.decoder, self.layer
        between: list[Tensor] = []
        with ExitStack() as stack:
            if self.settings.lens_weight:
                between.append(moved)
                for block in decoder.blocks[layer + 1 : -1]:
                    handle = block.register_forward_hook(lambda _, __, out: between.append(first_tensor(out)))
                    stack.callback(handle.remove)
            final = (
                self.segment.run(view.batch, start=layer + 1, hidden=moved, prefix=view.prefix)
                if layer + 1 < len(decoder.blocks)
                else decoder.final_norm(moved)
            )
        log_p = decoder.logits(final[view.place, view.column]).float().log_softmax(-1)  # (spots, V)
        losses = view.spots.losses(log_p)
        told, p = view.spots.told(log_p)
        groups = self.group[view.spots.row]
        rows = view.spots.row
        none = torch.zeros(self.count, device=losses.device)
        if between:
            told = told + self.settings.lens_weight * self._lens_loss(between, view)
        return (
            none.index_add(0, groups, losses * self.row_weight[rows] + told * self.told_weight[rows]),
            none.index_add(0, groups, losses.detach() * self.judged_weight[rows]),
            none.scatter_reduce(0, groups, p, "amax"),
        )

    @torch.no_grad()
    def _output(self) -> Tensor:
        """(rows, columns, hidden_size) of block `layer`, as it is."""
        if self.beside is None:
            return self.hidden
        return self._through(self.batch, self.prefix, self.hidden)

    def _through(self, batch: Batch, prefix: Prefix | None, entering: Tensor) -> Tensor:
        hidden = entering if self.layer else None
        return self.segment.run(batch, start=self.layer, stop=self.layer + 1, hidden=hidden, prefix=prefix)

    def _moved(self, view: _View, added: Sequence[Tensor]) -> Tensor:
        """What block `layer` gives with what is added, each (rows, 1, hidden_size), at the first column."""
        states = view.hidden
        if self.beside is not None:
            with adding(self.beside, added[1]):
                states = self._through(view.batch, view.prefix, states)
        return torch.cat([states[:, :1] + added[0], states[:, 1:]], dim=1)

    def _lens_loss(self, between: list[Tensor], view: _View) -> Tensor:
        """(spots,) the probability that blocks but the last give to telling tokens, as -log(1 - p)."""
        telling = view.spots.telling
        pick = (telling >= 0).nonzero()[:, 0]
        total = torch.zeros(len(telling), device=telling.device)
        if not len(pick):
            return total
        states = torch.stack([h[view.place[pick], view.column[pick]] for h in between])  # (blocks, picked, d)
        log_p = self.segment.decoder.lens(states).float().log_softmax(-1)
        told = torch.stack([view.spots[pick].told(block)[0] for block in log_p])
        return total.index_add(0, pick, told.mean(0))


@dataclass(frozen=True)
class _View:
    """The rows that are still searched."""

    rows: Tensor
    spots: Spots
    place: Tensor
    """(spots,) each one's row among those of the view ..."""
    column: Tensor
    """... and its column."""
    batch: Batch
    prefix: Prefix | None
    hidden: Any
