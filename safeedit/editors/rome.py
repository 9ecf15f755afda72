"""ROME and R-ROME: one name after another, by a change of rank one in one layer.

ROME (Meng et al., arXiv 2202.05262) takes for a name the change D of one down-projection that costs
observed keys least and has D k = r exactly: D = r (C^-1 k)^T / (k^T C^-1 k), k the name's key, C = E[k k^T].
Its published code has two keys there: C^-1 is applied to the mean over contexts, and k^T and r are
of the bare prompt. Where the two differ much the change explodes, and the model is lost in one edit;
R-ROME (Gupta, Baskaran and Anumanchipalli, arXiv 2403.07175) takes the mean in all places.

Deviations, settings all of them: names whose goals no longer hold after the others were edited come
round again (`passes`); an erasure has its own goals; strengths are relative (see `memit`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from safeedit.editors import memit
from safeedit.editors.base import Job, Made
from safeedit.editors.base import Params as BaseParams
from safeedit.editors.constrained import equal_change, rank_one
from safeedit.editors.insertion import Beginnings, Insertion, Solve, joined
from safeedit.editors.passes import Changes, Outcome, Work
from safeedit.editors.preserving import Preserved
from safeedit.editors.rows import Demand, Site, Task
from safeedit.editors.site import Trace, trace_site
from safeedit.editors.solve import Factors, Preservation
from safeedit.editors.values import search
from safeedit.models.hooks import frozen
from safeedit.models.segment import Segment
from safeedit.models.structure import find_decoder
from safeedit.triples.facts import Edit

_PAPER: dict[str, Any] = {
    "passes": 1,
    "stop": 0.05,
    "contexts": 20,
    "context_tokens": 8,
    "essence": True,
    "anchors": 0,
    "site": "subject",
    "end": False,
    "whole": False,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "paper": {"steps": 20, **_PAPER},
    "gpt2-xl": {"layers": [17], "steps": 20, **_PAPER},
    "gpt-j-6b": {"layers": [5], "steps": 20, **_PAPER},
    "llama-2-7b": {"layers": [5], "steps": 25, **_PAPER},
    "llama-3-8b": {"layers": [5], "steps": 25, **_PAPER},
    "mistral-7b": {"layers": [5], "steps": 25, **_PAPER},
    "qwen2.5-7b": {"layers": [5], "steps": 25, **_PAPER},
}
"""Published layers and searches; strengths stay as they are here, which are relative to another norm."""


class Params(memit.Params):
    """Settings of ROME: MEMIT's, with one layer."""

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = PUBLISHED

    layers: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, min_length=1, max_length=1)
    """The block that is changed."""
    steps: int = Field(default=25, ge=1, le=1000)
    """Steps of the search for a value, at most."""
    clamp: float = Field(default=0.75, gt=0)
    """Largest change of the hidden state at a name's last token, relative to its norm."""
    stop: float = Field(default=0.03, ge=0)
    """Mean loss, in nats, at which an insertion or modification is finished."""
    average_keys: Literal[True] = True
    """A name's key is the mean over its contexts."""


class OneLayer(memit.Memit):
    """An editor that changes a single block."""

    def layers_for(self, model: Any, tokenizer: Any, edits: Sequence[Edit]) -> tuple[int, ...]:
        """See `Editor.layers_for`."""
        with frozen(model):
            placed, _ = self._placed(Segment(find_decoder(model)), tokenizer, edits)
        return tuple(placed.params.layers)

    def tuned(self, depth: int) -> dict[str, tuple[Any, ...]]:
        """See `Editor.tuned`."""
        sites: tuple[Site, ...] = ("subject", "prompt")
        blocks = dict.fromkeys(one_layer(depth, site) for site in sites)
        return {**super().tuned(depth), "layers": (None, *([block] for block in blocks))}

    def _edit(self, job: Job) -> Made:
        placed, traced = self._placed(job.segment, job.tokenizer, job.edits)
        made = super(OneLayer, placed)._edit(job)
        if traced.carried is None:
            return made
        return replace(made, meta={**made.meta, "carried_by_subject": traced.carried})

    def _placed(self, segment: Segment, tokenizer: Any, edits: Sequence[Edit]) -> tuple[Any, Trace]:
        """This editor with its block and its site settled."""
        assert isinstance(self.params, memit.Params)
        params, depth = self.params, len(segment.decoder.blocks)
        asked = memit.chosen_layers(params.layers, depth)
        traced = (
            trace_site(segment, tokenizer, edits, asked[-1])
            if params.site == "auto"
            else Trace(params.site, None)
        )
        layer = params.layers or [one_layer(depth, traced.site)]
        placed = copy(self)
        placed.params = params.model_copy(update={"layers": layer, "site": traced.site})
        return placed, traced


def one_layer(depth: int, site: Site) -> int:
    """The block to edit of a model with `depth` blocks: the middle one of those that MEMIT changes."""
    layers = memit.chosen_layers(None, depth, late=site == "prompt")
    return layers[len(layers) // 2]


def by_prompt(work: Work) -> Work:
    """At prompts' last tokens every prompt has a key, and so a value, of its own.

    The mean of such keys over the phrasings of a fact would be the key of none of them.
    """
    if work.site == "subject":
        return work
    groups, demands, current = 0, list[Demand](), dict[int, int]()
    for demand in work.task.demands:
        # A prompt comes first alone, then behind other texts.
        if demand.bare or demand.group not in current:
            current[demand.group] = groups
            groups += 1
        demands.append(replace(demand, group=current[demand.group]))
    return replace(work, task=replace(work.task, groups=groups, demands=tuple(demands)))


class Rome(OneLayer):
    """One name after another, by changes of rank one."""

    name: ClassVar[str] = "rome"
    summary: ClassVar[str] = "closed-form change of rank one in one MLP layer, one name after another"
    paper: ClassVar[str] = "2202.05262"
    Params: ClassVar[type[BaseParams]] = Params

    def _change(self, work: Work) -> Changes:
        [layer] = work.layers
        work = by_prompt(work)
        preserved = work.insertion(self._preserved(work)).preserved
        found = _OneByOne(work, layer, preserved, self)
        for number in range(work.passes):
            if not found.round(number):
                break
        return found.changes()

    def solver(self, beginnings: Beginnings, bare: Tensor) -> Solve:
        """The algebra for one name.

        Args:
            beginnings: its texts; they come with their shares.
            bare: (texts,) which of them are prompts with nothing before them.
        """
        share = beginnings.share[:, None]

        def solve(keys: Tensor, residuals: Tensor, preserve: Preservation) -> Factors:
            alone = (share * bare[:, None]) / (share.square() * bare[:, None]).sum()
            means = [(share * keys).sum(0), (alone * keys).sum(0), (alone * residuals).sum(0)]
            return rank_one(means[0], means[1], means[2], preserve)

        return solve


class RRome(Rome):
    """ROME with one key in all places."""

    name: ClassVar[str] = "r-rome"
    summary: ClassVar[str] = "rome with the same key in all places, so that no single edit breaks the model"
    paper: ClassVar[str] = "2403.07175"

    def solver(self, beginnings: Beginnings, bare: Tensor) -> Solve:
        """See `Rome.solver`."""
        share = beginnings.share[:, None]

        def solve(keys: Tensor, residuals: Tensor, preserve: Preservation) -> Factors:
            key, residual = (share * keys).sum(0), (share * residuals).sum(0)
            return equal_change(key[None], residual[None], preserve)

        return solve


class _OneByOne:
    """Names one after another, each searched on the model that those before it have left."""

    def __init__(self, work: Work, layer: int, preserved: Preserved, editor: Rome) -> None:
        self.work, self.layer, self.preserved, self.editor = work, layer, preserved, editor
        self.tasks = list(_by_group(work.task))
        device = work.segment.decoder.device
        self.parts: list[Factors] = []
        self.weight = work.segment.decoder.projections[layer].weight.detach().float().clone()
        """What the weight is in full precision, in its own layout."""
        self.loss, self.steps, self.norm, self.missing = torch.zeros(4, len(self.tasks), device=device)
        self.rounds = 0

    def round(self, number: int) -> bool:
        """Edit every name whose goals do not hold; whether there was one."""
        work, told = self.work, self.work.stage("values", number)
        self.rounds = number + 1
        changed = False
        for group, task in enumerate(self.tasks):
            values = search(work.segment, self.layer, task, work.search, work.fill)
            self.loss[group] = values.loss[0]
            self.steps[group] += values.steps[0]
            self.norm[group] = torch.maximum(self.norm[group], values.norm[0])
            if values.steps[0] > 0:
                self._insert(group, task, values.delta)
                changed = True
            told(group + 1, len(self.tasks))
        return changed

    def changes(self) -> Changes:
        """What the names together changed."""
        factors = {self.layer: joined(self.parts)} if self.parts else {}
        return Changes(factors, Outcome(self.rounds, self.loss, self.steps, self.norm), self.missing)

    def _insert(self, group: int, task: Task, delta: Tensor) -> None:
        work = self.work
        device = delta.device
        beginnings = Beginnings.of(1, task.demands, work.fill, device)
        starts = {tuple(d.row.ids[: d.row.pivot + 1]) for d in task.demands if d.bare and not d.keep}
        texts = beginnings.batch
        bare = torch.tensor(
            [
                tuple(ids[mask.bool()].tolist()) in starts
                for ids, mask in zip(texts.input_ids, texts.attention_mask, strict=True)
            ],
            device=device,
        )
        solve = self.editor.solver(beginnings, bare)
        made = Insertion(work.segment, [self.layer], beginnings, self.preserved, False, solve)
        made.originals[self.layer] = self.weight
        made.run(delta, lambda done, total: self.work.report("weights", done, total))
        factors = made.factors()[self.layer]
        self.parts.append(factors)
        self.weight += work.segment.decoder.projections[self.layer].oriented(factors.dense())
        self.missing[group] = made.missing[0]


def _by_group(task: Task) -> Iterator[Task]:
    members: list[list[Demand]] = [[] for _ in range(task.groups)]
    for demand in task.demands:
        members[demand.group].append(replace(demand, group=0))
    for demands in members:
        yield Task(1, tuple(demands), task.table)
