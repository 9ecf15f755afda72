"""Putting values into the weights: the residual stream is made to hold them, a layer after another.

Each layer is changed by its share of what is still missing at the last of them, from the lowest up
(MEMIT, arXiv 2210.07229, section 4.3). Values may be inserted again and again: every time the
layers' changes grow by what is asked for then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from safeedit.deltas import DenseDelta, LowRankDelta
from safeedit.editors.rows import Demand, Row
from safeedit.editors.solve import Factors, Preservation, before_modules, least_change
from safeedit.models.hooks import inputs_of
from safeedit.models.segment import Segment
from safeedit.models.structure import Decoder, Projection
from safeedit.models.tokens import Batch, pad_around

Solve = Callable[[Tensor, Tensor, Preservation], Factors]
"""From keys, residuals and what is preserved to a change of the weight, as `least_change` does."""

Share = Callable[[int], float]
"""The part of what is missing that a layer is to bring, by how many layers are left, itself among them."""


def even_share(left: int) -> float:
    """As much as every layer after it (MEMIT)."""
    return 1 / left


@contextmanager
def restored_weights(decoder: Decoder, layers: Sequence[int]) -> Iterator[None]:
    """The down-projections of `layers` are bit for bit what they were when this is left, in any way."""
    kept = {layer: decoder.projections[layer].weight.detach().clone() for layer in layers}
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
        preserved: Mapping[int, Preservation],
        average_keys: bool = False,
        solve: Solve = least_change,
        share: Share = even_share,
    ) -> None:
        self.segment, self.layers, self.beginnings = segment, list(layers), beginnings
        self.corpus_keys, self.preserved, self.average = dict(preserved), dict(preserved), average_keys
        self.solve, self.share = solve, share
        self.anchors: dict[int, Tensor] = {}
        """By layer (inner, inner): the anchors' second moment, with its weight."""
        projections = segment.decoder.projections
        self.originals = {layer: projections[layer].weight.detach().clone() for layer in layers}
        self.parts: dict[int, list[Factors]] = {layer: [] for layer in layers}
        self.keys: dict[int, Tensor] = {}
        """By layer (rows, inner): every text's key when it was last run."""
        first = self.layers[0]
        with torch.no_grad():
            self.entering = segment.run(beginnings.batch, stop=first) if first else None
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
        top, group = self.layers[-1], self.beginnings.group
        rows = (
            torch.arange(len(group), device=group.device) if among is None else among[group].nonzero()[:, 0]
        )
        batch = self.beginnings.batch.rows(rows)
        states = self.entering[rows] if self.entering is not None else None
        wanted: Tensor | None = None
        for number, layer in enumerate(self.layers):
            projection = self.segment.decoder.projections[layer]
            keys, reached = self._through(batch, states, layer, top)
            wanted = reached + delta[group[rows]] if wanted is None else wanted
            gain = (wanted - reached) * self.share(len(self.layers) - number)
            if projection.after:
                made: Tensor = projection.module(keys.to(projection.weight.dtype)).float()
                gain = before_modules(made, gain, projection.after)
            self._solve(layer, rows, keys, gain)
            if layer != top:
                states = self.segment.run(batch, start=layer, stop=layer + 1, hidden=states)
            progress(number + 1, len(self.layers))
        if among is None and not self.missing.any():
            assert wanted is not None
            self._note_missing(batch, states, wanted, delta)

    def anchor(self, rows: Sequence[Row], weight: float, fill: int) -> None:
        """Count the keys of `rows` at their pivots among those that are preserved: `weight` keys each."""
        for layer, moment in self._moments(rows, fill, every=False).items():
            self.anchors[layer] = weight * moment
        self.hold_anchors(1.0)

    def protect(self, rows: Sequence[Row], weight: float, fill: int) -> None:
        """Preserve the keys of `rows` at all their tokens for good; anchors are to come after them."""
        for layer, moment in self._moments(rows, fill, every=True).items():
            self.corpus_keys[layer] = self.corpus_keys[layer].plus(weight * moment)
        self.preserved = dict(self.corpus_keys)

    @torch.no_grad()
    def _moments(
        self, rows: Sequence[Row], fill: int, every: bool, batch_rows: int = 512
    ) -> dict[int, Tensor]:
        """By layer (inner, inner): the summed k k^T of the rows' keys, at their pivots or at every token."""
        decoder = self.segment.decoder
        found: dict[int, list[Tensor]] = {layer: [] for layer in self.layers}
        for start in range(0, len(rows), batch_rows):
            part = rows[start : start + batch_rows]
            ids = [row.ids if every else row.ids[: row.pivot + 1] for row in part]
            batch = pad_around(ids, [len(row) - 1 for row in ids], fill).to(decoder.device)
            looked_at = batch.attention_mask.bool()
            if not every:
                looked_at = torch.zeros_like(looked_at)
                looked_at[:, -1] = True

            def keep(layer: int, looked_at: Tensor = looked_at) -> Callable[[Tensor], None]:
                return lambda keys: found[layer].append(keys[looked_at].float())

            with ExitStack() as stack:
                for layer in self.layers:
                    stack.enter_context(inputs_of(decoder.projections[layer].module, keep(layer)))
                self.segment.run(batch, stop=self.layers[-1] + 1)
        joined_keys = {layer: torch.cat(parts) for layer, parts in found.items()}
        return {layer: keys.T @ keys for layer, keys in joined_keys.items()}

    def hold_anchors(self, part: float) -> None:
        """From now on anchors count for `part` of their weight."""
        for layer, moment in self.anchors.items():
            self.preserved[layer] = self.corpus_keys[layer].plus(part * moment)

    def factors(self) -> dict[int, Factors]:
        """The change of each layer over all insertions."""
        return {layer: joined(parts) for layer, parts in self.parts.items() if parts}

    def _through(self, batch: Batch, entering: Tensor | None, start: int, top: int) -> tuple[Tensor, Tensor]:
        """Keys of block `start`, (rows, inner), and the output of `top`, (rows, hidden), at the pivots."""
        keys: list[Tensor] = []
        with inputs_of(self.segment.decoder.projections[start].module, keys.append):
            states = self.segment.run(batch, start=start, stop=top + 1, hidden=entering)
        return keys[0][:, -1].float(), states[:, -1].float()

    def _solve(self, layer: int, rows: Tensor, keys: Tensor, gain: Tensor) -> None:
        """Change one layer so that `keys` of `rows` gain what they must and those of the others nothing."""
        share, group = self.beginnings.share[:, None], self.beginnings.group
        known = self.keys.setdefault(layer, torch.zeros(len(group), keys.shape[1], device=keys.device))
        known[rows] = keys
        gains = torch.zeros(len(group), gain.shape[1], device=gain.device)
        gains[rows] = gain
        if self.average:
            constraints = self._mean(known * share.square()), self._mean(gains * share.square())
        else:
            constraints = known * share, gains * share
        self.parts[layer].append(self.solve(*constraints, self.preserved[layer]))
        projection = self.segment.decoder.projections[layer]
        change = projection.oriented(joined(self.parts[layer]).dense())
        projection.weight.copy_((self.originals[layer].float() + change).to(projection.weight.dtype))

    def _mean(self, rows: Tensor) -> Tensor:
        total = torch.zeros(self.beginnings.groups, rows.shape[1], device=rows.device)
        return total.index_add_(0, self.beginnings.group, rows)

    def _note_missing(self, batch: Batch, states: Tensor | None, wanted: Tensor, delta: Tensor) -> None:
        top, group = self.layers[-1], self.beginnings.group
        left = (wanted - self._through(batch, states, top, top)[1]).norm(dim=1)
        left = left / delta[group].norm(dim=1).clamp(min=1e-6)
        self.missing.index_add_(0, group, left).div_(torch.bincount(group, minlength=self.beginnings.groups))


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
