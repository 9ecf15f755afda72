"""Training all side memories of an edit: groups of names, the shards of a group, merging, replay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial

import torch
from torch import Tensor

from safeedit.editors.base import Job
from safeedit.editors.journal import Bookmark, State, tensor_in
from safeedit.editors.merging import Rule, merged
from safeedit.editors.objectives import Named
from safeedit.editors.rows import Demand
from safeedit.editors.sharding import divided, in_parts, random_mask
from safeedit.editors.sidetraining import Batch, Result, Training, Way
from safeedit.editors.sightings import Sightings
from safeedit.editors.tables import Table
from safeedit.models.tokens import pad_id

ROWS = 1024
"""Rows of which what does not change is kept together."""


@dataclass(frozen=True)
class Plan:
    """How names are divided and what is made of their changes."""

    way: Way
    merge: Rule
    merge_density: float
    group: int
    """Names of one group, at most."""
    shards: int
    density: float
    replay: bool
    one: bool
    """Whether every group goes on from the change of the one before, so that there is one in the end."""


@dataclass(frozen=True)
class Sides:
    """Trained changes of one weight."""

    changes: Tensor
    """(memories, outer, inner) float32."""
    owner: Tensor
    """(names,) float32, whose memory each name is in."""
    steps: int
    """Most steps that one training took."""
    open: int
    """Names that were not finished."""


def trained_sides(job: Job, named: Named, layer: int, seen: Sightings, plan: Plan) -> Sides:
    """Train the side memories of the module of block `layer`.

    Raises:
        EditorError: a loss or a change is not finite.
    """
    rows: list[list[Demand]] = [[] for _ in named.members]
    for demand in named.task.demands:
        rows[demand.group].append(demand)
    projection = job.decoder.projections[layer]
    device = job.decoder.device
    nothing = torch.zeros(projection.outer, projection.inner, device=device)
    owner = torch.zeros(len(rows), device=device)
    group = _Group(job, layer, seen, plan, rows, named.task.table)
    changes: list[Tensor] = []
    done: list[int] = []
    steps = open_ = 0
    for number, names in enumerate(divided(range(len(rows)), plan.group)):
        job.report("training", len(done), len(rows))
        before = changes[-1] if plan.one and changes else nothing
        change, result = group.train(names, before, done if plan.one else [])
        changes = [change] if plan.one else [*changes, change]
        owner[names] = 0.0 if plan.one else float(number)
        done += names
        steps, open_ = max(steps, result.steps), open_ + result.open
    job.report("training", len(rows), len(rows))
    return Sides(torch.stack(changes), owner, steps, open_)


class _Group:
    """The training of one group's shards, and what is made of them."""

    def __init__(
        self,
        job: Job,
        layer: int,
        seen: Sightings,
        plan: Plan,
        rows: list[list[Demand]],
        table: Tensor | Table,
    ) -> None:
        self.job, self.layer, self.seen, self.plan, self.rows, self.table = (
            job,
            layer,
            seen,
            plan,
            rows,
            table,
        )
        self.generator = torch.Generator().manual_seed(job.seed)
        self.trainings = 0

    def train(self, names: list[int], before: Tensor, fixed: list[int]) -> tuple[Tensor, Result]:
        """The change for some names, on top of that `before`.

        Args:
            names: whose rows are trained.
            before: (outer, inner) the change that there is already.
            fixed: names whose outputs are to stay what they are.
        """
        plan, shards = self.plan, in_parts(names, self.plan.shards)
        batches = [cache(partial(self._batches, shard)) for shard in shards]
        masks: list[Tensor] = []
        changes: list[Tensor] = []
        steps = open_ = 0
        for shard, mine in zip(shards, batches, strict=True):
            mask = random_mask(before.shape[0], before.shape[1], plan.density, self.generator).to(
                before.device
            )
            change, result = self._remembered(shard, mine, before, mask, fixed)
            changes.append(change - before)
            masks.append(mask)
            steps, open_ = max(steps, result.steps), open_ + result.open
        change = before + merged(torch.stack(changes), plan.merge, plan.merge_density, self.generator)
        if plan.replay and len(shards) > 1:
            mask = torch.stack(masks).any(0)
            change, result = self._remembered(
                names, lambda: [batch for mine in batches for batch in mine()], change, mask, fixed
            )
            steps, open_ = steps + result.steps, result.open
        return change, Result(steps, open_)

    def _remembered(
        self,
        names: Sequence[int],
        batches: Callable[[], list[Batch]],
        start: Tensor,
        mask: Tensor,
        fixed: Sequence[int],
    ) -> tuple[Tensor, Result]:
        """As `_trained`; one that an edit which was cut short has done is not done again."""
        name = f"side-{self.trainings}"
        self.trainings += 1

        def run() -> State:
            bookmark = self.job.notes.bookmark(name)
            change, result = self._trained(names, batches(), start, mask, fixed, bookmark)
            return {"change": change, **asdict(result)}

        found = self.job.notes.remembered(f"{name}-done", run)
        change = tensor_in(found, "change").to(start.device)
        return change, Result(int(found["steps"]), int(found["open"]))

    def _batches(self, names: Sequence[int]) -> list[Batch]:
        """Rows of similar length together, so that little is padded."""
        rows = sorted((d for n in names for d in self.rows[n]), key=lambda d: len(d.row.ids))
        fill = pad_id(self.job.tokenizer)
        return [
            Batch(self.job.segment, self.layer, rows[i : i + ROWS], self.table, fill, self.plan.way.whole)
            for i in range(0, len(rows), ROWS)
        ]

    def _trained(
        self,
        names: Sequence[int],
        batches: list[Batch],
        start: Tensor,
        mask: Tensor,
        fixed: Sequence[int],
        bookmark: Bookmark,
    ) -> tuple[Tensor, Result]:
        device = start.device
        place = torch.full((len(self.rows),), -1, device=device)
        place[list(names)] = torch.arange(len(names), device=device)
        held = torch.zeros(len(self.rows), dtype=torch.bool, device=device)
        held[[*names, *fixed]] = True
        mine = held[self.seen.names]
        whose = [place[torch.tensor([d.group for d in b.demands], device=device)] for b in batches]
        unit = self._unit(batches) if self.plan.way.method == "values" else 1.0
        training = Training(
            batches,
            whose,
            self.seen.own[mine],
            place[self.seen.names[mine]],
            unit,
            self.plan.way,
            self.job.seed,
        )
        return training.run(start, mask, bookmark)

    @torch.no_grad()
    def _unit(self, batches: Sequence[Batch]) -> float:
        """Root mean square of the larger of the module's output and, where it is added bare, the stream."""
        projection = self.job.decoder.projections[self.layer]
        taken = torch.cat([batch.inputs[:, 0] for batch in batches]).to(projection.weight.dtype)
        size = projection.module(taken).float().square().mean().sqrt()
        if not projection.after:
            stream = torch.cat([batch.hidden[:, 0] for batch in batches]).float()
            size = torch.maximum(size, stream.square().mean().sqrt())
        return float(size)
