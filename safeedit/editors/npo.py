"""NPO: what shall go becomes less probable than it was, and no further than that needs.

Negative preference optimisation (Zhang et al., arXiv 2404.05868): for an unsafe answer, or an object,
y after its prompt x, -(2 / beta) log sigmoid(-beta (log p(y | x) - log p0(y | x))), with sums over the tokens
of y. Unlike gradient ascent it is bounded, and its gradient fades once p is well below p0. SimNPO (Fan et
al., arXiv 2410.07163) has no reference, and means over the tokens:
-(2 / beta) log sigmoid(-(beta / |y|) log p(y | x) - gamma).

Of the model before, one number is kept for each answer; there is no second model.

Unlike the papers:
- A few down-projections are trained, as FT-M does it, until the goals hold.
- A behaviour's safe answer is asked for beside: what is merely pushed away leaves an unseen prompt to chance.
- What stays is a KL divergence: of harmless answers and running text; of invented names, for an erasure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from safeedit.editors.base import Job
from safeedit.editors.base import Params as BaseParams
from safeedit.editors.conduct import behaviours
from safeedit.editors.contexts import context_texts
from safeedit.editors.finetune import (
    FineTuning,
    Named,
    TrainingParams,
    Wanted,
    down_projections,
    middle_layers,
    upper_layers,
)
from safeedit.editors.objectives import Aim, build_task, check_edits
from safeedit.editors.prepared import BATCH, Prepared
from safeedit.editors.rows import Demand, Goals, Task, Text, rows_of
from safeedit.editors.settings import ConductParams, PaperParams
from safeedit.editors.tables import Table
from safeedit.editors.training import Asked, Goal, Outcome
from safeedit.triples.facts import Op

USUAL = {"npo": 0.1, "simnpo": 2.5}
"""beta, where none is given."""


class Params(TrainingParams, ConductParams, PaperParams):
    """Settings."""

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"beta": 0.1, "safe_weight": 0.0, "retain": 1.0, "contexts": 0, "anchors": 0, "end": False}
    }
    """Of NPO with a KL term for what stays; steps stay relative."""
    loss: Literal["npo", "simnpo"] = "npo"
    """Against what the model said before, or on the length of the answer."""
    beta: float | None = Field(default=None, gt=0)
    """How soon the loss fades; by default 0.1, and 2.5 for `simnpo`, whose means are of tokens."""
    margin: float = Field(default=0.0, ge=0)
    """gamma of `simnpo`."""
    safe_weight: float = Field(default=1.0, ge=0)
    """Weight of a behaviour's safe answer; 0 for none."""
    drop: float = Field(default=5.0, gt=0)
    """By how many nats an unsafe answer has become less probable when it is finished."""
    retain: float = Field(default=2.0, ge=0)
    """Weight of the KL divergence of what stays: an answer is pushed down as a whole, with much force."""
    leak: float = Field(default=0.05, gt=0, lt=1)
    """Probability of an erased object, all of it, at which it is finished."""


@dataclass(frozen=True)
class Apart(Wanted):
    """What shall no longer be said comes first, then what shall."""

    erased: list[bool]
    """Of each of the former, whether it is an erased object, and not an unsafe answer."""


class Unwanted(Asked):
    """Rows that shall no longer be said, and after them rows that shall."""

    def __init__(self, rows: Prepared, wanted: Apart, params: Params) -> None:
        super().__init__(rows, wanted.demands, wanted.table, Goal(params.safe_stop), wanted.stops)
        self.params = params
        self.goes = self.members < len(wanted.erased)
        with torch.no_grad():
            parts = torch.split(self.members, BATCH)
            self.before = torch.cat([self._said(part, *rows.run(part)) for part in parts])
        erased = torch.zeros_like(self.goes)
        erased[: len(wanted.erased)] = torch.tensor(wanted.erased, device=rows.device)
        self.most = torch.where(erased, math.log(params.leak), self.before - params.drop)

    def judged(self, rows: Tensor, log_p: Tensor, index: Tensor) -> tuple[Tensor, Outcome]:
        """See `Asked`; the loss in an outcome is by how many nats too probable an unwanted answer is."""
        said, goes = self._said(rows, log_p, index), self.goes[rows]
        mean = -said / self.count[rows] - self.floor[rows]
        over = said - self.most[rows]
        total = torch.where(goes, self._pushed(said, rows), mean)
        finished = torch.where(goes, over <= 0, mean <= self.stop[rows])
        loss = torch.where(goes, over.clamp(min=0), mean).detach()
        leak = torch.where(goes, said.exp(), 0.0).detach()
        return (self.weight[rows] * total).mean(), Outcome(loss, leak, ~finished)

    def _said(self, rows: Tensor, log_p: Tensor, index: Tensor) -> Tensor:
        """(rows,) log-probability of each row's whole answer."""
        spots = self.spots[index]
        none = torch.zeros(len(self.count), device=log_p.device)
        return -none.index_add(0, spots.row, spots.losses(log_p))[rows]

    def _pushed(self, said: Tensor, rows: Tensor) -> Tensor:
        """(rows,) the loss of an answer that shall go."""
        params = self.params
        beta = params.beta or USUAL[params.loss]
        if params.loss == "npo":
            return 2 / beta * functional.softplus(beta * (said - self.before[rows]))
        return 2 / beta * functional.softplus(beta / self.count[rows] * said + params.margin)


class Npo(FineTuning):
    """Makes what shall go improbable, by its ratio to what it was."""

    name: ClassVar[str] = "npo"
    summary: ClassVar[str] = (
        "pushes unsafe answers and erased objects down, no further than needed (NPO, SimNPO)"
    )
    paper: ClassVar[str] = "2404.05868"
    operations: ClassVar[frozenset[Op]] = frozenset({"erase", "detox"})
    cannot: ClassVar[Mapping[Op, str]] = dict.fromkeys(
        ("insert", "modify"), "it lowers what a model says; it teaches no fact"
    )
    Params: ClassVar[type[BaseParams]] = Params

    def tuned(self, depth: int) -> dict[str, tuple[Any, ...]]:
        """See `Editor.tuned`."""
        return {"rate": (0.02, 0.01, 0.04), "drop": (5.0, 10.0), "retain": (2.0, 5.0)}

    def _wanted(self, job: Job) -> Wanted:
        params, tokenizer = self.params, job.tokenizer
        assert isinstance(params, Params)
        check_edits(job.edits, unsafe=True)
        found = context_texts(job.model, tokenizer, params.contexts, params.context_tokens, job.seed)
        contexts = ("", *found)
        asked = [
            (edit.op == "erase", Text(context, template, edit.subject, edit.old or ""))
            for edit in job.edits
            for template in edit.templates
            for context in contexts
        ]
        rows = rows_of(tokenizer, [text for _, text in asked])
        demands = [Demand(0, row, Goals.tokens(row.wanted)) for row in rows]
        table: Tensor | Table = Task.empty_table(job.decoder.vocabulary, job.decoder.device)
        mended = behaviours(job.edits) if params.safe_weight else []
        if mended:
            aim = Aim("refusal", contexts, 0.0, end=params.end)
            task = build_task(job.segment, tokenizer, mended, aim).task
            demands += [replace(demand, weight=params.safe_weight) for demand in task.demands]
            table = task.table
        keeps = [Text("", template, edit.subject) for edit in job.edits for template in edit.keep]
        kept = rows_of(tokenizer, list(dict.fromkeys(keeps))) if params.retain else []
        stops = [params.safe_stop] * len(demands)
        return Apart(demands, table, stops, kept, [erased for erased, _ in asked])

    def _goals(self, prepared: Prepared, wanted: Wanted) -> Asked:
        assert isinstance(wanted, Apart)
        assert isinstance(self.params, Params)
        return Unwanted(prepared, wanted, self.params)

    def _usual_layers(self, depth: int, conduct: bool) -> list[int]:
        return upper_layers(depth) if conduct else middle_layers(depth)

    def _weights(self, job: Job, layers: Sequence[int]) -> Named:
        assert isinstance(self.params, Params)
        return down_projections(job, layers, self.params.rate, None)
