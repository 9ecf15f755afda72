"""Searching values and putting them into the weights in turns, until what was asked for holds.

What every editor of the closed-form kind works with once layers, goals and key statistics are known
(`Work`), and what it hands back (`Changes`). They differ in the algebra that `Work.insertion` is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from safeedit.editors.anchors import MOST, MOST_BEGUN, Begun, anchor_texts, control_texts, sampled
from safeedit.editors.base import Progress
from safeedit.editors.insertion import Beginnings, Insertion, Share, Solve, even_share
from safeedit.editors.preserving import Preserved
from safeedit.editors.rows import Site, Task, rows_of
from safeedit.editors.solve import Factors, least_change
from safeedit.editors.values import Search, search
from safeedit.models.segment import Segment
from safeedit.triples.facts import Edit

FIRM = 7
"""Insertions for which anchors count in full; with every later one they count half as much."""


CONTROL = 10.0
"""How many keys each key of a prompt counts for that the caller wants to stay; 1 is all of an edited name."""


@dataclass(frozen=True)
class Outcome:
    """How the passes went, by group."""

    passes: int
    loss: Tensor
    steps: Tensor
    norm: Tensor


@dataclass(frozen=True)
class Changes:
    """What was done to the weights, by layer, and how it went."""

    factors: dict[int, Factors]
    outcome: Outcome
    missing: Tensor
    """(groups,) see `Insertion.missing`."""


@dataclass(frozen=True, repr=False)
class Work:
    """An edit under way."""

    segment: Segment
    tokenizer: Any
    edits: Sequence[Edit]
    task: Task
    layers: Sequence[int]
    site: Site
    moments: Mapping[int, Tensor]
    """By layer (inner, inner): E[k k^T]; in the processor's memory, as they are large."""
    search: Search
    fill: int
    """A token id to pad with."""
    passes: int
    """How often to search and insert, at most."""
    average_keys: bool
    anchors: int
    anchor_weight: float
    report: Progress
    begun: Begun = field(default_factory=dict)
    controls: Sequence[str] = ()
    """Prompts whose answers shall stay."""
    beside: nn.Module | None = None
    """See `values.search`."""

    def insertion(
        self,
        preserved: Preserved,
        solve: Solve = least_change,
        share: Share = even_share,
    ) -> Insertion:
        """All names at once, with their anchors among the `preserved`."""
        device = self.segment.decoder.device
        beginnings = Beginnings.of(self.task.groups, self.task.demands, self.fill, device)
        made = Insertion(self.segment, self.layers, beginnings, preserved, self.average_keys, solve, share)
        if self.controls:
            rows = rows_of(self.tokenizer, control_texts(self.controls))
            made.protect(rows, CONTROL, self.fill)
        if self.anchors and self.anchor_weight:
            texts = anchor_texts(self.edits, self.anchors, self.begun)
            some = sampled(texts, MOST_BEGUN if self.begun else MOST)
            weight = self.anchor_weight * len(texts) / max(len(some), 1)
            made.anchor(rows_of(self.tokenizer, some, self.site), weight, self.fill)
        return made

    def run(self, insertion: Insertion) -> Changes:
        """Search and insert until every group's goals hold in the changed model, or `passes` times.

        A group whose goals hold leaves, and the rest go on. Once all have left, all are looked at
        again, once, as what was inserted later may have undone what was inserted earlier. What anchors
        keep from going through gets through in time: they give way, more with every pass.
        """
        task, most, top = self.task, self.passes, self.layers[-1]
        everyone = torch.ones(task.groups, dtype=torch.bool, device=self.segment.decoder.device)
        among, checked, bare = everyone, False, task.bare()
        loss = torch.zeros(task.groups, device=among.device)
        steps, norm = torch.zeros_like(loss), torch.zeros_like(loss)
        for number in range(most):
            # The first pass goes most of the way, for which the prompts alone will do.
            asked = bare if number == 0 and most > 1 else task
            told = self.stage("values", number)
            values = search(self.segment, top, asked, self.search, self.fill, told, among, self.beside)
            loss = torch.where(among, values.loss, loss)
            steps += values.steps
            norm = torch.maximum(norm, values.norm)
            left = values.steps > 0
            if left.any():
                if number > FIRM:
                    insertion.preserved.relax(0.5 ** (number - FIRM))
                whole = None if number == 0 else left
                insertion.run(values.delta, self.stage("weights", number), whole)
            elif checked or (among.all() and asked is task):
                break
            else:
                checked = True
            among = left if left.any() else everyone
        return Changes(insertion.factors(), Outcome(number + 1, loss, steps, norm), insertion.missing)

    def stage(self, name: str, number: int) -> Callable[[int, int], None]:
        """One bar for all passes of a stage."""
        return lambda done, total: self.report(name, number * total + done, self.passes * total)
