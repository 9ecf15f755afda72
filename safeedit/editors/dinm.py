"""DINM: fine-tunes the block where safe and unsafe answers part (Wang et al., arXiv 2403.14472).

For each behaviour the toxic layer is the block behind which the states of its safe and its unsafe answer lie
farthest apart (section 4.1); of that block the MLP's down-projection is trained, so that the safe answer is
said and harmless ones stay (section 4.2): NLL(safe) + KL(before || now), both with their gradients. The
prompt is the same before and after; no system prompt comes with the edit.

States are compared as means over the tokens of an answer, so that neither its length nor padding plays a
part. Norms grow with depth, and the plain distance with them, so that it mostly points to the last blocks;
relative to the size of the states (an option) it can point to the first, where states are hardly more than
the words themselves. Either is a way to choose a block, and no proof of where a behaviour comes from.

Unlike the paper:
- Behaviours with one toxic layer are trained together, breadth-first; layers from the lowest one up, what
  was reached before being looked at again. With ``one_by_one`` each instance is trained by itself.
- What stays are answers to the caller's harmless prompts and running text, not one instruction of a data set.
- An answer ends as the model would end it, and steps are in units of the weight's root mean square.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from safeedit.editors.base import Editor, Job, Made
from safeedit.editors.base import Params as BaseParams
from safeedit.editors.conduct import staying
from safeedit.editors.contexts import context_texts
from safeedit.editors.journal import State
from safeedit.editors.objectives import Aim, Named, build_task, check_edits
from safeedit.editors.prepared import BATCH, Kept, Lean, Prepared
from safeedit.editors.rows import Row, Text, rows_of
from safeedit.editors.settings import (
    AnswerParams,
    ConductParams,
    ContextParams,
    LayersParams,
    PaperParams,
    existing,
)
from safeedit.editors.training import Asked, Goal, Weights, train, trained
from safeedit.errors import EditorError
from safeedit.models.hooks import first_tensor, frozen
from safeedit.models.segment import Segment
from safeedit.models.structure import find_decoder
from safeedit.models.tokens import pad, pad_id
from safeedit.triples.facts import Edit, Op


class Params(LayersParams, ContextParams, AnswerParams, ConductParams, PaperParams):
    """Settings; `layers` are the blocks among which the toxic one is looked for, by default all."""

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "one_by_one": True,
            "steps": 10,
            "batch_rows": 1,
            "edit_weight": 0.1,
            "safe_stop": 1e-4,
            "end": False,
        }
    }
    """Steps stay relative: the published ones belong to the scale of the models there."""
    distance: Literal["plain", "relative"] = "plain"
    """How far apart states are: as they are, or in units of their size."""
    one_by_one: bool = False
    """Whether each behaviour is trained by itself, one after another."""
    steps: int = Field(default=40, ge=1, le=10_000)
    """Passes over the behaviours of a layer, at most; over one, where each is trained by itself."""
    batch_rows: int = Field(default=8, ge=1)
    """Prompts of a step."""
    rate: float = Field(default=0.02, gt=0)
    """Adam's step, in units of the weight's root mean square."""
    edit_weight: float = Field(default=1.0, gt=0)
    """Weight of the safe answers' loss."""
    retain: float = Field(default=1.0, ge=0)
    """Weight of the KL divergence of what stays; 0 for none."""
    contexts: int = Field(default=0, ge=0, le=100)
    """Sampled texts that a prompt is put behind, besides the bare prompt."""


@dataclass(frozen=True)
class Turn:
    """A training of one block."""

    layer: int
    members: list[int]
    """Rows whose answers are asked for, by number."""


class Dinm(Editor):
    """Trains the toxic layer of each behaviour."""

    name: ClassVar[str] = "dinm"
    summary: ClassVar[str] = "finds the layer where safe and unsafe answers part, and trains that one alone"
    paper: ClassVar[str] = "2403.14472"
    operations: ClassVar[frozenset[Op]] = frozenset({"detox"})
    cannot: ClassVar[Mapping[Op, str]] = dict.fromkeys(
        ("insert", "modify", "erase"),
        "its layer is where a safe and an unsafe answer part; a fact has neither",
    )
    Params: ClassVar[type[BaseParams]] = Params

    def tuned(self, depth: int) -> dict[str, tuple[Any, ...]]:
        """See `Editor.tuned`."""
        return {"rate": (0.02, 0.01, 0.04), "retain": (1.0, 3.0), "distance": ("plain", "relative")}

    def layers_for(self, model: Any, tokenizer: Any, edits: Sequence[Edit]) -> tuple[int, ...]:
        """See `Editor.layers_for`."""
        check_edits(edits, unsafe=True)
        with frozen(model):
            segment = Segment(find_decoder(model))
            return tuple(sorted(set(self._toxic(segment, tokenizer, edits))))

    def _edit(self, job: Job) -> Made:
        params = self.params
        assert isinstance(params, Params)
        check_edits(job.edits, unsafe=True)
        toxic = self._toxic(job.segment, job.tokenizer, job.edits)
        contexts = context_texts(job.model, job.tokenizer, params.contexts, params.context_tokens, job.seed)
        aim = Aim("refusal", ("", *contexts), 0.0, end=params.end)
        named = build_task(job.segment, job.tokenizer, job.edits, aim)
        turns = self._turns(named, toxic)
        layers = sorted({turn.layer for turn in turns})
        weights = {
            layer: Weights([job.decoder.projections[layer].weight], params.rate, None) for layer in layers
        }
        asked, kept = self._rows(job, named, weights)
        epochs = 0
        with ExitStack() as stack:
            for mine in weights.values():
                stack.enter_context(trained(mine.weights))
                mine.weights[0].requires_grad_(False)
            for number, turn in enumerate(turns):
                mine = weights[turn.layer]
                mine.weights[0].requires_grad_(True)
                train_it = partial(self._trained, job, number, turn, mine, asked, kept)
                state = job.notes.remembered(f"turn {number} done", train_it)
                mine.restore(state)
                mine.weights[0].requires_grad_(False)
                epochs += int(state["epochs"])
            outcome = asked.look()
            made = {job.decoder.projections[layer].name: w.changes()[0] for layer, w in weights.items()}
        return Made(
            made,
            {"layers": layers},
            {
                "prompts": len(asked.members),
                "kept_prompts": 0 if kept is None else len(kept),
                **{f"toxic_layer_{layer}": toxic.count(layer) for layer in layers},
                "epochs": epochs,
                "loss_mean": float(outcome.loss.mean()),
                "loss_max": float(outcome.loss.max()),
                "unfinished": int(outcome.open.sum()),
                "change": max(w.size() for w in weights.values()),
            },
        )

    def _toxic(self, segment: Segment, tokenizer: Any, edits: Sequence[Edit]) -> list[int]:
        """The toxic layer of each edit."""
        params = self.params
        assert isinstance(params, Params)
        depth = len(segment.decoder.blocks)
        among = list(range(depth)) if params.layers is None else existing(params.layers, depth)
        apart = distances(segment, tokenizer, edits, relative=params.distance == "relative")
        return [among[best] for best in apart[:, among].argmax(1).tolist()]

    def _turns(self, named: Named, toxic: Sequence[int]) -> list[Turn]:
        """What is trained, in order."""
        params = self.params
        assert isinstance(params, Params)
        rows: dict[tuple[int, int], list[int]] = {}
        for number, demand in enumerate(named.task.demands):
            edit = named.members[demand.group][0]
            rows.setdefault((toxic[edit], edit if params.one_by_one else 0), []).append(number)
        if params.one_by_one:
            return [Turn(layer, mine) for (layer, _), mine in sorted(rows.items(), key=lambda i: i[0][1])]
        turns: list[Turn] = []
        for (layer, _), mine in sorted(rows.items()):
            # A later layer's training looks at what the ones before it reached, too.
            turns.append(Turn(layer, [*(turns[-1].members if turns else ()), *mine]))
        return turns

    def _rows(self, job: Job, named: Named, weights: Mapping[int, Weights]) -> tuple[Asked, Kept | None]:
        """What is asked for and what stays, run up to the lowest toxic layer."""
        params = self.params
        assert isinstance(params, Params)
        demands = [replace(demand, weight=params.edit_weight) for demand in named.task.demands]
        mine, others = staying(job, params.answer_tokens, params.text_tokens) if params.retain else ([], [])
        rows = [*(demand.row for demand in demands), *mine, *others]
        lowest = min(weights)
        lean = Lean.of(job.segment, lowest, [w for one in weights.values() for w in one.weights])
        prepared = Prepared(job.segment, lowest, rows, pad_id(job.tokenizer), lean)
        asked = Asked(prepared, demands, named.task.table, Goal(params.safe_stop))
        kept = Kept(prepared, len(demands), len(demands) + len(mine)) if mine or others else None
        return asked, kept

    def _trained(
        self, job: Job, number: int, turn: Turn, weights: Weights, asked: Asked, kept: Kept | None
    ) -> State:
        """What a turn came to."""
        params = self.params
        assert isinstance(params, Params)
        weights.afresh()
        epochs, _ = train(
            asked.only(turn.members),
            kept,
            weights,
            params.steps,
            params.batch_rows,
            params.retain,
            job.seed + number,
            job.report,
            job.notes.bookmark(f"turn {number}"),
        )
        return {"epochs": epochs, **weights.state()}


def distances(segment: Segment, tokenizer: Any, edits: Sequence[Edit], relative: bool) -> Tensor:
    """(edits, blocks) how far apart safe and unsafe answers are behind each block.

    Args:
        segment: runs the model.
        tokenizer: its tokenizer.
        edits: of behaviours, with both answers.
        relative: whether a distance is divided by the mean norm of the two states.

    Raises:
        EditorError: a state is not finite.
    """
    safe, unsafe = (
        torch.cat(list(_means(segment, tokenizer, rows_of(tokenizer, texts))))
        for texts in (
            [Text("", edit.templates[0], edit.subject, edit.target or "") for edit in edits],
            [Text("", edit.templates[0], edit.subject, edit.old or "") for edit in edits],
        )
    )
    apart: Tensor = (safe - unsafe).norm(dim=-1)
    if relative:
        apart = apart / ((safe.norm(dim=-1) + unsafe.norm(dim=-1)) / 2)
    if not torch.isfinite(apart).all():
        raise EditorError("the states of an answer are not finite")
    return apart


@torch.no_grad()
def _means(segment: Segment, tokenizer: Any, rows: Sequence[Row]) -> Iterator[Tensor]:
    """(rows, blocks, hidden_size) the mean state of an answer's tokens behind each block, in parts."""
    decoder = segment.decoder
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        batch = pad([row.ids for row in part], pad_id(tokenizer), "right").to(decoder.device)
        answer = torch.zeros(batch.input_ids.shape, device=decoder.device)
        for number, row in enumerate(part):
            answer[number, row.spots[0] + 1 : len(row.ids)] = 1
        found: list[Tensor] = []

        def keep(_: nn.Module, __: Any, output: Any, answer: Tensor = answer, found: Any = found) -> None:
            total = (first_tensor(output).float() * answer[..., None]).sum(1)
            found.append(total / answer.sum(1)[:, None])

        with ExitStack() as stack:
            for block in decoder.blocks:
                stack.callback(block.register_forward_hook(keep).remove)
            segment.run(batch)
        yield torch.stack(found, 1)
