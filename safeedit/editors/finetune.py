"""Fine-tuning of a few down-projections: FT-L and FT-M.

FT-L (Zhu et al., arXiv 2012.00363; Meng et al., arXiv 2202.05262) trains one block, bounds the change
of every weight, and asks for all of a target's tokens at the prompt's last token. FT-M (Wang et al.,
arXiv 2308.07269) trains on the whole target, each token after those before it. Both go breadth-first,
in random mini-batches of all edits (`training`).

Beyond the papers:
- Prompts with invented names stay as they are (a KL divergence to what the model said before).
- Training ends as soon as every goal holds.
- Steps and bounds are in units of the weight's own root mean square, layers by depth, so that one
  default fits any model.
- An epoch leaves most of what is finished out.
- FT-M erases, by the objectives that MEMIT has (`objectives`).
- FT-M takes behaviours away: the safe answers are asked for, whole answers and running text stay (`conduct`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from safeedit.editors.anchors import anchor_texts, control_texts
from safeedit.editors.base import Editor, Job, Made
from safeedit.editors.base import Params as BaseParams
from safeedit.editors.conduct import behaviours, staying
from safeedit.editors.contexts import context_texts
from safeedit.editors.objectives import Aim, Erasure, build_task
from safeedit.editors.prepared import Kept, Lean, Prepared
from safeedit.editors.rows import Demand, Row, rows_of
from safeedit.editors.settings import (
    AnswerParams,
    ConductParams,
    ContextParams,
    ErasureParams,
    LayersParams,
    PaperParams,
    existing,
)
from safeedit.editors.tables import Table
from safeedit.editors.training import Asked, Goal, Trainable, Weights, train, trained
from safeedit.errors import UsageError
from safeedit.models.hooks import frozen
from safeedit.models.structure import find_decoder
from safeedit.models.tokens import pad_id
from safeedit.triples.facts import Edit, Op

Named = tuple[list[str], Trainable]
"""The names of the weights that change, and what changes them."""


class TrainingParams(LayersParams, ContextParams, AnswerParams):
    """Settings of every editor that trains on the goals of edits."""

    epochs: int = Field(default=40, ge=1, le=10_000)
    """Passes over the edits, at most."""
    batch_rows: int = Field(default=8, ge=1)
    """Prompts of edits in a step."""
    rate: float = Field(default=0.02, gt=0)
    """Adam's step, in units of the weight's root mean square."""
    contexts: int = Field(default=0, ge=0, le=100)
    """Sampled texts that a prompt is put behind, besides the bare prompt."""
    anchors: int = Field(default=1, ge=0, le=50)
    """Invented names, of each of three kinds, whose answers to the edited prompts stay as they are."""
    retain: float = Field(default=1.0, ge=0)
    """Weight of their KL divergence, and of that of the answers an edit asks to keep; 0 for none."""


class AskingParams(TrainingParams):
    """Settings of those of them that ask for answers alone."""

    stop: float = Field(default=0.3, ge=0)
    """Mean loss of a prompt, in nats, at which it is finished."""


class ErasingParams(AskingParams, ErasureParams, ConductParams):
    """Settings of those of them that erase and detoxify."""

    objective: Erasure = "neutral"
    """What an erasure aims at (`lens` is for MEMIT alone)."""


_PAPER: dict[str, Any] = {
    "epochs": 25,
    "stop": 0.01,
    "contexts": 0,
    "anchors": 0,
    "retain": 0.0,
    "end": False,
}


class FtLParams(AskingParams, PaperParams):
    """Settings of FT-L: as published, a bound and nothing that is kept."""

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {**_PAPER, "batch_rows": 1}}
    """Steps and the bound stay relative: the published ones belong to the scale of the models there."""
    end: Literal[False] = False
    """Tokens without an order have no end."""

    epochs: int = Field(default=25, ge=1, le=10_000)
    """Passes over the edits, at most."""
    bound: float | None = Field(default=0.5, gt=0)
    """Largest change of any one weight, in units of the weights' root mean square; None for no bound."""
    anchors: int = Field(default=0, ge=0, le=50)
    """Invented names, of each of three kinds, whose answers to the edited prompts stay as they are."""


class FtMParams(ErasingParams, PaperParams):
    """Settings of FT-M."""

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {**_PAPER, "batch_rows": 1, "whole": False}
    }
    """Steps stay relative; of blocks there is one, two thirds up."""

    bound: float | None = Field(default=None, gt=0)
    """Largest change of any one weight, in units of the weights' root mean square; None for no bound."""


@dataclass(frozen=True)
class Wanted:
    """What a training is about."""

    demands: list[Demand]
    table: Tensor | Table
    stops: list[float]
    """The mean loss at which each is finished."""
    kept: list[Row]
    """Rows that stay as they are, as edits ask for it."""


class FineTuning(Editor):
    """What editors that train share; they differ in weights, blocks, goals and defaults."""

    def layers_for(self, model: Any, tokenizer: Any, edits: Sequence[Edit]) -> tuple[int, ...]:
        """See `Editor.layers_for`."""
        with frozen(model):
            return tuple(self._layers(len(find_decoder(model).blocks), edits))

    def _edit(self, job: Job) -> Made:
        params = self.params
        assert isinstance(params, TrainingParams)
        decoder, segment = job.decoder, job.segment
        layers = self._layers(len(decoder.blocks), job.edits)
        wanted = self._wanted(job)
        asked = wanted.demands
        named, others = self._staying(job) if params.retain else ([], [])
        named = [*wanted.kept, *named]
        kept = [*named, *others] if params.retain else []
        names, weights = self._weights(job, layers)
        fill, lowest = pad_id(job.tokenizer), layers[0]
        rows = [*(d.row for d in asked), *kept]
        prepared = Prepared(segment, lowest, rows, fill, Lean.of(segment, lowest, weights.weights))
        goals = self._goals(prepared, wanted)
        staying = Kept(prepared, len(asked), len(asked) + len(named)) if kept else None
        with trained(weights.weights):
            epochs, outcome = train(
                goals,
                staying,
                weights,
                params.epochs,
                params.batch_rows,
                params.retain,
                job.seed,
                job.report,
                job.notes.bookmark("training"),
            )
            made = dict(zip(names, weights.changes(), strict=True))
        return Made(
            made,
            {"layers": layers},
            {
                "prompts": len(asked),
                "kept_prompts": len(kept),
                "epochs": epochs,
                "loss_mean": float(outcome.loss.mean()),
                "loss_max": float(outcome.loss.max()),
                "leak_max": float(outcome.leak.max()),
                "unfinished": int(outcome.open.sum()),
                "change": weights.size(),
            },
        )

    def _wanted(self, job: Job) -> Wanted:
        """What is asked for, and rows of the edits' own that stay."""
        params = self.params
        assert isinstance(params, TrainingParams)
        contexts = context_texts(job.model, job.tokenizer, params.contexts, params.context_tokens, job.seed)
        aim = Aim(self._objective(), ("", *contexts), params.retain, end=params.end, whole=self._whole())
        named = build_task(job.segment, job.tokenizer, job.edits, aim)
        asked = [d for d in named.task.demands if not d.keep]
        return Wanted(
            self._asked(asked),
            named.task.table,
            [self._stop(job.edits[named.members[d.group][0]]) for d in asked],
            [d.row for d in named.task.demands if d.keep],
        )

    def _goals(self, prepared: Prepared, wanted: Wanted) -> Asked:
        """How far the first of the rows are from what is asked of them."""
        return Asked(prepared, wanted.demands, wanted.table, self._goal(), wanted.stops)

    def _staying(self, job: Job) -> tuple[list[Row], list[Row]]:
        """Rows whose predictions stay: of what the caller names, and others."""
        params, tokenizer = self.params, job.tokenizer
        assert isinstance(params, TrainingParams)
        others = rows_of(tokenizer, anchor_texts(job.edits, params.anchors)) if params.anchors else []
        if not behaviours(job.edits):
            return rows_of(tokenizer, control_texts(job.controls)), others
        assert isinstance(params, ConductParams)
        named, more = staying(job, params.answer_tokens, params.text_tokens)
        return named, [*others, *more]

    @abstractmethod
    def _weights(self, job: Job, layers: Sequence[int]) -> Named:
        """The names of the weights that change, and how they do."""

    def _layers(self, depth: int, edits: Sequence[Edit] = ()) -> list[int]:
        assert isinstance(self.params, TrainingParams)
        asked = self.params.layers
        if asked is not None:
            return existing(asked, depth)
        kinds = {edit.op == "detox" for edit in edits} or {False}
        return sorted({layer for kind in kinds for layer in self._usual_layers(depth, kind)})

    @abstractmethod
    def _usual_layers(self, depth: int, conduct: bool) -> list[int]:
        """The blocks of a model of this depth that are changed where none are named.

        Args:
            depth: how many blocks it has.
            conduct: for behaviours, instead of facts.
        """

    def _stop(self, edit: Edit) -> float:
        """The mean loss at which what an edit asks for is finished."""
        assert isinstance(self.params, AskingParams)
        return self.params.stop

    def _objective(self) -> Erasure:
        return "neutral"

    def _whole(self) -> bool:
        return False

    def _asked(self, demands: list[Demand]) -> list[Demand]:
        return demands

    def _goal(self) -> Goal:
        assert isinstance(self.params, AskingParams)
        return Goal(self.params.stop)


class Erasing(FineTuning):
    """Those that erase too, on whole targets, in the middle of the model."""

    operations: ClassVar[frozenset[Op]] = frozenset({"insert", "modify", "erase", "detox"})

    def __init__(self, /, **params: Any) -> None:
        """See `Editor`.

        Raises:
            UsageError: as there, and for the objective `lens`.
        """
        super().__init__(**params)
        if self._objective() == "lens":
            raise UsageError(
                f"editor {self.name}: objective: lens is for memit; use neutral, entropy or refusal"
            )

    def _usual_layers(self, depth: int, conduct: bool) -> list[int]:
        return upper_layers(depth) if conduct else middle_layers(depth)

    def _stop(self, edit: Edit) -> float:
        assert isinstance(self.params, ErasingParams)
        return self.params.safe_stop if edit.op == "detox" else self.params.stop

    def _objective(self) -> Erasure:
        assert isinstance(self.params, ErasingParams)
        return self.params.objective

    def _whole(self) -> bool:
        assert isinstance(self.params, ErasingParams)
        return self.params.whole

    def _goal(self) -> Goal:
        assert isinstance(self.params, ErasingParams)
        return Goal(self.params.stop, self.params.leak, self.params.neutral_weight)


def middle_layers(depth: int) -> list[int]:
    """Blocks for facts."""
    last = min(max(depth // 2, 2), depth - 1)
    return list(range(max(last - 2, 0), last + 1))


def upper_layers(depth: int) -> list[int]:
    """Blocks for behaviours: lower down, a change hangs more on the very words of the examples."""
    return list(range(depth // 2, min(depth // 2 + 3, depth)))


def down_projections(job: Job, layers: Sequence[int], rate: float, bound: float | None) -> Named:
    """The MLPs' last maps of some blocks, trained themselves."""
    projections = [job.decoder.projections[layer] for layer in layers]
    return [p.name for p in projections], Weights([p.weight for p in projections], rate, bound)


class FtL(FineTuning):
    """Constrained fine-tuning of one block, the loss at the prompt's last token."""

    name: ClassVar[str] = "ft-l"
    summary: ClassVar[str] = "fine-tunes one MLP layer within a bound; the target is asked for at one token"
    paper: ClassVar[str] = "2012.00363"
    operations: ClassVar[frozenset[Op]] = frozenset({"insert", "modify"})
    cannot: ClassVar[Mapping[Op, str]] = {
        "erase": "its objective is an answer",
        "detox": "it asks for all tokens of an answer at once, and a safe answer is a sentence",
    }
    Params: ClassVar[type[BaseParams]] = FtLParams

    def tuned(self, depth: int) -> dict[str, tuple[Any, ...]]:
        """See `Editor.tuned`."""
        return {"rate": (0.02, 0.01, 0.04), "bound": (0.5, 0.25, 1.0)}

    def _weights(self, job: Job, layers: Sequence[int]) -> Named:
        assert isinstance(self.params, FtLParams)
        return down_projections(job, layers, self.params.rate, self.params.bound)

    def _usual_layers(self, depth: int, conduct: bool) -> list[int]:
        return [2 * depth // 3]

    def _asked(self, demands: list[Demand]) -> list[Demand]:
        # Every token of the target is asked for at the prompt's last token, as the method's code does.
        return [replace(d, row=replace(d.row, spots=d.row.spots[:1] * len(d.row.spots))) for d in demands]


class FtM(Erasing):
    """Fine-tuning of a few blocks on whole targets, with answers that stay."""

    name: ClassVar[str] = "ft-m"
    summary: ClassVar[str] = (
        "fine-tunes a few MLP layers on whole targets; fast, and says unedited answers as before"
    )
    paper: ClassVar[str] = "2308.07269"
    Params: ClassVar[type[BaseParams]] = FtMParams

    def tuned(self, depth: int) -> dict[str, tuple[Any, ...]]:
        """See `Editor.tuned`."""
        upper = list(range(max(2 * depth // 3 - 2, 0), 2 * depth // 3 + 1))
        return {"rate": (0.02, 0.01, 0.04), "layers": (None, upper)}

    def _usual_layers(self, depth: int, conduct: bool) -> list[int]:
        assert isinstance(self.params, FtMParams)
        return [2 * depth // 3] if self.params.preset else super()._usual_layers(depth, conduct)

    def _weights(self, job: Job, layers: Sequence[int]) -> Named:
        assert isinstance(self.params, FtMParams)
        return down_projections(job, layers, self.params.rate, self.params.bound)
