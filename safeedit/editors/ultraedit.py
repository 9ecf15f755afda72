"""UltraEdit: one backward pass an edit, then least squares (Gu et al., arXiv 2505.14679).

For some tokens of each prompt an edited layer has an input h and a gradient g of the loss by its output.
Both are normalised by the means and spreads of all tokens seen so far (h~, g~), and the layer's change D
is the one that moves its outputs by v = -step |h~|^2 g~, in the sense of least squares:

    min_D  sum_j || D h_j - v_j ||^2  +  ridge || D ||^2,      D = V^T (H H^T + ridge I)^-1 H.

The system is as large as there are tokens, not as the layer is wide, no gradient of a weight is ever
formed, and nothing has to be known beforehand: no key statistics, no search for values.

Means and spreads last a lifetime: a patch has them among its settings (`normaliser`), and given to the
editor of the next patch on top they are continued (`lifelong`).

Deviations, all of them settings (`preset: paper` takes them back):
- v is in units of what the layer gives (`step`): the published 1e-6 (`eta`) fits half-precision models of one
  size. A step that does not lower the edits' loss is halved.
- Small steps are repeated until the goals hold (`turns`); what holds already is asked to stay. One large
  step does far more damage (BENCHMARKS.md).
- Where the model looks facts up at a name's last token, inputs and gradients there are taken, in low
  layers, rather than those of the answer (`tokens`).
- Features are divided by their spread only; taking off their mean as well adds one and the same
  direction to all changes (`centre`).
- Prompts with invented names may be inputs whose outputs gain nothing (`anchors`).
- The ridge is in units of the inputs' mean squared norm (`ridge`; `l2` is the published one).
Only down-projections are changed; the authors choose modules for each model, by no rule that is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from safeedit.editors.anchors import anchor_texts, control_texts, sampled
from safeedit.editors.base import Editor, Job, Made
from safeedit.editors.base import Params as BaseParams
from safeedit.editors.contexts import context_texts
from safeedit.editors.insertion import restored_weights
from safeedit.editors.lifelong import Normaliser, joined_text, parted_text
from safeedit.editors.memit import chosen_layers
from safeedit.editors.objectives import Aim, build_task
from safeedit.editors.prepared import Prepared
from safeedit.editors.rows import Row, Site, rows_of
from safeedit.editors.settings import AnswerParams, ContextParams, ErasureParams, LayersParams, PaperParams
from safeedit.editors.site import Trace, trace_site
from safeedit.editors.training import Asked, Goal
from safeedit.editors.turns import Inputs, Step, Turns
from safeedit.models.hooks import frozen
from safeedit.models.segment import Segment
from safeedit.models.structure import find_decoder
from safeedit.models.tokens import pad_id
from safeedit.triples.facts import Edit, Op

_PAPER: dict[str, Any] = {
    "tokens": "answer",
    "turns": 1,
    "turn_rows": 100,
    "contexts": 0,
    "eta": 1e-6,
    "l2": 1.0,
    "centre": True,
    "anchors": 0,
    "keep_weight": 0.0,
    "end": False,
    "whole": False,
}
_TOKENS: dict[Site, str] = {"subject": "name", "prompt": "answer"}


class Params(LayersParams, AnswerParams, ContextParams, ErasureParams, PaperParams):
    """Settings."""

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": _PAPER}
    instead: ClassVar[Mapping[str, str]] = {"step": "eta", "ridge": "l2"}
    tokens: Literal["auto", "name", "answer"] = "auto"
    """Whose inputs and gradients count: a name's last token, or those that the answer is read off; `auto`
    traces where the model itself looks its facts up."""
    objective: Literal["neutral", "entropy", "refusal"] = "neutral"
    """What an erasure aims at."""
    turns: int = Field(default=40, ge=1, le=1000)
    """How often inputs and gradients are taken and the weights changed, at most."""
    turn_rows: int = Field(default=2048, ge=1)
    """Prompts whose change is found together."""
    step: float = Field(default=0.2, gt=0)
    """Mean change of an output in a turn, in units of the outputs' own norm."""
    eta: float | None = Field(default=None, gt=0)
    """The published step, in no units; it replaces `step` and is taken whatever the loss does."""
    ridge: float = Field(default=3.0, gt=0)
    """Cost of a change's size, in units of the mean squared norm of an input."""
    l2: float | None = Field(default=None, gt=0)
    """That cost as such; replaces `ridge`."""
    centre: bool = False
    """Whether features lose their mean before they are divided by their spread."""
    normaliser: str | None = Field(default=None, pattern="^[A-Za-z0-9+/=]+$")
    """The setting of that name of the patch under this one, so that its means and spreads go on."""
    stop: float = Field(default=0.05, ge=0)
    """Mean loss of a prompt, in nats, at which it is finished."""
    anchors: int = Field(default=1, ge=0, le=50)
    """Invented names, of each of three kinds, for which the edited prompts' outputs shall gain nothing."""
    anchor_weight: float = Field(default=1.0, gt=0)
    """How much such a prompt counts beside one of an edit."""
    keep_weight: float = Field(default=0.0625, ge=0)
    """Weight of leaving the other answers about an edited name as they are."""
    batch_rows: int = Field(default=256, ge=1)
    """Prompts of a backward pass."""


class UltraEdit(Editor):
    """Backward passes and least squares, in a few down-projections."""

    name: ClassVar[str] = "ultraedit"
    summary: ClassVar[str] = "a backward pass an edit, then least squares; needs no statistics and no search"
    paper: ClassVar[str] = "2505.14679"
    operations: ClassVar[frozenset[Op]] = frozenset({"insert", "modify", "erase"})
    cannot: ClassVar[Mapping[Op, str]] = {
        "detox": "its values stand at a subject's last token, and a behaviour has no subject"
    }
    Params: ClassVar[type[BaseParams]] = Params
    learnt: ClassVar[frozenset[str]] = frozenset({"normaliser"})
    """Settings of a patch that hold something of the facts that it edited; an edit without one of them must
    not be given these."""

    def hides(self) -> str | None:
        """See `Editor.hides`."""
        assert isinstance(self.params, Params)
        refuses = self.params.objective == "refusal"
        return "a refusal is put before what the weights still hold" if refuses else super().hides()

    def tuned(self, depth: int) -> dict[str, tuple[Any, ...]]:
        """See `Editor.tuned`."""
        return {"step": (0.2, 0.1, 0.4), "tokens": ("auto", "name", "answer")}

    def layers_for(self, model: Any, tokenizer: Any, edits: Sequence[Edit]) -> tuple[int, ...]:
        """See `Editor.layers_for`; the model is asked where it holds its facts."""
        with frozen(model):
            return tuple(self._place(Segment(find_decoder(model)), tokenizer, edits)[0])

    def _edit(self, job: Job) -> Made:
        """The patch is of low rank while the prompts' tokens in all turns are few."""
        assert isinstance(self.params, Params)
        params, decoder, fill = self.params, job.decoder, pad_id(job.tokenizer)
        layers, traced = self._place(job.segment, job.tokenizer, job.edits)
        site, projections = traced.site, decoder.projections
        widths = [w for layer in layers for w in (projections[layer].inner, projections[layer].outer)]
        normalisers = (
            [Normaliser(width, decoder.device) for width in widths]
            if params.normaliser is None
            else parted_text(params.normaliser, widths, decoder.device)
        )
        contexts = context_texts(job.model, job.tokenizer, params.contexts, params.context_tokens, job.seed)
        aim = Aim(params.objective, ("", *contexts), params.keep_weight, end=params.end, whole=params.whole)
        task = build_task(job.segment, job.tokenizer, job.edits, aim).task
        # At a name's last token its other answers have the key of the edited ones: they are goals there.
        demands = [d for d in task.demands if site == "subject" or not d.keep]
        rows, kept = [d.row for d in demands], [d.keep for d in demands]
        asked = Asked(
            Prepared(job.segment, layers[0], rows, fill),
            demands,
            task.table,
            Goal(params.stop, params.leak, params.neutral_weight),
        )
        others = [d.row for d in task.demands if site == "prompt" and d.keep]
        if params.anchors:
            others += rows_of(job.tokenizer, sampled(anchor_texts(job.edits, params.anchors)))
        places = [_places(row, site) for row in others]
        # Of the caller's own prompts nobody says where their facts are looked up: every token stays.
        controls = rows_of(job.tokenizer, control_texts(job.controls))
        others, places = others + controls, places + [range(len(row.ids)) for row in controls]
        still = Inputs(Prepared(job.segment, layers[0], others, fill), places) if others else None
        step = Step(params.step, params.eta, params.ridge, params.l2, params.anchor_weight, params.centre)
        inputs = Inputs(asked.rows, [_places(row, site) for row in rows])
        pairs = list(zip(normalisers[::2], normalisers[1::2], strict=True))
        turns = Turns(asked, inputs, still, layers, pairs, step, kept)
        with restored_weights(decoder, layers):
            bookmark = job.notes.bookmark("turns")
            taken, outcome = turns.run(
                params.turns, params.turn_rows, params.batch_rows, job.report, bookmark
            )
        return Made(
            {p.name: delta for p, delta in turns.changes()},
            {"layers": layers, "tokens": _TOKENS[site], "normaliser": joined_text(normalisers)},
            {
                "prompts": len(rows) - sum(kept),
                "kept_prompts": len(others) + sum(kept),
                "turns": taken,
                "step_last": turns.length,
                "loss_mean": float(outcome.loss.mean()),
                "loss_max": float(outcome.loss.max()),
                "leak_max": float(outcome.leak.max()),
                "unfinished": int(outcome.open.sum()),
                **({} if traced.carried is None else {"carried": traced.carried}),
            },
        )

    def _place(self, segment: Segment, tokenizer: Any, edits: Sequence[Edit]) -> tuple[list[int], Trace]:
        """Which layers are changed, and by which tokens."""
        assert isinstance(self.params, Params)
        params, depth = self.params, len(segment.decoder.blocks)
        low = self._low(depth)
        if params.tokens == "auto":
            traced = trace_site(segment, tokenizer, edits, low[-1])
        else:
            traced = Trace("subject" if params.tokens == "name" else "prompt", None)
        late = traced.site == "prompt"
        return (chosen_layers(params.layers, depth, late=True) if late else low), traced

    def _low(self, depth: int) -> list[int]:
        """The layers for inputs at a name's last token: by default MEMIT's, but for the first of them.

        There an input is little more than the token itself, so that a change goes to all names with that end.
        """
        assert isinstance(self.params, Params)
        layers = chosen_layers(self.params.layers, depth)
        return layers[1:] if self.params.layers is None and len(layers) > 1 else layers


def _places(row: Row, site: Site) -> Sequence[int]:
    """The tokens of a row whose inputs and gradients count."""
    return (row.pivot,) if site == "subject" else row.spots
