"""Fine-tuning of a few down-projections: FT-L and FT-M.

FT-L (Zhu et al., arXiv 2012.00363; Meng et al., arXiv 2202.05262) trains one block, bounds the change
of every weight, and asks for all of a target's tokens at the prompt's last token. FT-M (Wang et al.,
arXiv 2308.07269) trains on the whole target, each token after those before it. Both go breadth-first:
every epoch visits all edits in random mini-batches.

Beyond the papers, and settings all of them:
- Prompts with invented names stay as they are (a KL divergence to what the model said before).
- Training ends as soon as every goal holds.
- Steps and bounds are in units of the weight's own root mean square, layers by depth, so that one
  default fits any model.
- FT-M erases, by the objectives that MEMIT has (`objectives`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from safeedit.editors.anchors import anchor_texts
from safeedit.editors.base import Editor, Job, Made
from safeedit.editors.base import Params as BaseParams
from safeedit.editors.contexts import context_texts
from safeedit.editors.insertion import restored_weights
from safeedit.editors.objectives import Aim, Erasure, build_task
from safeedit.editors.prepared import Kept, Prepared
from safeedit.editors.rows import Demand, rows_of
from safeedit.editors.settings import ContextParams, ErasureParams, LayersParams, existing
from safeedit.editors.training import Asked, Goal, Weights, asking, train
from safeedit.errors import UsageError
from safeedit.models.hooks import frozen
from safeedit.models.structure import find_decoder
from safeedit.models.tokens import pad_id
from safeedit.patch import DenseDelta
from safeedit.triples.facts import Edit, Op


class Params(LayersParams, ContextParams):
    """Settings of both editors."""

    epochs: int = Field(default=40, ge=1, le=10_000)
    """Passes over the edits, at most."""
    batch_rows: int = Field(default=8, ge=1)
    """Prompts of edits in a step."""
    rate: float = Field(default=0.02, gt=0)
    """Adam's step, in units of the weight's root mean square."""
    bound: float | None = Field(default=None, gt=0)
    """Largest change of any one weight, in the same units; None for no bound."""
    stop: float = Field(default=0.3, ge=0)
    """Mean loss of a prompt, in nats, at which it is finished."""
    contexts: int = Field(default=0, ge=0, le=100)
    """Sampled texts that a prompt is put behind, besides the bare prompt."""
    anchors: int = Field(default=1, ge=0, le=50)
    """Invented names, of each of three kinds, whose answers to the edited prompts stay as they are."""
    retain: float = Field(default=1.0, ge=0)
    """Weight of their KL divergence, and of that of the answers an edit asks to keep; 0 for none."""


class FtLParams(Params):
    """Settings of FT-L: as published, a bound and nothing that is kept."""

    epochs: int = Field(default=25, ge=1, le=10_000)
    """Passes over the edits, at most."""
    bound: float | None = Field(default=0.5, gt=0)
    """Largest change of any one weight, in units of the weights' root mean square; None for no bound."""
    anchors: int = Field(default=0, ge=0, le=50)
    """Invented names, of each of three kinds, whose answers to the edited prompts stay as they are."""


class FtMParams(Params, ErasureParams):
    """Settings of FT-M."""

    objective: Erasure = "neutral"
    """What an erasure aims at (`lens` is for MEMIT alone)."""


class _FineTuning(Editor):
    """What both editors share; they differ in blocks, goals and defaults."""

    def layers_for(self, model: Any, tokenizer: Any, edits: Sequence[Edit]) -> tuple[int, ...]:
        """See `Editor.layers_for`."""
        with frozen(model):
            return tuple(self._layers(len(find_decoder(model).blocks)))

    def _edit(self, job: Job) -> Made:
        params = self.params
        assert isinstance(params, Params)
        decoder, segment, tokenizer = job.decoder, job.segment, job.tokenizer
        layers = self._layers(len(decoder.blocks))
        contexts = context_texts(job.model, tokenizer, params.contexts, params.context_tokens, job.seed)
        aim = Aim(self._objective(), ("", *contexts), params.retain)
        task = build_task(segment, tokenizer, job.edits, aim).task
        asked = self._asked([d for d in task.demands if not d.keep])
        kept = [d.row for d in task.demands if d.keep]
        if params.anchors and params.retain:
            kept += rows_of(tokenizer, anchor_texts(job.edits, params.anchors))
        fill, lowest = pad_id(tokenizer), layers[0]
        goals = Asked(
            Prepared(segment, lowest, [d.row for d in asked], fill), asked, task.table, self._goal()
        )
        others = Kept(Prepared(segment, lowest, kept, fill)) if kept and params.retain else None
        trained = [decoder.projections[layer].weight for layer in layers]
        with restored_weights(decoder, layers), asking(trained):
            weights = Weights(trained, params.rate, params.bound)
            epochs, outcome = train(
                goals, others, weights, params.epochs, params.batch_rows, params.retain, job.seed, job.report
            )
        names = [decoder.projections[layer].name for layer in layers]
        return Made(
            {name: DenseDelta(c) for name, c in zip(names, weights.changes(), strict=True)},
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

    def _layers(self, depth: int) -> list[int]:
        assert isinstance(self.params, Params)
        asked = self.params.layers
        return self._usual_layers(depth) if asked is None else existing(asked, depth)

    def _usual_layers(self, depth: int) -> list[int]:
        return [2 * depth // 3]

    def _objective(self) -> Erasure:
        return "neutral"

    def _asked(self, demands: list[Demand]) -> list[Demand]:
        return demands

    def _goal(self) -> Goal:
        assert isinstance(self.params, Params)
        return Goal(self.params.stop)


class FtL(_FineTuning):
    """Constrained fine-tuning of one block, the loss at the prompt's last token."""

    name: ClassVar[str] = "ft-l"
    summary: ClassVar[str] = "fine-tunes one MLP layer within a bound; the target is asked for at one token"
    paper: ClassVar[str] = "2012.00363"
    operations: ClassVar[frozenset[Op]] = frozenset({"insert", "modify"})
    Params: ClassVar[type[BaseParams]] = FtLParams

    def _asked(self, demands: list[Demand]) -> list[Demand]:
        # Every token of the target is asked for at the prompt's last token, as the method's code does.
        return [replace(d, row=replace(d.row, spots=d.row.spots[:1] * len(d.row.spots))) for d in demands]


class FtM(_FineTuning):
    """Fine-tuning of a few blocks on whole targets, with answers that stay."""

    name: ClassVar[str] = "ft-m"
    summary: ClassVar[str] = (
        "fine-tunes a few MLP layers on whole targets; fast, and says unedited answers as before"
    )
    paper: ClassVar[str] = "2308.07269"
    operations: ClassVar[frozenset[Op]] = frozenset({"insert", "modify", "erase"})
    Params: ClassVar[type[BaseParams]] = FtMParams

    def __init__(self, **params: Any) -> None:
        """See `Editor`.

        Raises:
            UsageError: as there, and for the objective `lens`.
        """
        super().__init__(**params)
        assert isinstance(self.params, FtMParams)
        if self.params.objective == "lens":
            raise UsageError(
                f"editor {self.name}: objective: lens is for memit; use neutral, entropy or refusal"
            )

    def _usual_layers(self, depth: int) -> list[int]:
        last = min(max(depth // 2, 2), depth - 1)
        return list(range(max(last - 2, 0), last + 1))

    def _objective(self) -> Erasure:
        assert isinstance(self.params, FtMParams)
        return self.params.objective

    def _goal(self) -> Goal:
        assert isinstance(self.params, FtMParams)
        return Goal(self.params.stop, self.params.leak, self.params.neutral_weight)
