"""Putting values into the weights: the residual stream is made to hold them, a layer after another.

Each layer is changed by its share of what is still missing at the last of them, from the lowest up
(MEMIT, arXiv 2210.07229, section 4.3). Values may be inserted again and again: every time the
layers' changes grow by what is asked for then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from safeedit.deltas import DenseDelta, LowRankDelta
from safeedit.editors.preserving import Preserved
from safeedit.editors.rows import Demand, Row
from safeedit.editors.solve import Factors, Preservation, before_modules, cholesky, least_change
from safeedit.models.hooks import inputs_of
from safeedit.models.segment import Segment
from safeedit.models.structure import Decoder, Projection
from safeedit.models.tokens import Batch, pad_around

Solve = Callable[[Tensor, Tensor, Preservation], Factors]
"""From keys, residuals and what is preserved to a change of the weight, as `least_change` does."""

AT_ONCE = 16 * 2**20
"""Numbers that one activation may have; texts are run in batches as small as that takes."""
FEWEST = 16
"""Texts that are run together in any case."""
KEPT = 128 * 2**20
"""Bytes of keys, and of states, that are kept from one insertion to the next; beyond, they are run again."""
TINY = 1e-12
"""Part of the mean diagonal that is added to a sum of keys, so that it has a factor."""

Share = Callable[[int], float]
"""The part of what is missing that a layer is to bring, by how many layers are left, itself among them."""


def even_share(left: int) -> float:
    """As much as every layer after it (MEMIT)."""
    return 1 / left


@contextmanager
def restored_weights(decoder: Decoder, layers: Sequence[int]) -> Iterator[None]:
    """The down-projections of `layers` are bit for bit what they were when this is left, in any way."""
    kept = {layer: decoder.projections[layer].weight.detach().to("cpu", copy=True) for layer in layers}
    try:
        yield
    finally:
        with torch.no_grad():
            for layer, weight in kept.items():
                decoder.projections[layer].weight.copy_(weight)


@dataclass(frozen=True)
class Beginnings:
    """Each group's distinct texts up to the pivot; the pivots stand in the last column."""

    groups: int
    batch: Batch
    group: Tensor
    """(rows,) which group a row belongs to."""
    share: Tensor
    """(rows,) square root of a row's part of its group's weight."""

    @staticmethod
    def of(groups: int, demands: Sequence[Demand], fill: int, device: torch.device) -> Beginnings:
        """Those of the demands that are no keeps; a text counts by how often it is asked for."""
        found: dict[tuple[int, tuple[int, ...]], float] = {}
        for demand in demands:
            if not demand.keep:
                start = (demand.group, tuple(demand.row.ids[: demand.row.pivot + 1]))
                found[start] = found.get(start, 0.0) + demand.weight
        totals: dict[int, float] = {}
        for (group, _), weight in found.items():
            totals[group] = totals.get(group, 0.0) + weight
        rows = [list(ids) for _, ids in found]
        batch = pad_around(rows, [len(row) - 1 for row in rows], fill).to(device)
        share = [(weight / totals[group]) ** 0.5 for (group, _), weight in found.items()]
        numbers = torch.tensor([group for group, _ in found], device=device)
        return Beginnings(groups, batch, numbers, torch.tensor(share, device=device))


class Insertion:
    """Changes the model's weights; `restored_weights` undoes that, `factors` says what was changed.

    Args:
        segment: the model.
        layers: the blocks whose down-projections are changed, in order.
        beginnings: where values are put.
        preserved: what each layer's change must leave alone.
        average_keys: whether a group is one constraint (the mean of its keys) or one a text.
        solve: the algebra by which one layer is changed.
        share: how what is missing is spread over the layers.
    """

    def __init__(
        self,
        segment: Segment,
        layers: Sequence[int],
        beginnings: Beginnings,
        preserved: Preserved,
        average_keys: bool = False,
        solve: Solve = least_change,
        share: Share = even_share,
    ) -> None:
        self.segment, self.layers, self.beginnings = segment, list(layers), beginnings
        self.preserved, self.average = preserved, average_keys
        self.solve, self.share = solve, share
        projections = segment.decoder.projections
        self.originals = {layer: projections[layer].weight.detach().clone() for layer in layers}
        self.parts: dict[int, list[Factors]] = {layer: [] for layer in layers}
        inner = max(projections[layer].inner for layer in layers)
        width, texts = beginnings.batch.input_ids.shape[1], len(beginnings.group)
        self.batch_rows = max(FEWEST, AT_ONCE // (inner * max(width, 1)))
        """Texts that are run together."""
        self.summed = texts * inner * len(self.layers) * 4 > KEPT and (average_keys or texts > inner)
        """Whether keys are too many to be held: every insertion then runs all texts and sums their keys."""
        self.keys: dict[int, Tensor] = {}
        """By layer (rows, inner): every text's key when it was last run; none where keys are summed."""
        first, weight = self.layers[0], projections[self.layers[0]].weight
        held = texts * width * segment.decoder.hidden_size * weight.dtype.itemsize <= KEPT
        self.entering: Tensor | None = None
        """(rows, columns, hidden_size), what enters the first layer, if that is not too much to be held."""
        if first and held:
            every = torch.arange(texts, device=segment.decoder.device)
            with torch.no_grad():
                self.entering = torch.cat(
                    [segment.run(beginnings.batch.rows(part), stop=first) for part in self._parts(every)]
                )
        self.stepwise = held
        """Whether states are taken on from layer to layer; otherwise every layer begins at block 0."""
        self.missing = torch.zeros(beginnings.groups, device=segment.decoder.device)
        """(groups,) what the first insertion left missing, relative to the norm of the value's change."""

    @torch.no_grad()
    def run(self, delta: Tensor, progress: Callable[[int, int], None], among: Tensor | None = None) -> None:
        """Change the model's weights so that each group's value is added at its pivots.

        Args:
            delta: (groups, hidden), the values.
            progress: called with (layers done, layers in all).
            among: (groups,) those with a value; the others only ask to stay as they are. The first
                call must be for all of them, which is the default.
        """
        group = self.beginnings.group
        asked = torch.ones_like(group, dtype=torch.bool) if among is None else among[group]
        rows = torch.arange(len(group), device=group.device)
        parts = [
            _Part(part, self.beginnings.batch.rows(part), self._states(part))
            for part in self._parts(rows if self.summed else rows[asked])
        ]
        for number, layer in enumerate(self.layers):
            sums = _Sums(self) if self.summed else _Kept(self, layer)
            share = self.share(len(self.layers) - number)
            for part in parts:
                keys, gain = self._gain(part, layer, share, delta)
                sums.add(part.rows, keys, gain * asked[part.rows, None])
            self._change(layer, self.solve(*sums.constraints(), self.preserved[layer]))
            if layer != self.layers[-1] and self.stepwise:
                for part in parts:
                    part.states = self.segment.run(
                        part.batch, start=layer, stop=layer + 1, hidden=part.states
                    )
            progress(number + 1, len(self.layers))
        if among is None and not self.missing.any():
            self._note_missing(parts, delta)

    def _gain(self, part: _Part, layer: int, share: float, delta: Tensor) -> tuple[Tensor, Tensor]:
        """The keys of some texts at a layer, (rows, inner), and what its output there is to gain."""
        projection = self.segment.decoder.projections[layer]
        keys, reached = self._through(part, layer)
        if part.wanted is None:
            part.wanted = reached + delta[self.beginnings.group[part.rows]]
        gain = (part.wanted - reached) * share
        if projection.after:
            made: Tensor = projection.module(keys.to(projection.weight.dtype)).float()
            gain = before_modules(made, gain, projection.after)
        return keys, gain

    def _parts(self, rows: Tensor) -> Sequence[Tensor]:
        parts: Sequence[Tensor] = torch.split(rows, self.batch_rows)
        return parts

    def _states(self, rows: Tensor) -> Tensor | None:
        return self.entering[rows] if self.entering is not None else None

    def anchor(self, rows: Sequence[Row], weight: float, fill: int) -> None:
        """Count the keys of `rows` at their pivots among those that are preserved: `weight` keys each."""
        for layer, moment in self._moments(rows, fill, every=False).items():
            self.preserved.anchor(layer, weight * moment)

    def protect(self, rows: Sequence[Row], weight: float, fill: int) -> None:
        """Preserve the keys of `rows` at all their tokens for good: `weight` keys each."""
        for layer, moment in self._moments(rows, fill, every=True).items():
            self.preserved.protect(layer, weight * moment)

    @torch.no_grad()
    def _moments(
        self, rows: Sequence[Row], fill: int, every: bool, batch_rows: int = 512
    ) -> dict[int, Tensor]:
        """By layer (inner, inner): the summed k k^T of the rows' keys, at their pivots or at every token.

        They are large, and so put together in the processor's memory.
        """
        decoder = self.segment.decoder
        found: dict[int, list[Tensor]] = {layer: [] for layer in self.layers}
        sums: dict[int, Tensor] = {}

        def keep(layer: int, looked_at: Tensor) -> Callable[[Tensor], None]:
            return lambda keys: found[layer].append(keys[looked_at].float())

        for start in range(0, len(rows), batch_rows):
            part = rows[start : start + batch_rows]
            ids = [row.ids if every else row.ids[: row.pivot + 1] for row in part]
            batch = pad_around(ids, [len(row) - 1 for row in ids], fill).to(decoder.device)
            looked_at = batch.attention_mask.bool()
            if not every:
                looked_at = torch.zeros_like(looked_at)
                looked_at[:, -1] = True
            with ExitStack() as stack:
                for layer in self.layers:
                    module = decoder.projections[layer].module
                    stack.enter_context(inputs_of(module, keep(layer, looked_at)))
                self.segment.run(batch, stop=self.layers[-1] + 1)
            last = start + batch_rows >= len(rows)
            for layer, parts in found.items():
                if last or sum(part.numel() for part in parts) > AT_ONCE:
                    keys = torch.cat(parts)
                    found_here = (keys.T @ keys).cpu()
                    sums[layer] = sums[layer] + found_here if layer in sums else found_here
                    parts.clear()
        return sums

    def factors(self) -> dict[int, Factors]:
        """The change of each layer over all insertions."""
        return {layer: joined(parts) for layer, parts in self.parts.items() if parts}

    def _through(self, part: _Part, layer: int) -> tuple[Tensor, Tensor]:
        """Keys of a layer, (rows, inner), and the output of the last one, (rows, hidden), at the pivots."""
        keys: list[Tensor] = []
        start = layer if self.stepwise else 0
        with inputs_of(self.segment.decoder.projections[layer].module, keys.append):
            states = self.segment.run(
                part.batch, start=start, stop=self.layers[-1] + 1, hidden=part.states if start else None
            )
        return keys[0][:, -1].float(), states[:, -1].float()

    def _change(self, layer: int, factors: Factors) -> None:
        """Let a layer change by this, too."""
        projection = self.segment.decoder.projections[layer]
        parts = self.parts[layer]
        parts.append(factors)
        whole = joined(parts)
        dense = whole.dense()
        change = projection.oriented(dense)
        projection.weight.copy_((self.originals[layer].float() + change).to(projection.weight.dtype))
        # Every insertion brings ranks; where they take more than the change itself, that alone is kept.
        if whole.left.numel() + whole.right.numel() > max(AT_ONCE, 2 * dense.numel()):
            parts[:] = [Factors(torch.eye(len(dense), device=dense.device), dense)]

    def _note_missing(self, parts: Sequence[_Part], delta: Tensor) -> None:
        top, groups = self.layers[-1], self.beginnings.groups
        for part in parts:
            assert part.wanted is not None
            group = self.beginnings.group[part.rows]
            left = (part.wanted - self._through(part, top)[1]).norm(dim=1)
            self.missing.index_add_(0, group, left / delta[group].norm(dim=1).clamp(min=1e-6))
        self.missing.div_(torch.bincount(self.beginnings.group, minlength=groups))


@dataclass
class _Part:
    """Texts that are run together, and how far they have come."""

    rows: Tensor
    batch: Batch
    states: Tensor | None
    """(rows, columns, hidden_size), what enters the layer that comes next."""
    wanted: Tensor | None = None
    """(rows, hidden_size), what the last layer shall give at the pivots."""


class _Kept:
    """The constraints of one layer, with the keys that texts which are not run now had when they were."""

    def __init__(self, of: Insertion, layer: int) -> None:
        inner, device = of.segment.decoder.projections[layer].inner, of.segment.decoder.device
        self.of, self.count = of, len(of.beginnings.group)
        self.keys = of.keys.setdefault(layer, torch.zeros(self.count, inner, device=device))
        self.gains = torch.zeros(self.count, of.segment.decoder.hidden_size, device=device)

    def add(self, rows: Tensor, keys: Tensor, gain: Tensor) -> None:
        """Some texts' keys, (rows, inner), and what they shall gain, (rows, hidden_size)."""
        self.keys[rows], self.gains[rows] = keys, gain

    def constraints(self) -> tuple[Tensor, Tensor]:
        """Keys and gains, one row a constraint."""
        share = self.of.beginnings.share[:, None]
        if not self.of.average:
            return self.keys * share, self.gains * share
        return self._mean(self.keys * share.square()), self._mean(self.gains * share.square())

    def _mean(self, rows: Tensor) -> Tensor:
        total = torch.zeros(self.of.beginnings.groups, rows.shape[1], device=rows.device)
        return total.index_add_(0, self.of.beginnings.group, rows)


class _Sums:
    """The constraints of one layer as sums over all texts.

    Averages are sums in any case. Without them, there are more texts than directions, so that keys K and
    gains R count by K^T K and K^T R alone: as many constraints as there are directions say the same.
    """

    def __init__(self, of: Insertion) -> None:
        self.of, self.sums = of, list[Tensor]()

    def add(self, rows: Tensor, keys: Tensor, gain: Tensor) -> None:
        """See `_Kept.add`."""
        share, group = self.of.beginnings.share[rows, None], self.of.beginnings.group[rows]
        if self.of.average:
            found = [
                torch.zeros(self.of.beginnings.groups, part.shape[1], device=part.device).index_add_(
                    0, group, part * share.square()
                )
                for part in (keys, gain)
            ]
        else:
            found = [(keys * share).T.double() @ (part * share).double() for part in (keys, gain)]
        self.sums = [a.add_(b) for a, b in zip(self.sums, found, strict=True)] if self.sums else found

    def constraints(self) -> tuple[Tensor, Tensor]:
        """See `_Kept.constraints`.

        There is one row of zeros more than directions, so that an algebra that takes no more
        constraints than those refuses these, too.
        """
        keys, gains = self.sums
        if self.of.average:
            return keys, gains
        system = keys + TINY * keys.diagonal().mean() * torch.eye(len(keys), device=keys.device)
        factor = cholesky(system)
        found = factor.T, torch.linalg.solve_triangular(factor, gains, upper=False)
        first, second = (functional.pad(part.float(), (0, 0, 0, 1)) for part in found)
        return first, second


def joined(parts: Sequence[Factors]) -> Factors:
    """The sum of changes."""
    if len(parts) == 1:
        return parts[0]
    return Factors(torch.cat([p.left for p in parts], dim=1), torch.cat([p.right for p in parts], dim=0))


def delta_of(projection: Projection, factors: Factors) -> LowRankDelta | DenseDelta:
    """A change as factors while they are smaller than the weight, else as the change itself."""
    rank = factors.left.shape[1]
    if rank * (projection.inner + projection.outer) >= projection.inner * projection.outer:
        return DenseDelta(projection.oriented(factors.dense()).contiguous())
    return LowRankDelta.oriented(factors.left, factors.right, projection.transposed)
