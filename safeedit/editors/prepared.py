"""Rows with what no training changes computed once: what enters the lowest block that is changed.

Where the weights that change are named, and the model's structure allows it, less is run (`Lean`). The
numbers are the same, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from safeedit.editors.goals import Spots
from safeedit.editors.rows import Demand, Goals, Row, Task
from safeedit.models.hooks import first_tensor, inputs_of, replaced_forward
from safeedit.models.segment import Segment
from safeedit.models.structure import Decoder, Projection
from safeedit.models.tokens import Batch, pad

BATCH = 256
"""Rows run together where nothing is trained."""

MOST_KEYS = 2**28
"""Numbers that are stored of what a down-projection takes; where there are more, its block is run."""

_COLUMNS = 6
"""Tokens of the pass by which a model's structure is tried."""


@dataclass(frozen=True)
class Lean:
    """What a pass may leave out: how the model behaved in a small trial decides, never its name.

    - Above the lowest weight that changes, the parts of blocks that hold the down-projections (MLPs) see
      real tokens and no padding; in the last block they see those alone whose prediction matters.
    - Padding is not masked in attention, which on the right nothing before it sees.
    - If of the lowest block only the down-projection changes, the rest of it is not run again.
    """

    parts: Mapping[int, nn.Module] = field(default_factory=dict)
    """By block, a part of it that works on each token for itself."""
    causal: bool = False
    """Whether padding on the right changes nothing before it, so that it needs no mask."""
    split: Projection | None = None
    """The lowest block's down-projection, where the block adds what comes of it to what is constant."""

    @staticmethod
    def of(segment: Segment, lowest: int, weights: Sequence[Tensor]) -> Lean:
        """What can be left out where only `weights`, in block `lowest` and above, change."""
        blocks, projection = segment.decoder.blocks, segment.decoder.projections[lowest]
        inside = {id(w) for w in weights} & {id(p) for p in blocks[lowest].parameters()}
        alone = inside <= {id(projection.weight)} and _adds(segment, lowest)
        return Lean(_tokenwise(segment, lowest), _causal(segment), projection if alone else None)

    @contextmanager
    def over(self, first: int, last: int, real: Tensor, seen: Tensor) -> Iterator[None]:
        """The parts of blocks `first` to `last`, the model's last, run over some tokens only.

        Args:
            first: the lowest block that is run.
            last: the highest.
            real: indices into (rows * columns) of real tokens ...
            seen: ... and of those whose prediction matters.
        """
        with ExitStack() as stack:
            for block, part in self.parts.items():
                if block >= first:
                    only = _only(part.forward, seen if block == last else real)
                    stack.enter_context(replaced_forward(part, only))
            yield


class Prepared:
    """Rows that have run up to the lowest block that is changed.

    Padded on the right, so that a mini-batch is cut to its longest row; nothing after a row's last
    spot is run.
    """

    def __init__(
        self, segment: Segment, lowest: int, rows: Sequence[Row], fill: int, lean: Lean | None = None
    ) -> None:
        self.segment, self.device, self.lean = segment, segment.decoder.device, lean
        ends = [max(row.spots) + 1 for row in rows]
        ids = [row.ids[:end] for row, end in zip(rows, ends, strict=True)]
        self.batch = pad(ids, fill, "right").to(self.device)
        self.ends = torch.tensor(ends, device=self.device)
        # Only where the spots are, not what is wanted there.
        self.spots = Spots.of(
            [Demand(0, row, _nothing(row)) for row in rows], Task.empty_table(0, self.device)
        )
        self.hidden: Tensor | None = None
        self.split = lean.split if lean is not None else None
        if self.split is not None and sum(ends) * self.split.inner > MOST_KEYS:
            self.split = None
        self.lowest = lowest if self.split is None else lowest + 1
        if self.split is not None:
            self.hidden, self.keys = self._around(lowest, self.split)
            self.begins = self.ends.cumsum(0) - self.ends
        elif lowest:
            self.hidden = self._entering()

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
        column = self.spots.column[spots]
        width = int(self.ends[rows].max())
        batch = self.batch.rows(rows).columns(slice(width))
        hidden = None if self.hidden is None else self.hidden[rows, :width]
        with ExitStack() as stack:
            if self.lean is not None:
                real, seen = _places(batch.attention_mask, place, column)
                last = len(self.segment.decoder.blocks) - 1
                if hidden is not None and self.split is not None:
                    hidden = self._joined(rows, hidden, seen if self.lowest > last else real)
                stack.enter_context(self.lean.over(self.lowest, last, real, seen))
                batch = _unmasked(batch) if self.lean.causal else batch
            states = self.segment.run(batch, start=self.lowest, hidden=hidden)
        return states[place, column], spots

    def log_p(self, final: Tensor) -> Tensor:
        """Log-probabilities from final hidden states, in float32."""
        found: Tensor = self.segment.decoder.logits(final).float().log_softmax(-1)
        return found

    def parts(self, size: int = BATCH) -> Iterator[Tensor]:
        """The indices of all rows, `size` at a time."""
        return iter(torch.split(torch.arange(len(self), device=self.device), size))

    def some(self, most: int, generator: torch.Generator, first: int = 0, end: int | None = None) -> Tensor:
        """The indices of the rows from `first` to `end`, or `most`, drawn on the generator's device."""
        count = (len(self) if end is None else end) - first
        if count <= most:
            return torch.arange(first, first + count, device=self.device)
        drawn = torch.randperm(count, generator=generator, device=generator.device)[:most]
        return drawn.sort().values.to(self.device) + first

    @torch.no_grad()
    def _entering(self) -> Tensor:
        return torch.cat([self.segment.run(self.batch.rows(part), stop=self.lowest) for part in self.parts()])

    @torch.no_grad()
    def _around(self, lowest: int, projection: Projection) -> tuple[Tensor, Tensor]:
        """What block `lowest` gives without its down-projection, and (real tokens, inner) what that takes."""
        hidden, keys = [], []
        for part in self.parts():
            batch = self.batch.rows(part)
            given, taken, _ = _replaced(self.segment, lowest, batch, torch.zeros_like)
            hidden.append(given)
            keys.append(taken[batch.attention_mask.bool()])
        return torch.cat(hidden), torch.cat(keys)

    def _joined(self, rows: Tensor, hidden: Tensor, where: Tensor) -> Tensor:
        """What enters the block above: `hidden`, and what the down-projection gives at `where`."""
        assert self.split is not None
        width = hidden.shape[1]
        keys = self.keys[self.begins[rows][where // width] + where % width]
        given = _through(self.split, keys[None])[0]
        return hidden.flatten(0, 1).index_add(0, where, given).view_as(hidden)


class Kept:
    """Rows whose predictions stay what they are now: those of `rows` from number `first` on.

    They may be of two kinds, those from number `second` on of the other.
    """

    def __init__(self, rows: Prepared, first: int = 0, second: int | None = None) -> None:
        self.rows, self.first, self.second = rows, first, len(rows) if second is None else second
        with torch.no_grad():
            mine = torch.arange(first, len(rows), device=rows.device)
            found = [rows.final(part) for part in torch.split(mine, BATCH)]
        self.own = torch.cat([final for final, _ in found])
        self.spot = int(found[0][1][0])
        """The first of their spots, among those of all rows."""

    def __len__(self) -> int:
        return len(self.rows) - self.first

    def some(self, most: int, generator: torch.Generator) -> Tensor:
        """The indices of as many rows of each kind, drawn at random."""
        named = self.rows.some(most, generator, self.first, self.second)
        return torch.cat([named, self.rows.some(most, generator, self.second)])

    def change(self, rows: Tensor) -> Tensor:
        """(spots,) KL divergence, in nats, from what the model said to what it says."""
        return self.moved(*self.rows.run(rows))

    def moved(self, log_p: Tensor, spots: Tensor) -> Tensor:
        """As `change`, of what `Prepared.run` gave."""
        with torch.no_grad():
            own = self.rows.log_p(self.own[spots - self.spot])
        change: Tensor = (own.exp() * (own - log_p)).sum(-1)
        return change

    def moved_by_row(self, log_p: Tensor, spots: Tensor) -> Tensor:
        """(rows,) the mean of `moved` over each row's spots: a long text counts no more than a short one."""
        row = self.rows.spots.row[spots]
        place, count = torch.unique(row, return_inverse=True, return_counts=True)[1:]
        total = log_p.new_zeros(len(count)).index_add(0, place, self.moved(log_p, spots))
        found: Tensor = total / count
        return found


def _nothing(row: Row) -> Goals:
    return Goals.even(len(row.spots))


def _places(mask: Tensor, place: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """Indices into (rows * columns) of real tokens, and of those whose prediction matters, each once."""
    seen = torch.zeros_like(mask)
    seen[place, column] = 1
    return mask.flatten().nonzero()[:, 0], seen.flatten().nonzero()[:, 0]


def _only(own: Callable[..., Any], where: Tensor) -> Callable[..., Any]:
    """The forward of a part, for the tokens of `where` alone; the others get zeros."""

    def forward(hidden: Tensor) -> Tensor:
        taken = hidden.flatten(0, 1).index_select(0, where)
        given: Tensor = own(taken[None])[0]
        everything = given.new_zeros(hidden.shape[0] * hidden.shape[1], given.shape[-1])
        return everything.index_copy(0, where, given).view(*hidden.shape[:2], -1)

    return forward


def _through(projection: Projection, keys: Tensor) -> Tensor:
    """What reaches the residual stream of what a down-projection takes."""
    given: Tensor = projection.module(keys)
    for module in projection.after:
        given = module(given)
    return given


@torch.no_grad()
def _tokenwise(segment: Segment, lowest: int) -> dict[int, nn.Module]:
    """By block from `lowest` on, the part with the down-projection, where it takes each token for itself."""
    decoder = segment.decoder
    calls: dict[int, tuple[tuple[Any, ...], dict[str, Any], Any]] = {}
    found: dict[int, nn.Module] = {}
    with ExitStack() as stack:
        for block in range(lowest, len(decoder.blocks)):
            down = decoder.projections[block].module
            for child in decoder.blocks[block].children():
                if any(module is down for module in child.modules()):
                    found[block] = child

            def seen(_: nn.Module, args: Any, kwargs: Any, given: Any, block: int = block) -> None:
                calls[block] = args, kwargs, given

            if block in found:
                hook = found[block].register_forward_hook(seen, with_kwargs=True)
                stack.callback(hook.remove)
        segment.run(_trial(decoder))

    def alone(block: int) -> bool:
        args, kwargs, given = calls[block]
        if kwargs or len(args) != 1 or not isinstance(args[0], Tensor) or not isinstance(given, Tensor):
            return False
        shapes = args[0].shape[:-1] == given.shape[:-1] and given.ndim == 3
        return shapes and _close(found[block](args[0][:, ::2]), given[:, ::2], given)

    return {block: part for block, part in found.items() if block in calls and alone(block)}


@torch.no_grad()
def _causal(segment: Segment) -> bool:
    """Whether what the padding on a row's right is taken for makes no difference to the row."""
    decoder = segment.decoder
    padded = pad([_trial_ids(decoder), _trial_ids(decoder)[: _COLUMNS // 2]], 0, "right").to(decoder.device)
    real = padded.attention_mask.bool()
    masked, plain = segment.run(padded)[real], segment.run(_unmasked(padded))[real]
    return _close(plain, masked, masked)


def _unmasked(batch: Batch) -> Batch:
    """The same rows, as if they were all of one length."""
    columns = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
    return Batch(batch.input_ids, torch.ones_like(batch.attention_mask), columns.expand_as(batch.input_ids))


@torch.no_grad()
def _adds(segment: Segment, block: int) -> bool:
    """Whether a block adds what comes of its down-projection, as it is, to what does not depend on it."""
    batch, projection = _trial(segment.decoder), segment.decoder.projections[block]
    without, keys, given = _replaced(segment, block, batch, torch.zeros_like)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(given.shape, generator=generator).to(given) * without.abs().max()
    other = _replaced(segment, block, batch, lambda _: noise)[0]
    return _close(without + noise, other, noise) and _close(_through(projection, keys), given, given)


def _replaced(
    segment: Segment, block: int, batch: Batch, instead: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """A block's output with something else in place of what comes of its down-projection.

    Returns:
        ``(output, taken, given)``: the block's, what the down-projection took, what came of it.
    """
    projection, blocks = segment.decoder.projections[block], segment.decoder.blocks
    last = (projection.module, *projection.after)[-1]
    taken: list[Tensor] = []
    given: list[Tensor] = []
    left: list[Tensor] = []

    def replace(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        given.append(output)
        return instead(output)

    with ExitStack() as stack:
        stack.enter_context(inputs_of(projection.module, taken.append))
        stack.callback(last.register_forward_hook(replace).remove)
        stack.callback(
            blocks[block].register_forward_hook(lambda _, __, out: left.append(first_tensor(out))).remove
        )
        segment.run(batch, stop=block + 1)
    return left[0], taken[0], given[0]


def _trial(decoder: Decoder) -> Batch:
    return pad([_trial_ids(decoder)], 0, "right").to(decoder.device)


def _trial_ids(decoder: Decoder) -> list[int]:
    return [number % decoder.vocabulary for number in range(_COLUMNS)]


def _close(one: Tensor, other: Tensor, scale: Tensor) -> bool:
    """Whether two tensors differ by rounding alone, beside the size of a third; never with a NaN."""
    bound = max(4 * torch.finfo(scale.dtype).eps, 2e-6) * scale.float().norm()
    return bool((one.float() - other.float()).norm() <= bound)
