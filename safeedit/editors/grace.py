"""GRACE (arXiv 2211.11031): a codebook at one module, which answers edited prompts itself.

The key of an edit is what its block's MLP down-projection takes at the prompt's last token, its value
what the down-projection gives there instead. An input within the radius of its nearest key gets that
key's value; every other input passes bit for bit. No weight changes, so that neighbours are safe, and
phrasings that the edit does not name are mostly not reached.

A new edit far from all keys is an entry with the initial radius. One near a key that asks for the same
joins it, whose radius grows; one near a key that asks for something else splits the distance with it.

Beyond the paper:
- Radii are relative to how far the keys of prompts with invented names usually are, so that one default
  fits any model, and such prompts are treated as edits that ask for something else.
- Whom a later entry cut off from the key that it had joined gets an entry of its own.
- All values are searched together, starting from the module's own output, from the edited block
  upward and from the prompt's last token on. A value serves all prompts that joined its key.
- It erases, by the objectives that MEMIT has (`objectives`), but hides only: the weights, and every prompt
  that no key covers, still have what was erased.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from safeedit.editors.adam import MOMENTS, move
from safeedit.editors.anchors import anchor_texts, control_texts
from safeedit.editors.base import Editor, Job, Made
from safeedit.editors.base import Params as BaseParams
from safeedit.editors.codebook import Book, labels_of, least_radius, unit_of
from safeedit.editors.goals import Spots
from safeedit.editors.journal import State, tensor_in
from safeedit.editors.objectives import Aim, build_task
from safeedit.editors.prepared import BATCH
from safeedit.editors.rows import Demand, Row, rows_of
from safeedit.editors.settings import AnswerParams, PaperParams, existing
from safeedit.editors.tables import Table
from safeedit.errors import EditorError
from safeedit.memories import Codebook
from safeedit.models.hooks import frozen, inputs_of
from safeedit.models.segment import Prefix, Segment
from safeedit.models.structure import find_decoder
from safeedit.models.tokens import Batch, pad, pad_around, pad_id
from safeedit.triples.facts import Edit, Op


class Params(AnswerParams, PaperParams):
    """Settings."""

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "units": "absolute",
            "radius": 1.0,
            "rate": 1.0,
            "steps": 100,
            "stop": 0.0,
            "anchors": 0,
            "end": False,
        }
    }
    """With `paper` radii and steps are absolute and nothing is kept apart; values still start from the
    module's own output, and are searched together."""

    layer: int | None = Field(default=None, ge=1)
    """The block at whose down-projection the codebook is; by default two thirds up."""
    units: Literal["relative", "absolute"] = "relative"
    """What `radius` and `rate` count in: the model's own distances and sizes, or plain numbers."""
    radius: float = Field(default=0.15, gt=0)
    """Initial radius, in units of the median distance to keys of prompts with invented names."""
    room: float = Field(default=0.5, gt=0, le=1)
    """Largest radius, in units of the distance to the nearest key of a prompt with an invented name."""
    anchors: int = Field(default=1, ge=0, le=50)
    """Invented names, of each of three kinds, that each prompt is compared with."""
    objective: Literal["neutral", "entropy", "refusal"] = "neutral"
    """What an erasure aims at."""
    steps: int = Field(default=100, ge=1, le=10_000)
    """Steps of the search for values, at most."""
    rate: float = Field(default=0.2, gt=0)
    """Adam's step, in units of the root mean square of the larger of the module's output and the stream."""
    stop: float = Field(default=0.05, ge=0)
    """Loss at every token of an answer, in nats, at which the search is finished."""
    near: float = Field(default=0.25, ge=0)
    """Divergence from what an erasure aims at, in nats at every token, at which it is finished ..."""
    leak: float = Field(default=0.02, ge=0, lt=1)
    """... if the object has no more than this probability."""
    batch_rows: int = Field(default=256, ge=1)
    """Prompts whose values are searched together, at most (those that share a value always are)."""


class Grace(Editor):
    """A codebook of keys and values beside the weights."""

    name: ClassVar[str] = "grace"
    summary: ClassVar[str] = "answers edited prompts from a codebook beside the weights; all else bit for bit"
    paper: ClassVar[str] = "2211.11031"
    operations: ClassVar[frozenset[Op]] = frozenset({"insert", "modify", "erase"})
    cannot: ClassVar[Mapping[Op, str]] = {
        "detox": "its keys are the last tokens of the prompts that it was shown, and it would mend no other"
    }
    beside_weights: ClassVar[bool] = True
    Params: ClassVar[type[BaseParams]] = Params

    def layers_for(self, model: Any, tokenizer: Any, edits: Sequence[Edit]) -> tuple[int, ...]:
        """See `Editor.layers_for`."""
        with frozen(model):
            return (self._layer(len(find_decoder(model).blocks)),)

    def _edit(self, job: Job) -> Made:
        params = self.params
        assert isinstance(params, Params)
        decoder, segment, tokenizer, report = job.decoder, job.segment, job.tokenizer, job.report
        layer, fill = self._layer(len(decoder.blocks)), pad_id(tokenizer)
        projection = decoder.projections[layer]
        aim = Aim(params.objective, ("",), 0.0, "prompt", end=params.end)
        task = build_task(segment, tokenizer, job.edits, aim).task
        report("keys", 0, 1)
        keys = _keys(segment, layer, [d.row for d in task.demands], fill)
        apart = anchor_texts(job.edits, params.anchors) + control_texts(job.controls)
        strangers = rows_of(tokenizer, apart, "prompt")
        others = _keys(segment, layer, strangers, fill) if strangers else keys[:0]
        absolute = params.units == "absolute"
        unit = 1.0 if absolute else unit_of(keys, others)
        least = least_radius(job.model)
        book = Book(keys, labels_of(task.demands), others, params.radius * unit, params.room, least)
        book.fill()
        report("keys", 1, 1)
        entries = book.joined()
        values = torch.empty(len(entries), projection.outer, device=decoder.device)
        steps = 0
        done = 0
        for number, chosen in enumerate(_chunks(task.demands, entries, params.batch_rows)):
            report("values", done, len(entries))
            rows = [(task.demands[i], at) for at, entry in enumerate(chosen) for i in entries[entry]]
            search = partial(_search, params, segment, layer, rows, len(chosen), task.table, fill)
            found = job.notes.remembered(f"values-{number}", search)
            values[chosen] = tensor_in(found, "values").to(values.device)
            steps, done = max(steps, int(found["steps"])), done + len(chosen)
        radii = torch.tensor(book.radii)
        memory = Codebook({"keys": keys[book.members], "values": values, "radii": radii})
        loss, leak = _look(segment, layer, memory, task.demands, task.table, fill)
        report("values", len(entries), len(entries))
        return Made(
            settled={"layer": layer},
            meta={
                "prompts": len(task.demands),
                "entries": len(memory),
                "steps": steps,
                "radius_mean": float(radii.mean()) / unit,
                "radius_min": float(radii.min()) / unit,
                "loss_mean": float(loss.mean()),
                "loss_max": float(loss.max()),
                "leak_max": float(leak.max()),
            },
            memories={projection.name: memory},
        )

    def tuned(self, depth: int) -> dict[str, tuple[Any, ...]]:
        """See `Editor.tuned`."""
        usual = self._layer(depth)
        blocks = dict.fromkeys((usual, max(1, depth // 2), max(1, depth - 2)))
        return {"layer": tuple(blocks), "radius": (0.15, 0.3, 0.5), "room": (0.5, 0.8)}

    def _layer(self, depth: int) -> int:
        assert isinstance(self.params, Params)
        layer = self.params.layer
        if layer is None:
            # Only blocks above carry a value on to the second token of an answer.
            layer = max(1, min(2 * depth // 3, depth - 2))
        existing([layer], depth, setting="layer")
        return layer


@torch.no_grad()
def _keys(segment: Segment, layer: int, rows: Sequence[Row], fill: int) -> Tensor:
    """(rows, inner) float32: what the down-projection of block `layer` takes at the rows' pivots."""
    device = segment.decoder.device
    parts: list[Tensor] = []
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        batch = pad([row.ids[: row.pivot + 1] for row in part], fill, "left").to(device)
        with inputs_of(segment.decoder.projections[layer].module, lambda x: parts.append(x[:, -1].float())):
            segment.run(batch, stop=layer + 1)
    return torch.cat(parts)


def _chunks(demands: Sequence[Demand], entries: Sequence[Sequence[int]], rows: int) -> Iterator[list[int]]:
    """Entries of similar length together, so that little is padded."""
    order = sorted(range(len(entries)), key=lambda e: max(len(demands[i].row.ids) for i in entries[e]))
    chosen: list[int] = []
    count = 0
    for entry in order:
        if chosen and count + len(entries[entry]) > rows:
            yield chosen
            chosen, count = [], 0
        chosen.append(entry)
        count += len(entries[entry])
    if chosen:
        yield chosen


class _Search:
    """The search for the values of some entries, over the rows that they answer."""

    def __init__(
        self,
        segment: Segment,
        layer: int,
        rows: Sequence[tuple[Demand, int]],
        entries: int,
        table: Tensor | Table,
        fill: int,
    ) -> None:
        self.segment, self.layer, self.entries = segment, layer, entries
        self.module = segment.decoder.projections[layer].module
        device = segment.decoder.device
        demands = [demand for demand, _ in rows]
        pivots = [d.row.pivot for d in demands]
        batch = pad_around([d.row.ids[: max(d.row.spots) + 1] for d in demands], pivots, fill).to(device)
        with torch.no_grad():
            self.hidden, self.prefix = segment.with_prefix(batch, max(pivots), layer)
        self.batch = batch.columns(slice(max(pivots), None))
        self.spots = Spots.of(demands, table)
        self.column = self.spots.column - torch.tensor(pivots, device=device)[self.spots.row]
        self.entry = torch.tensor([entry for _, entry in rows], device=device)

    def run(self, params: Params) -> State:
        """`values`, (entries, outer) float32, and `steps`, the most that one took.

        Raises:
            EditorError: the loss is not finite.
        """
        value, unit = self._start()
        if params.units == "absolute":
            unit = torch.ones_like(unit)
        first, second = torch.zeros_like(value), torch.zeros_like(value)
        active = torch.ones(self.entries, dtype=torch.bool, device=value.device)
        view = self._view(active)
        for step in range(params.steps + 1):
            leaf = value.clone().requires_grad_(True)
            with torch.enable_grad():
                final = self._final(view, leaf[view.entry])
                log_p = self.segment.decoder.logits(final[view.place, view.column]).float().log_softmax(-1)
                losses = view.spots.losses(log_p)
                told, p = view.spots.told(log_p)
                total = losses.sum() + told.sum()
            if not torch.isfinite(total):
                raise EditorError("the search for values gave a loss that is not finite")
            limit = torch.where(view.spots.hard >= 0, params.stop, params.near)
            unmet = (losses.detach() > limit) | (p > params.leak)
            open_ = torch.zeros_like(active)
            open_[view.entry[view.place[unmet]]] = True
            active &= open_
            if step == params.steps or not active.any():
                break
            (gradient,) = torch.autograd.grad(total, leaf)
            one, two = MOMENTS
            first = one * first + (1 - one) * gradient
            second = two * second + (1 - two) * gradient.square()
            # In units of the stream, so that one rate fits every model.
            length = params.rate * unit
            value = torch.where(active[:, None], value - length * move(first, second, step + 1), value)
            if int(active[self.entry].sum()) < 0.85 * len(view.entry):
                view = self._view(active)
        return {"values": value, "steps": step}

    @torch.no_grad()
    def _start(self) -> tuple[Tensor, Tensor]:
        """What the module itself gives at the rows' keys, by entry, and the unit of a step."""
        everything = self._view(torch.ones(self.entries, dtype=torch.bool, device=self.entry.device))
        seen: list[Tensor] = []
        self._final(everything, None, seen)
        own = torch.zeros(self.entries, seen[0].shape[-1], device=self.entry.device)
        own[self.entry.flip(0)] = seen[0].flip(0)
        size = own.square().mean().sqrt()
        if not self.segment.decoder.projections[self.layer].after:
            size = torch.maximum(size, self.hidden[:, 0].float().square().mean().sqrt())
        return own, size

    def _view(self, active: Tensor) -> _View:
        rows = active[self.entry].nonzero()[:, 0]
        prefix = self.prefix.rows(rows) if self.prefix is not None else None
        spots, place = self.spots.among(rows, len(self.entry))
        return _View(
            self.batch.rows(rows),
            prefix,
            self.hidden[rows],
            self.spots[spots],
            place,
            self.column[spots],
            self.entry[rows],
        )

    def _final(self, view: _View, values: Tensor | None, seen: list[Tensor] | None = None) -> Tensor:
        """Final hidden states with `values` (rows, outer) given at the first column of the view."""

        def put(_: Any, __: Any, given: Tensor) -> Tensor | None:
            if seen is not None:
                seen.append(given[:, 0].float())
            if values is None:
                return None
            return torch.cat([values[:, None].to(given.dtype), given[:, 1:]], dim=1)

        handle = self.module.register_forward_hook(put)
        try:
            return self.segment.run(view.batch, start=self.layer, hidden=view.hidden, prefix=view.prefix)
        finally:
            handle.remove()


def _search(params: Params, *about: Any) -> State:
    """The whole of a `_Search`."""
    return _Search(*about).run(params)


@dataclass(frozen=True)
class _View:
    """The rows that are still searched."""

    batch: Batch
    prefix: Prefix | None
    hidden: Tensor
    spots: Spots
    place: Tensor
    """(spots,) each one's row among those of the view ..."""
    column: Tensor
    """... and its column."""
    entry: Tensor


@contextmanager
def _attached(memory: Codebook, module: torch.nn.Module) -> Iterator[None]:
    detach = memory.attach(module)
    try:
        yield
    finally:
        detach()


@torch.no_grad()
def _look(
    segment: Segment,
    layer: int,
    memory: Codebook,
    demands: Sequence[Demand],
    table: Tensor | Table,
    fill: int,
) -> tuple[Tensor, Tensor]:
    """(spots,) loss and leak of all prompts with the memory at its module, found as any input finds it.

    Raises:
        EditorError: a loss is not finite.
    """
    found = []
    with _attached(memory, segment.decoder.projections[layer].module):
        for start in range(0, len(demands), BATCH):
            part = demands[start : start + BATCH]
            batch = pad([d.row.ids for d in part], fill, "right").to(segment.decoder.device)
            spots = Spots.of(part, table)
            final = segment.run(batch)
            log_p = segment.decoder.logits(final[spots.row, spots.column]).float().log_softmax(-1)
            found.append((spots.losses(log_p), spots.told(log_p)[1]))
    loss, leak = (torch.cat(parts) for parts in zip(*found, strict=True))
    if not bool(torch.isfinite(loss).all()):
        raise EditorError("the codebook gives a loss that is not finite")
    return loss, leak
