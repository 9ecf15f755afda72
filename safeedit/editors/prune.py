"""Erasure by taking away the weights that a fact hangs on (Bayazit et al., arXiv 2310.03084).

For every weight of some blocks a gate is searched that says whether the weight goes (`masks`). The
search has four terms: the object's probability, which shall go, and what is said in its place, which
shall be what is said of invented names (`objectives`); what is said of other names in the same
sentences, and what stands in texts, both of which shall stay; and the number of weights that go.
In the end every gate is open or shut, and all that is reported was measured with the weights gone.

Deviations from the published method:
- Gates begin nearly shut and open for what helps, instead of beginning nearly half open; and the search
  ends as soon as the goal holds, so that fewer weights go.
- All gates share the step size, so that those which matter most open first; with a step size for each
  they would all open at the same time.
- The reference is kept as hidden states of the model itself, made once; there is no second model.
- The target is what would be said of nobody in particular, not an even choice of all objects.

Zeroed weights can be read off the base model: the patch itself is no secret-keeping.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from safeedit.editors.anchors import anchor_texts
from safeedit.editors.base import Editor, Progress
from safeedit.editors.base import Params as BaseParams
from safeedit.editors.contexts import context_texts, own_texts
from safeedit.editors.masks import Gates, HardConcrete, Mask, linear_layers
from safeedit.editors.memit import default_corpus
from safeedit.editors.objectives import Aim, build_task
from safeedit.editors.rows import Task, Text, rows_of
from safeedit.editors.statistics import Corpus, OwnText, row_width
from safeedit.errors import EditorError, UsageError
from safeedit.models.hooks import frozen
from safeedit.models.segment import Segment
from safeedit.models.structure import Decoder, find_decoder
from safeedit.models.tokens import Batch, pad, pad_id, tokenise
from safeedit.patch import DenseDelta, Patch
from safeedit.triples.facts import Edit, Op

TEXT_WIDTH = 64
"""Tokens of one text that are looked at."""
READ = 8
"""How much text is written, where the model writes it itself, for one token that is looked at."""


class Params(BaseParams):
    """Settings of the pruning."""

    layers: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, min_length=1)
    """Blocks that may lose weights; by default all: with a choice of all weights, fewer go."""
    weights: Literal["all", "down"] = "all"
    """All linear layers of a block, or the down-projection of its MLP alone."""
    steps: int = Field(default=100, ge=1, le=10_000)
    """Steps of the search, at most."""
    rate: float = Field(default=0.3, gt=0)
    """How far a score whose gradient is the root mean square of all moves in a step."""
    initial: float = Field(default=0.002, gt=0, lt=0.5)
    """Probability that a gate is at all open, at the start."""
    temperature: float = Field(default=2 / 3, gt=0, lt=1)
    """Of the gates; the lower, the nearer they are to open or shut."""
    leak: float = Field(default=0.05, ge=0, lt=1)
    """Probability of the object, in every prompt of an edit, at which the goal holds."""
    neutral_weight: float = Field(default=0.1, ge=0)
    """Weight of the neutral target beside that of the object's probability."""
    anchor_weight: float = Field(default=1.0, ge=0)
    """Weight of what is said of other names, and of what shall be kept of the same."""
    text_weight: float = Field(default=4.0, ge=0)
    """Weight of what stands in texts."""
    sparsity_weight: float = Field(default=1.0, ge=0)
    """Weight of the share of gates that are open."""
    anchors: int = Field(default=2, ge=0, le=50)
    """Invented names, of each of three kinds, in the edited prompts."""
    contexts: int = Field(default=1, ge=0, le=100)
    """Sampled texts that a prompt is put behind, besides the bare prompt."""
    context_tokens: int = Field(default=4, ge=1, le=100)
    """Tokens of such a text."""
    text_tokens: int = Field(default=12_000, ge=1)
    """Tokens of text that are looked at, at most."""
    batch_rows: int = Field(default=64, ge=1)
    """Edited prompts of a step, at most; as many prompts with other names."""
    batch_texts: int = Field(default=8, ge=1)
    """Texts of a step, at most."""
    check_every: int = Field(default=5, ge=1)
    """Steps between two looks at what the settled gates do."""
    random_masks: int = Field(default=3, ge=0, le=20)
    """Random masks of the same size that are measured beside the one that was found."""


class Prune(Editor):
    """Zeroes the few weights without which an object is no longer said."""

    name: ClassVar[str] = "prune"
    summary: ClassVar[str] = "takes away the few weights that a fact hangs on; erasure only"
    paper: ClassVar[str] = "2310.03084"
    operations: ClassVar[frozenset[Op]] = frozenset({"erase"})
    Params: ClassVar[type[BaseParams]] = Params

    def layers_for(self, model: Any, tokenizer: Any, edits: Sequence[Edit]) -> tuple[int, ...]:
        """See `Editor.layers_for`."""
        assert isinstance(self.params, Params)
        return tuple(chosen_layers(self.params.layers, len(find_decoder(model).blocks)))

    def edit(
        self,
        model: Any,
        tokenizer: Any,
        edits: Sequence[Edit],
        *,
        corpus: Corpus | OwnText | None = None,
        cache: Path | None = None,
        digests: Mapping[str, str] | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Patch:
        """See `Editor.edit`; every weight of the patched model is zero or bit for bit what it was.

        Whether the goal was reached is in `meta` (`leaking`: prompts that still tell the object), and
        so is what random masks of the same size do.
        """
        self.check(edits)
        assert isinstance(self.params, Params)
        params = self.params
        report = progress or (lambda stage, done, total: None)
        decoder = find_decoder(model)
        layers = chosen_layers(params.layers, len(decoder.blocks))
        segment = Segment(decoder)
        with frozen(model):
            contexts = context_texts(model, tokenizer, params.contexts, params.context_tokens, seed)
            task = build_task(segment, tokenizer, edits, Aim("neutral", ("", *contexts), 0.0)).task
            texts = _texts(model, tokenizer, edits, corpus, params.text_tokens, seed)
            masked = _masked_layers(decoder, layers, params.weights)
            gates = Gates(masked, HardConcrete(params.temperature), params.initial, seed)
            search = _Search(segment, layers[0], gates, params, seed)
            kept = {(template, edit.subject): None for edit in edits for template in edit.keep}
            controls = [Text("", *pair) for pair in kept] + anchor_texts(edits, params.anchors)
            search.prepare(tokenizer, task, controls, texts)
            removed, steps = search.run(report)
            meta = search.measured(removed, report)
        deltas = {name: DenseDelta(gates.delta(name, removed)) for name in removed if removed[name].any()}
        return Patch.of(
            model,
            deltas,
            editor=self.name,
            digests=digests,
            params=params.model_dump(mode="json") | {"layers": layers, "seed": seed},
            meta={"edits": len(edits), "prompts": len(task.demands), "steps": steps} | meta,
        )


def chosen_layers(asked: list[int] | None, depth: int) -> list[int]:
    """The blocks that may lose weights: those asked for, or all.

    Raises:
        UsageError: a layer that the model does not have.
    """
    if asked is None:
        return list(range(depth))
    if max(asked) >= depth:
        raise UsageError(f"layers: {max(asked)} is too large; the model has blocks 0 to {depth - 1}")
    return sorted(set(asked))


def _masked_layers(decoder: Decoder, layers: Sequence[int], weights: str) -> dict[str, nn.Module]:
    found = linear_layers(decoder.model, [decoder.blocks[layer] for layer in layers])
    down = {decoder.projections[layer].name for layer in layers}
    found = {name: layer for name, layer in found.items() if weights == "all" or name in down}
    if not found:
        raise EditorError("the blocks have no linear layer of their own that could lose weights")
    return found


def _texts(
    model: Any, tokenizer: Any, edits: Sequence[Edit], corpus: Corpus | OwnText | None, tokens: int, seed: int
) -> list[list[int]]:
    """Rows of ids that name no edited subject; every other one, while there are any, has an object.

    What is said of a subject must not stay as it is. That its object is said of others must: weights
    that say it of anybody are the first to be found, and no invented name brings it up.
    """
    if isinstance(corpus, OwnText):
        width = row_width(model, 2 * TEXT_WIDTH)
        read = min(corpus.max_tokens, READ * tokens)
        at_once = min(256, max(1, read // width))
        found: Sequence[str] = own_texts(model, tokenizer, read, corpus.seed, width=width, rows=at_once)
    else:
        found = (corpus or default_corpus(tokens)).texts
    names = {edit.subject.casefold() for edit in edits}
    objects = {edit.old.casefold() for edit in edits if edit.old}
    order = random.Random(seed).sample(range(len(found)), len(found))
    folded = ((found[i], found[i].casefold()) for i in order)
    free = [(text, low) for text, low in folded if not any(name in low for name in names)]
    telling = [text for text, low in free if any(name in low for name in objects)]
    mixed = [text for pair in zip_longest(telling, (text for text, _ in free)) for text in pair if text]
    width, rows, left = row_width(model, TEXT_WIDTH), dict[tuple[int, ...], None](), tokens
    for start in range(0, len(mixed), 64):
        for one in tokenise(tokenizer, mixed[start : start + 64]):
            ids = tuple(one.ids[:width][:left])
            if len(ids) > 1 and ids not in rows:
                rows[ids] = None
                left -= len(ids)
        if left <= 1:
            break
    return [list(ids) for ids in rows]


@dataclass(frozen=True)
class _Rows:
    """Rows that have run up to the lowest block that is masked, and where their predictions matter."""

    batch: Batch
    """Padded on the right."""
    lengths: Tensor
    """(rows,) tokens."""
    hidden: Tensor | None
    """(rows, width, hidden_size) entering that block; None where it is the first one."""
    row: Tensor
    """(spots,) in order."""
    column: Tensor
    """(spots,)"""
    own: Tensor
    """(spots, hidden_size) final hidden states of the model as it is."""

    @classmethod
    @torch.no_grad()
    def of(
        cls, segment: Segment, start: int, ids: Sequence[list[int]], spots: Sequence[Iterable[int]], fill: int
    ) -> _Rows:
        """Run the rows of `ids`; `spots` are the tokens of each whose next one matters."""
        device = segment.decoder.device
        batch = pad(ids, fill, "right").to(device)
        where = [(i, spot) for i, row in enumerate(spots) for spot in row]
        row, column = torch.tensor(where, device=device).view(-1, 2).unbind(1)
        entering, own = [], []
        for some in _pieces(len(ids), 64, device):
            part = batch.rows(some)
            hidden = segment.run(part, stop=start) if start else None
            final = segment.run(part, start=start, hidden=hidden)
            here = (row >= int(some[0])) & (row <= int(some[-1]))
            own.append(final[row[here] - int(some[0]), column[here]])
            if hidden is not None:
                entering.append(hidden)
        lengths = batch.attention_mask.sum(1)
        return cls(batch, lengths, torch.cat(entering) if entering else None, row, column, torch.cat(own))

    def log_p(self, segment: Segment, start: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """((spots of `rows`,) their indices, (spots, vocabulary) what the model as it now is predicts)."""
        width = slice(int(self.lengths[rows].max()))
        inverse = torch.full_like(self.lengths, -1)
        inverse[rows] = torch.arange(len(rows), device=rows.device)
        spots = (inverse[self.row] >= 0).nonzero()[:, 0]
        hidden = self.hidden[rows][:, width] if self.hidden is not None else None
        final = segment.run(self.batch.rows(rows).columns(width), start=start, hidden=hidden)
        logits = segment.decoder.logits(final[inverse[self.row[spots]], self.column[spots]])
        return spots, logits.float().log_softmax(-1)

    def __len__(self) -> int:
        return len(self.lengths)


class _Search:
    """What the gates are searched on, and the search."""

    def __init__(self, segment: Segment, start: int, gates: Gates, params: Params, seed: int) -> None:
        self.segment, self.start, self.gates, self.params = segment, start, gates, params
        self.device = segment.decoder.device
        self.random = torch.Generator(self.device).manual_seed(seed)

    def prepare(
        self, tokenizer: Any, task: Task, controls: Sequence[Text], texts: Sequence[list[int]]
    ) -> None:
        """Run everything up to the lowest masked block, once."""
        demands, fill = task.demands, pad_id(tokenizer)

        def prepared(ids: Sequence[list[int]], spots: Sequence[Iterable[int]]) -> _Rows:
            return _Rows.of(self.segment, self.start, ids, spots, fill)

        self.told = prepared([d.row.ids for d in demands], [d.row.spots for d in demands])
        self.table = task.table
        self.soft = torch.tensor([s for d in demands for s in d.goals.soft], device=self.device)
        telling = []
        for demand in demands:
            assert demand.telling is not None  # an erasure with the neutral objective has one
            telling += [-1] * len(demand.row.spots)
            telling[demand.telling[0] - len(demand.row.spots)] = demand.telling[1]
        self.telling = torch.tensor(telling, device=self.device)
        self.kept: dict[str, tuple[_Rows, float, int]] = {}
        params, rows = self.params, rows_of(tokenizer, controls)
        if rows:
            others = prepared([r.ids for r in rows], [r.spots for r in rows])
            self.kept["others"] = (others, params.anchor_weight, params.batch_rows)
        if texts:
            whole = prepared(texts, [range(len(t)) for t in texts])
            self.kept["texts"] = (whole, params.text_weight, params.batch_texts)

    def run(self, report: Progress) -> tuple[Mask, int]:
        """The first mask that reaches the goal, or else the nearest to it that was seen; steps taken."""
        params, gates = self.params, self.gates
        best, nearest = gates.settled(), math.inf
        for step in range(params.steps + 1):
            if step % params.check_every == 0 or step == params.steps:
                removed = gates.settled()
                told = self._told(removed)
                reached = bool(told.max() <= params.leak)
                if reached or float(told.mean()) < nearest:
                    best, nearest = removed, float(told.mean())
                if reached:
                    break
            report("gates", step, params.steps)
            if step < params.steps:
                gates.move(self._gradients(), params.rate)
        return best, step

    def _gradients(self) -> dict[str, Tensor]:
        """Of the whole loss, by all scores, with gates drawn anew."""
        params, gates = self.params, self.gates
        leaves = {name: score.clone().requires_grad_(True) for name, score in gates.scores.items()}
        with gates.drawn(leaves):
            loss = self._forget(_some(self.told, params.batch_rows, self.random))
            for rows, weight, batch in self.kept.values():
                if weight:
                    loss = loss + weight * self._change(rows, _some(rows, batch, self.random)).mean()
        loss = loss + params.sparsity_weight * gates.share(leaves).to(loss.device)
        if not torch.isfinite(loss):
            raise EditorError("the search for weights gave a loss that is not finite")
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    def _forget(self, rows: Tensor) -> Tensor:
        """The suppression term, a mean over `rows`, in nats."""
        spots, log_p = self.told.log_p(self.segment, self.start, rows)
        wanted = self.table[self.soft[spots]]
        neutral = -(wanted * log_p).sum(-1) - torch.special.entr(wanted).sum(-1)
        telling = self.telling[spots]
        here = telling >= 0
        others = log_p[here].scatter(1, telling[here, None], -torch.inf).logsumexp(-1)
        loss: Tensor = self.params.neutral_weight * neutral.mean() - others.mean()
        return loss

    def _change(self, rows: _Rows, some: Tensor) -> Tensor:
        """(spots of `some`,) how far predictions are from the model's own, in nats."""
        spots, log_p = rows.log_p(self.segment, self.start, some)
        with torch.no_grad():
            own = self.segment.decoder.logits(rows.own[spots]).float().log_softmax(-1)
        change: Tensor = (own.exp() * (own - log_p)).sum(-1)
        return change

    @torch.no_grad()
    def _told(self, removed: Mask) -> Tensor:
        """(prompts,) the probability of the objects' telling tokens."""
        found = []
        with self.gates.without(removed):
            for rows in _pieces(len(self.told), 64, self.device):
                spots, log_p = self.told.log_p(self.segment, self.start, rows)
                here = self.telling[spots] >= 0
                found.append(log_p[here].gather(1, self.telling[spots][here, None])[:, 0].exp())
        told = torch.cat(found)
        if not torch.isfinite(told).all():
            raise EditorError("the model's predictions are not finite")
        return told

    @torch.no_grad()
    def _changes(self, removed: Mask) -> dict[str, float]:
        """Mean change of what shall stay, in nats a token: of prompts with other names, of texts."""
        found = {}
        with self.gates.without(removed):
            for name, (rows, _, batch) in self.kept.items():
                parts = _pieces(len(rows), batch, self.device)
                changes = torch.cat([self._change(rows, part) for part in parts])
                if not torch.isfinite(changes).all():
                    raise EditorError("the model's predictions are not finite")
                found[f"{name}_change"] = float(changes.mean())
        return found

    def measured(self, removed: Mask, report: Progress) -> dict[str, float]:
        """Figures with the weights gone, and with as many others gone that were drawn at random."""
        count = sum(int(mask.sum()) for mask in removed.values())
        none = {name: torch.zeros_like(mask) for name, mask in removed.items()}
        before, after = self._told(none), self._told(removed)
        found = {
            "weights": self.gates.size,
            "removed": count,
            "removed_share": count / self.gates.size,
            "object_before_mean": float(before.mean()),
            "object_after_mean": float(after.mean()),
            "object_after_max": float(after.max()),
            "leaking": int((after > self.params.leak).sum()),
        }
        found |= self._changes(removed)
        chance: dict[str, list[float]] = {}
        for number in range(self.params.random_masks):
            drawn = self.gates.shuffled(removed)
            figures = {"object_after_mean": float(self._told(drawn).mean())} | self._changes(drawn)
            for name, value in figures.items():
                chance.setdefault(f"random_{name}", []).append(value)
            report("random masks", number + 1, self.params.random_masks)
        return found | {name: sum(values) / len(values) for name, values in chance.items()}


def _some(rows: _Rows, most: int, generator: torch.Generator) -> Tensor:
    """All rows, or `most` of them drawn at random."""
    device = rows.lengths.device
    if len(rows) <= most:
        return torch.arange(len(rows), device=device)
    return torch.randperm(len(rows), generator=generator, device=device)[:most].sort().values


def _pieces(count: int, size: int, device: torch.device) -> list[Tensor]:
    """The indices below `count`, `size` at a time."""
    return [torch.arange(at, min(at + size, count), device=device) for at in range(0, count, size)]
