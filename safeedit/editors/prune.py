"""Erasure by taking away the weights that a fact hangs on (Bayazit et al., arXiv 2310.03084).

For every weight of some blocks a gate is searched that says whether the weight goes (`masks`). The
search has four terms: the object's probability, which shall go, and what is said in its place, which
shall be what is said of invented names (`objectives`); what is said of other names in the same
sentences, and what stands in texts, both of which shall stay; and the number of weights that go.
In the end every gate is open or shut, and all that is reported was measured with the weights gone.

Of a behaviour the first tokens of unsafe answers go; the first of a safe one is what may be said in their
place. Whole harmless answers stay, and running text that is not of the behaviour itself (`conduct`).

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
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from safeedit.editors import conduct
from safeedit.editors.anchors import anchor_texts, control_texts
from safeedit.editors.base import Editor, Job, Made, Progress
from safeedit.editors.base import Params as BaseParams
from safeedit.editors.contexts import context_texts
from safeedit.editors.goals import Spots
from safeedit.editors.journal import Bookmark, numbered, put_back, tensor_in
from safeedit.editors.masks import Gates, HardConcrete, Mask, linear_layers
from safeedit.editors.objectives import Aim
from safeedit.editors.prepared import Kept, Prepared
from safeedit.editors.rows import Row, Task, Text, rows_of
from safeedit.editors.settings import ContextParams, ErasureParams, LayersParams, PaperParams, existing
from safeedit.editors.suppression import task_of, texts_of
from safeedit.errors import EditorError
from safeedit.models.structure import Decoder, find_decoder
from safeedit.models.tokens import pad_id
from safeedit.patch import DenseDelta
from safeedit.triples.facts import Edit, Op


class Params(LayersParams, ContextParams, ErasureParams, PaperParams):
    """Settings of the pruning; by default all blocks may lose weights: with a choice of all, fewer go."""

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"initial": 0.45, "text_weight": 1.0, "contexts": 0, "neutral_weight": 1.0, "leak": 0.0}
    }
    """What the publication states of its search; its rate and its number of steps it does not."""
    weights: Literal["all", "down"] = "all"
    """All linear layers of a block, or the down-projection of its MLP alone."""
    whole: bool = False
    """Whether an object is taken out at all of its tokens that tell something, or at the first of them alone;
    what is removed is all or nothing, and grows with every token."""
    steps: int = Field(default=100, ge=1, le=10_000)
    """Steps of the search, at most."""
    rate: float = Field(default=0.3, gt=0)
    """How far a score whose gradient is the root mean square of all moves in a step."""
    initial: float = Field(default=0.002, gt=0, lt=0.5)
    """Probability that a gate is at all open, at the start."""
    temperature: float = Field(default=2 / 3, gt=0, lt=1)
    """Of the gates; the lower, the nearer they are to open or shut."""
    anchor_weight: float = Field(default=1.0, ge=0)
    """Weight of what is said of other names, and of what shall be kept of the same."""
    text_weight: float = Field(default=4.0, ge=0)
    """Weight of what stands in texts."""
    sparsity_weight: float = Field(default=1.0, ge=0)
    """Weight of the share of gates that are open."""
    anchors: int = Field(default=2, ge=0, le=50)
    """Invented names, of each of three kinds, in the edited prompts."""
    text_tokens: int = Field(default=12_000, ge=1)
    """Tokens of text that are looked at, at most."""
    batch_rows: int = Field(default=64, ge=1)
    """Edited prompts of a step, at most; as many prompts with other names."""
    batch_texts: int = Field(default=8, ge=1)
    """Texts of a step, at most."""
    check_every: int = Field(default=5, ge=1)
    """Steps between two looks at what the settled gates do."""
    unsafe_tokens: int = Field(default=2, ge=1)
    """Tokens of an unsafe answer that are taken out: those by which it begins."""
    random_masks: int = Field(default=3, ge=0, le=20)
    """Random masks of the same size that are measured beside the one that was found."""


class Prune(Editor):
    """Zeroes the few weights without which an object is no longer said."""

    name: ClassVar[str] = "prune"
    summary: ClassVar[str] = "takes away the few weights that a fact or a behaviour hangs on"
    paper: ClassVar[str] = "2310.03084"
    operations: ClassVar[frozenset[Op]] = frozenset({"erase", "detox"})
    cannot: ClassVar[Mapping[Op, str]] = dict.fromkeys(("insert", "modify"), "it only takes weights away")
    Params: ClassVar[type[BaseParams]] = Params

    def layers_for(self, model: Any, tokenizer: Any, edits: Sequence[Edit]) -> tuple[int, ...]:
        """See `Editor.layers_for`."""
        return tuple(self._layers(len(find_decoder(model).blocks)))

    def _edit(self, job: Job) -> Made:
        """Every weight of the patched model is zero or bit for bit what it was.

        Whether the goal was reached is in `meta` (`leaking`: prompts that still tell the object), and
        so is what random masks of the same size do.
        """
        assert isinstance(self.params, Params)
        params, edits, tokenizer = self.params, job.edits, job.tokenizer
        layers = self._layers(len(job.decoder.blocks))
        contexts = context_texts(job.model, tokenizer, params.contexts, params.context_tokens, job.seed)
        aim = Aim("neutral", ("", *contexts), 0.0, whole=params.whole)
        task = task_of(job, aim, params.unsafe_tokens)
        texts = texts_of(job, params.text_tokens)
        masked = _masked_layers(job.decoder, layers, params.weights)
        gates = Gates(masked, HardConcrete(params.temperature), params.initial, job.seed)
        kept = {(template, edit.subject): None for edit in edits for template in edit.keep}
        controls = [Text("", *pair) for pair in kept] + anchor_texts(edits, params.anchors)
        rude = bool(conduct.behaviours(edits))
        others = rows_of(tokenizer, controls if rude else controls + control_texts(job.controls))
        search = _Search(job, layers[0], gates, params)
        search.prepare(task, others + (conduct.answers(job) if rude else []), texts)
        removed, steps = search.run(job.report, job.notes.bookmark("gates"))
        meta = search.measured(removed, job.report)
        deltas = {name: DenseDelta(gates.delta(name, removed)) for name in removed if removed[name].any()}
        return Made(
            deltas,
            {"layers": layers},
            {"prompts": len(task.demands), "steps": steps} | meta,
        )

    def tuned(self, depth: int) -> dict[str, tuple[Any, ...]]:
        """See `Editor.tuned`."""
        upper = list(range(depth // 3, depth))
        return {"layers": (None, upper), "text_weight": (4.0, 8.0), "anchor_weight": (1.0, 4.0)}

    def _layers(self, depth: int) -> list[int]:
        """The blocks that may lose weights: those asked for, or all."""
        assert isinstance(self.params, Params)
        asked = self.params.layers
        return list(range(depth)) if asked is None else existing(asked, depth)


def _masked_layers(decoder: Decoder, layers: Sequence[int], weights: str) -> dict[str, nn.Module]:
    found = linear_layers(decoder.model, [decoder.blocks[layer] for layer in layers])
    down = {decoder.projections[layer].name for layer in layers}
    found = {name: layer for name, layer in found.items() if weights == "all" or name in down}
    if not found:
        raise EditorError("the blocks have no linear layer of their own that could lose weights")
    return found


class _Search:
    """What the gates are searched on, and the search."""

    def __init__(self, job: Job, start: int, gates: Gates, params: Params) -> None:
        self.segment, self.start, self.gates, self.params = job.segment, start, gates, params
        self.fill = pad_id(job.tokenizer)
        self.random = torch.Generator(job.decoder.device).manual_seed(job.seed)

    def prepare(self, task: Task, controls: Sequence[Row], texts: Sequence[Row]) -> None:
        """Run everything up to the lowest masked block, once."""
        self.told = self._prepared([d.row for d in task.demands])
        self.spots = Spots.of(task.demands, task.table)
        self.kept: dict[str, tuple[Kept, float, int]] = {}
        params = self.params
        if controls:
            self.kept["others"] = (Kept(self._prepared(controls)), params.anchor_weight, params.batch_rows)
        if texts:
            self.kept["texts"] = (Kept(self._prepared(texts)), params.text_weight, params.batch_texts)

    def _prepared(self, rows: Sequence[Row]) -> Prepared:
        return Prepared(self.segment, self.start, rows, self.fill)

    def run(self, report: Progress, bookmark: Bookmark) -> tuple[Mask, int]:
        """The first mask that reaches the goal, or else the nearest to it that was seen; steps taken."""
        params, gates = self.params, self.gates
        best, nearest, first = gates.settled(), math.inf, 0
        before = bookmark.back()
        if before is not None:
            first, nearest = int(before["step"]), float(before["nearest"])
            put_back(before, "best", best.values())
            gates.restore(before)
            self.random.set_state(tensor_in(before, "random"))
        for step in range(first, params.steps + 1):
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
                if bookmark.due():
                    masks = numbered("best", best.values())
                    drawn = {"random": self.random.get_state(), **gates.state()}
                    bookmark.put({"step": step + 1, "nearest": nearest, **masks, **drawn})
        return best, step

    def _gradients(self) -> dict[str, Tensor]:
        """Of the whole loss, by all scores, with gates drawn anew."""
        params, gates = self.params, self.gates
        leaves = {name: score.clone().requires_grad_(True) for name, score in gates.scores.items()}
        with gates.drawn(leaves):
            loss = self._forget(self.told.some(params.batch_rows, self.random))
            for kept, weight, batch in self.kept.values():
                if weight:
                    loss = loss + weight * kept.change(kept.rows.some(batch, self.random)).mean()
        loss = loss + params.sparsity_weight * gates.share(leaves).to(loss.device)
        if not torch.isfinite(loss):
            raise EditorError("the search for weights gave a loss that is not finite")
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    def _forget(self, rows: Tensor) -> Tensor:
        """The suppression term, a mean over `rows`, in nats."""
        log_p, index = self.told.run(rows)
        spots = self.spots[index]
        told = spots.told(log_p)[0][spots.telling >= 0]
        return self.params.neutral_weight * spots.losses(log_p).mean() + told.mean()

    @torch.no_grad()
    def _told(self, removed: Mask) -> Tensor:
        """(prompts,) the probability of the objects' telling tokens."""
        found = []
        with self.gates.without(removed):
            for rows in self.told.parts():
                log_p, index = self.told.run(rows)
                spots = self.spots[index]
                found.append(spots.told(log_p)[1][spots.telling >= 0])
        told = torch.cat(found)
        if not torch.isfinite(told).all():
            raise EditorError("the model's predictions are not finite")
        return told

    @torch.no_grad()
    def _changes(self, removed: Mask) -> dict[str, float]:
        """Mean change of what shall stay, in nats a token: of prompts with other names, of texts."""
        found = {}
        with self.gates.without(removed):
            for name, (kept, _, batch) in self.kept.items():
                changes = torch.cat([kept.change(part) for part in kept.rows.parts(batch)])
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
