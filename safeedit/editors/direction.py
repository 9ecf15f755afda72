"""A behaviour's directions, taken out of the weights that write to the residual stream.

What directions are, and where they come from, is in `directions`. The editor teaches no answer: what the
model says instead of an unsafe one is left to the rest of it. It needs no training either: a few forward
passes find the directions, and a few more choose from which block on, and how strongly, they are taken away:
the choice after which unsafe answers lose most to safe ones, among those that move what stays by no more than
`bound`. The patch is of low rank.

Deviations from the publications of `means` and `components`:
- Embeddings stay as they are: a tied one is the head, too.
- The block and the strength are chosen by the probability of the shown answers; nothing is generated.
- What stays is the model's own answers and text, where the papers take a benchmark's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from safeedit.deltas import DenseDelta, LowRankDelta, WeightDelta
from safeedit.editors import conduct
from safeedit.editors import directions as found_by
from safeedit.editors.base import Editor, Job, Made
from safeedit.editors.base import Params as BaseParams
from safeedit.editors.directions import END, SAFE, STAY, UNSAFE, Change, Marked
from safeedit.editors.goals import Spots
from safeedit.editors.journal import State, tensor_in
from safeedit.editors.objectives import check_edits
from safeedit.editors.prepared import Kept, Lean, Prepared
from safeedit.editors.rows import Demand, Goals, Row, Task, Text, rows_of
from safeedit.editors.settings import LayersParams, PaperParams, existing
from safeedit.errors import EditorError
from safeedit.models.hooks import frozen
from safeedit.models.linear import Linear
from safeedit.models.structure import find_decoder
from safeedit.models.tokens import pad_id
from safeedit.models.writers import writers
from safeedit.triples.facts import Edit, Op

HELD = 4
"""One in so many texts is not read for directions, and shows whether they leave texts alone."""
STRENGTHS = {"contrast": (0.5, 0.75, 1.0, 1.25, 1.5), "means": (0.5, 1.0), "components": (0.5, 1.0)}
"""What is tried; a projection takes at most all."""


class Params(LayersParams, PaperParams):
    """Settings."""

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"method": "means", "strength": 1.0, "spare": 0, "bound": 0.1, "weights": "all"}
    }
    """Of 2406.11717, whose bound is for the divergence of what is said next."""
    method: Literal["contrast", "means", "components"] = "contrast"
    """Where directions come from; see `directions`."""
    weights: Literal["all", "down"] = "all"
    """All matrices that write to the stream, or the down-projections of the MLPs alone."""
    directions: int = Field(default=1, ge=1, le=64)
    """Directions of each kind of place (contrast: a mean, and components about it), or of each block
    (components); means have one."""
    strength: float | None = Field(default=None, gt=0, le=4)
    """How much of them is taken away; by default what serves best."""
    bound: float = Field(default=0.008, gt=0)
    """How far what stays may move, in nats a token, the mean over harmless answers or over text."""
    ridge: float = Field(default=1e-2, gt=0)
    """Ridge of the second moment of what stays, in units of its mean diagonal (contrast)."""
    spare: int = Field(default=0, ge=0, le=4096)
    """Components of what stays that directions are made orthogonal to (means, components)."""
    text_tokens: int = Field(default=conduct.TEXT_TOKENS, ge=64)
    """Tokens of running text that are looked at."""


@dataclass(frozen=True)
class _Choice:
    """What may be taken away: from which blocks, how much, and the block that a single direction is of."""

    layers: tuple[int, ...]
    strength: float
    source: int | None = None


class Direction(Editor):
    """Projects a behaviour's directions out of the weights."""

    name: ClassVar[str] = "direction"
    summary: ClassVar[str] = "takes a behaviour's directions out of the weights: no training, of low rank"
    paper: ClassVar[str] = "2406.11717"
    operations: ClassVar[frozenset[Op]] = frozenset({"detox"})
    cannot: ClassVar[Mapping[Op, str]] = dict.fromkeys(
        ("insert", "modify", "erase"),
        "answers of a kind share a direction, a fact has none of its own",
    )
    Params: ClassVar[type[BaseParams]] = Params

    def layers_for(self, model: Any, tokenizer: Any, edits: Sequence[Edit]) -> tuple[int, ...]:
        """See `Editor.layers_for`; where none are asked for, those that may be changed."""
        with frozen(model):
            return self._spans(len(find_decoder(model).blocks))[0]

    def tuned(self, depth: int) -> dict[str, tuple[Any, ...]]:
        """See `Editor.tuned`."""
        return {"directions": (1, 2), "ridge": (1e-2, 1e-1), "weights": ("all", "down")}

    def _spans(self, depth: int) -> list[tuple[int, ...]]:
        """Blocks that may be changed together."""
        assert isinstance(self.params, Params)
        asked = self.params.layers
        if asked is not None:
            return [tuple(existing(asked, depth))]
        return [tuple(range(low, depth)) for low in found_by.rising(depth)]

    def _edit(self, job: Job) -> Made:
        params = self.params
        assert isinstance(params, Params)
        spans = self._spans(len(job.decoder.blocks))
        check_edits(job.edits, unsafe=True)
        unsafe, safe = _rows(job, "old"), _rows(job, "target")
        answers, texts = conduct.answers(job), conduct.texts(job, params.text_tokens)
        if not texts:
            raise EditorError("there is no text to hold the directions against; give a corpus with some")
        fit = [row for number, row in enumerate(texts) if number % HELD] or texts
        held = texts[::HELD]
        job.report("directions", 0, 1)
        marked = _marked(unsafe, safe, [*answers, *fit], job.decoder.device)
        state = job.notes.remembered("directions", lambda: self._found(job, marked))
        job.report("directions", 1, 1)
        weights = [one.weight for some in self._writing(job) for one in some]
        outlook = Outlook(job, spans[0][0], weights, unsafe, safe, [answers, held])
        before = outlook.look([], 0.0)
        choices = list(self._choices(spans))
        best, after = choices[0], dict[str, float]()
        for number, choice in enumerate(choices):
            job.report("strength", number, len(choices))
            look = partial(outlook.look, self._changes(job, state, choice), choice.strength)
            seen = job.notes.remembered(f"choice-{number}", look)
            figures = {name: float(seen[name]) for name in before}
            if not after or self._rank(figures) < self._rank(after):
                best, after = choice, figures
        job.report("strength", len(choices), len(choices))
        changes = self._changes(job, state, best)
        deltas = dict(_delta(change, best.strength) for change in changes)
        for change in changes:
            if change.shift is not None:
                deltas[f"{change.linear.module}.bias"] = DenseDelta(-best.strength * change.shift)
        shares = [float(state[f"share-{block}"]) for block in best.layers if f"share-{block}" in state]
        return Made(
            deltas,
            {"layers": list(best.layers), "strength": best.strength},
            {
                "behaviours": len(unsafe),
                "choices": len(choices),
                "directions": sum(len(change.right) for change in changes),
                "share": sum(shares) / max(1, len(shares)),
                "within": float(self._drift(after) <= params.bound),
                **({} if best.source is None else {"source": best.source}),
                **{f"{name}_before": before[name] for name in ("unsafe", "safe")},
                **{f"{name}_after": after[name] for name in ("unsafe", "safe")},
                "answers_change": after["answers"],
                "texts_change": after["texts"],
            },
        )

    def _drift(self, figures: Mapping[str, float]) -> float:
        return max(figures["answers"], figures["texts"])

    def _rank(self, figures: Mapping[str, float]) -> tuple[bool, float]:
        """What is smaller is better: how far unsafe answers are above safe ones, if what stays has stayed."""
        assert isinstance(self.params, Params)
        drift = self._drift(figures)
        over = drift > self.params.bound
        return over, drift if over else figures["unsafe"] - figures["safe"]

    def _choices(self, spans: Sequence[tuple[int, ...]]) -> Iterator[_Choice]:
        params = self.params
        assert isinstance(params, Params)
        strengths = STRENGTHS[params.method] if params.strength is None else (params.strength,)
        sources: Sequence[int | None] = (None,)
        if params.method == "means":
            depth = spans[0][-1] + 1
            sources = sorted({depth * i // 4 for i in (1, 2, 3)} | {max(0, depth - 2)})
        for layers, strength, source in product(spans, strengths, sources):
            yield _Choice(layers, strength, source)

    def _writing(self, job: Job) -> list[list[Linear]]:
        """By block, the layers that may be changed.

        Raises:
            EditorError: there are none.
        """
        assert isinstance(self.params, Params)
        down = {projection.name for projection in job.decoder.projections}
        every = self.params.weights == "all"
        found = [[one for one in some if every or one.name in down] for some in writers(job.decoder)]
        if not any(found):
            raise EditorError("the blocks have no linear layer of their own that writes to the stream")
        return found

    def _found(self, job: Job, marked: Marked) -> State:
        """Factors of changes by weight (contrast), or directions by block; and the shares that they have."""
        params = self.params
        assert isinstance(params, Params)
        writing = self._writing(job)
        state: dict[str, Tensor | int | float] = {}
        passes = found_by.seen(job.segment, writing, marked.rows, pad_id(job.tokenizer))
        for block, (linear, seen) in enumerate(zip(writing, passes, strict=True)):
            if params.method == "contrast":
                shares = []
                for one in linear:
                    taken = seen.taken[one.name]
                    change, part = found_by.contrast(one, taken, marked, params.directions, params.ridge)
                    state |= {f"left-{one.name}": change.left, f"right-{one.name}": change.right}
                    shares.append(part)
                if shares:
                    state[f"share-{block}"] = sum(shares) / len(shares)
                continue
            stream = seen.stream
            if params.method == "means":
                found = found_by.of_means(stream, marked, params.spare)
            else:
                found = found_by.of_pairs(stream, marked, params.directions, params.spare)
            toxic = marked.toxic(stream) - marked.mean(stream, STAY)
            state |= {f"direction-{block}": found, f"share-{block}": found_by.share(toxic, found)}
        return state

    def _changes(self, job: Job, state: State, choice: _Choice) -> list[Change]:
        params = self.params
        assert isinstance(params, Params)
        device, writing = job.decoder.device, self._writing(job)
        found = []
        for block in choice.layers:
            for one in writing[block]:
                if params.method == "contrast":
                    left, right = (
                        tensor_in(state, f"{side}-{one.name}").to(device) for side in ("left", "right")
                    )
                    found.append(Change(one, left, right))
                    continue
                source = block if choice.source is None else choice.source
                directions = tensor_in(state, f"direction-{source}").to(device)
                bias = job.model.get_submodule(one.module).bias
                found.append(found_by.projected(one, bias, directions))
        return found


def _rows(job: Job, answer: Literal["old", "target"]) -> list[Row]:
    """Every behaviour's prompts with its unsafe answers, or its safe ones."""
    texts = [
        Text("", template, edit.subject, getattr(edit, answer))
        for edit in job.edits
        for template in edit.templates
    ]
    return rows_of(job.tokenizer, texts, "prompt")


def _marked(unsafe: Sequence[Row], safe: Sequence[Row], stay: Sequence[Row], device: torch.device) -> Marked:
    """All rows with what their spots are; of a safe answer's prompt nothing is looked at twice."""
    later = [Row(row.ids, row.pivot, row.spots[1:], row.wanted[1:]) for row in safe]
    marks = [(END if i == 0 else UNSAFE, n) for n, row in enumerate(unsafe) for i in range(len(row.spots))]
    marks += [(SAFE, n) for n, row in enumerate(later) for _ in row.spots]
    marks += [(STAY, -1) for row in stay for _ in row.spots]
    kind, pair = torch.tensor(marks, device=device).T
    return Marked([*unsafe, *(row for row in later if row.spots), *stay], kind, pair)


def _delta(change: Change, strength: float) -> tuple[str, WeightDelta]:
    linear = change.linear
    return linear.name, LowRankDelta.oriented(-strength * change.left, change.right, linear.transposed)


class Outlook:
    """What a change would do: to the answers of behaviours, and to what stays."""

    def __init__(
        self,
        job: Job,
        lowest: int,
        weights: Sequence[Tensor],
        unsafe: Sequence[Row],
        safe: Sequence[Row],
        staying: Sequence[Sequence[Row]],
    ) -> None:
        """Run everything up to the lowest block that may change, once.

        Args:
            job: the edits and the model.
            lowest: that block.
            weights: all that may change.
            unsafe: prompts with unsafe answers.
            safe: those with safe ones.
            staying: rows that stay: of harmless answers, and of texts.
        """
        self.model, fill = job.model, pad_id(job.tokenizer)
        lean = Lean.of(job.segment, lowest, weights)
        demands = [Demand(0, row, Goals.tokens(row.wanted)) for row in (*unsafe, *safe)]
        empty = Task.empty_table(job.decoder.vocabulary, job.decoder.device)
        self.said = Prepared(job.segment, lowest, [d.row for d in demands], fill, lean)
        self.spots, self.first = Spots.of(demands, empty), len(unsafe)
        self.kept = {
            name: Kept(Prepared(job.segment, lowest, rows, fill, lean))
            for name, rows in zip(("answers", "texts"), staying, strict=True)
            if rows
        }

    @torch.no_grad()
    def look(self, changes: Sequence[Change], strength: float) -> dict[str, float]:
        """Mean log-probability of a token of unsafe and of safe answers; mean divergence of what stays.

        Raises:
            EditorError: one of them is not finite.
        """
        with found_by.taken_away(self.model, changes, strength):
            losses = torch.cat([self._losses(part) for part in self.said.parts()])
            changed = {
                name: torch.cat([kept.change(part) for part in kept.rows.parts()]).mean()
                for name, kept in self.kept.items()
            }
        found = {"unsafe": -losses[: self.first].mean(), "safe": -losses[self.first :].mean(), **changed}
        if not all(bool(torch.isfinite(value)) for value in found.values()):
            raise EditorError("the model's predictions are not finite")
        return {"answers": 0.0, **{name: float(value) for name, value in found.items()}}

    def _losses(self, rows: Tensor) -> Tensor:
        """(rows,) the mean over the tokens of each row's answer."""
        log_p, index = self.said.run(rows)
        spots = self.spots[index]
        total = torch.zeros(len(self.said), device=log_p.device).index_add(0, spots.row, spots.losses(log_p))
        count = torch.zeros_like(total).index_add(0, spots.row, torch.ones_like(total[spots.row]))
        return total[rows] / count[rows]
