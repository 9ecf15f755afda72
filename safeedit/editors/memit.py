"""MEMIT: mass editing of a transformer's memory (Meng et al., arXiv 2210.07229).

First a value is searched for every edited name at the last of the layers (`values`), then the
down-projections of the layers are changed, from the lowest up, each by its share of what is still
missing, so that the residual stream at the names' last tokens takes those values (`solve`).

Deviations from the published method, all of them settings:
- All edits of one name share one value; keys are not averaged over contexts but each is a
  constraint of its own with its part of the weight (`average_keys` restores the average).
- Erasure has objectives of its own (`objectives`).
- Strengths are relative to the norm of the model's hidden states, layers to its depth, so that no
  table of model names is needed; `preset` gives the published settings by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from safeedit.editors.base import Editor, Job, Made
from safeedit.editors.base import Params as BaseParams
from safeedit.editors.contexts import context_texts
from safeedit.editors.insertion import delta_of, restored_weights
from safeedit.editors.objectives import Aim, Erasure, build_task
from safeedit.editors.passes import Changes, Work
from safeedit.editors.preserving import Preserved
from safeedit.editors.rows import Site
from safeedit.editors.settings import AnswerParams, ContextParams, ErasureParams, LayersParams, existing
from safeedit.editors.site import Trace, trace_site
from safeedit.editors.solve import Preservation
from safeedit.editors.statistics import Corpus, cached_moments
from safeedit.editors.values import Search
from safeedit.errors import UsageError
from safeedit.models.hooks import frozen
from safeedit.models.segment import Segment
from safeedit.models.structure import find_decoder
from safeedit.models.tokens import pad_id
from safeedit.tensors.digest import root_digest
from safeedit.triples.facts import Edit, Op

Preset = Literal["paper", "gpt2-xl", "gpt-j-6b", "llama-2-7b", "llama-3-8b", "mistral-7b", "qwen2.5-7b"]

_PAPER: dict[str, Any] = {
    "steps": 25,
    "passes": 1,
    "stop": 0.05,
    "contexts": 5,
    "context_tokens": 8,
    "average_keys": True,
    "essence": True,
    "anchors": 0,
    "site": "subject",
    "end": False,
    "whole": False,
}

PUBLISHED: dict[str, dict[str, Any]] = {
    "paper": {"clamp": 0.75, "decay": 0.5, "preserve": 15_000.0, **_PAPER},
    "gpt2-xl": {"layers": [13, 14, 15, 16, 17], "clamp": 0.75, "decay": 0.5, "preserve": 20_000.0, **_PAPER},
    "gpt-j-6b": {"layers": [3, 4, 5, 6, 7, 8], "clamp": 0.75, "decay": 0.5, "preserve": 15_000.0, **_PAPER},
    "llama-2-7b": {"layers": [4, 5, 6, 7, 8], "clamp": 4.0, "decay": 1e-3, "preserve": 15_000.0, **_PAPER},
    "llama-3-8b": {"layers": [4, 5, 6, 7, 8], "clamp": 0.75, "decay": 0.5, "preserve": 15_000.0, **_PAPER},
    "mistral-7b": {"layers": [4, 5, 6, 7, 8], "clamp": 4.0, "decay": 1e-3, "preserve": 15_000.0, **_PAPER},
    "qwen2.5-7b": {"layers": [4, 5, 6, 7, 8], "clamp": 4.0, "decay": 1e-3, "preserve": 15_000.0, **_PAPER},
}
"""Published layers and strengths (editors' repositories), for those who ask for them by name; `paper` has
those of the publication, with layers by depth."""


@dataclass(frozen=True)
class Settled:
    """Settings whose default depends on the site."""

    passes: int
    anchors: int


_AT_SITE: dict[Site, Settled] = {
    "subject": Settled(passes=8, anchors=0),
    "prompt": Settled(passes=15, anchors=8),
}


class Params(LayersParams, ContextParams, AnswerParams, ErasureParams):
    """Settings of MEMIT."""

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = PUBLISHED

    site: Literal["auto", "subject", "prompt"] = "auto"
    """Where in a prompt values are put; `auto` traces where the model itself looks its facts up."""
    preset: Preset | None = None
    """Published settings of a model; they replace the defaults, and explicit settings replace them."""
    objective: Erasure = "neutral"
    """What an erasure aims at."""
    steps: int = Field(default=8, ge=1, le=1000)
    """Steps of the search for values in each pass, at most."""
    rate: float = Field(default=0.3, gt=0)
    """Step size, in units of the hidden state's root mean square."""
    clamp: float = Field(default=0.5, gt=0)
    """Largest change of the hidden state at a name's last token, relative to its norm."""
    decay: float = Field(default=0.05, ge=0)
    """Weight of the squared relative size of that change."""
    stop: float = Field(default=0.08, ge=0)
    """Mean loss, in nats, at which an insertion or modification is finished."""
    keep_weight: float = Field(default=0.0625, ge=0)
    """Weight of leaving the other answers about an edited name as they are."""
    essence: bool = False
    """Whether what a name is said to be ("... is a") is one of those answers, for insert and modify."""
    preserve: float | None = Field(default=None, gt=0)
    """How many observed keys the second moment counts for (lambda); by default the keys' width."""
    anchors: int | None = Field(default=None, ge=0, le=50)
    """Invented names, of each of three kinds, whose keys in the edited prompts are kept for every edit."""
    anchor_weight: float = Field(default=1.0, ge=0)
    """How much such a key counts, beside 1 for all keys of an edited name together."""
    average_keys: bool = False
    """Average the keys of a name over its contexts, as published, instead of constraining each."""
    passes: int | None = Field(default=None, ge=1, le=100)
    """How often values are searched and inserted; each pass works on what is still wrong after the last."""
    lens_weight: float = Field(default=1.0, ge=0)
    """Weight of the logit-lens term of the objective `lens`."""
    statistics_tokens: int = Field(default=200_000, ge=1)
    """Tokens over which key statistics are taken, at most."""
    batch_rows: int = Field(default=512, ge=1)
    """Rows searched together."""

    def at(self, site: Site) -> Settled:
        """What is used at a site, where nothing else was asked for; by measurement (BENCHMARKS.md)."""
        usual = _AT_SITE[site]
        return Settled(
            passes=usual.passes if self.passes is None else self.passes,
            anchors=usual.anchors if self.anchors is None else self.anchors,
        )


class Memit(Editor):
    """Mass editing by the smallest change of a few down-projections."""

    name: ClassVar[str] = "memit"
    summary: ClassVar[str] = "closed-form change of a few MLP layers; thousands of edits at once"
    paper: ClassVar[str] = "2210.07229"
    operations: ClassVar[frozenset[Op]] = frozenset({"insert", "modify", "erase"})
    cannot: ClassVar[Mapping[Op, str]] = {
        "detox": "its values stand at a subject's last token, and a behaviour has no subject"
    }
    Params: ClassVar[type[BaseParams]] = Params

    def layers_for(self, model: Any, tokenizer: Any, edits: Sequence[Edit]) -> tuple[int, ...]:
        """See `Editor.layers_for`; the model is asked where it holds its facts."""
        assert isinstance(self.params, Params)
        with frozen(model):
            segment = Segment(find_decoder(model))
            return tuple(_place(segment, tokenizer, edits, self.params)[0])

    def hides(self) -> str | None:
        """See `Editor.hides`."""
        assert isinstance(self.params, Params)
        refuses = self.params.objective == "refusal"
        return "a refusal is put before what the weights still hold" if refuses else super().hides()

    def tuned(self, depth: int) -> dict[str, tuple[Any, ...]]:
        """See `Editor.tuned`."""
        places = [chosen_layers(None, depth), chosen_layers(None, depth, late=True)]
        return {
            "layers": (None, *(place for place in places if place)),
            "clamp": (0.5, 0.35, 0.75),
            "anchors": (None, 4),
        }

    def _edit(self, job: Job) -> Made:
        """The patch is of low rank while the edits are fewer than the keys are wide."""
        assert isinstance(self.params, Params)
        params, decoder, report = self.params, job.decoder, job.report
        layers, traced = _place(job.segment, job.tokenizer, job.edits, params)
        site, settled = traced.site, params.at(traced.site)
        moments = cached_moments(
            decoder,
            job.tokenizer,
            job.corpus or default_corpus(params.statistics_tokens),
            layers,
            base_digest=root_digest(job.digests),
            basis=job.basis,
            cache=job.cache,
            progress=lambda done, total: report("statistics", done, total),
        )
        contexts = context_texts(job.model, job.tokenizer, params.contexts, params.context_tokens, job.seed)
        aim = Aim(
            params.objective,
            ("", *contexts),
            params.keep_weight,
            site,
            params.essence,
            params.end,
            params.whole,
        )
        named = build_task(job.segment, job.tokenizer, job.edits, aim)
        settings = Search(
            steps=params.steps,
            rate=params.rate,
            clamp=params.clamp,
            decay=params.decay,
            stop=params.stop,
            leak=params.leak,
            batch_rows=params.batch_rows,
            neutral_weight=params.neutral_weight,
            lens_weight=params.lens_weight if params.objective == "lens" else 0.0,
        )
        work = Work(
            segment=job.segment,
            tokenizer=job.tokenizer,
            edits=job.edits,
            task=named.task,
            layers=layers,
            site=site,
            moments=moments.by_layer,
            search=settings,
            fill=pad_id(job.tokenizer),
            passes=settled.passes,
            average_keys=params.average_keys,
            anchors=settled.anchors,
            anchor_weight=params.anchor_weight,
            report=report,
            begun=named.begun,
            controls=job.controls,
        )
        with restored_weights(decoder, layers):
            changes = self._change(work)
        outcome = changes.outcome
        return Made(
            {
                decoder.projections[layer].name: delta_of(decoder.projections[layer], found)
                for layer, found in changes.factors.items()
            },
            params.model_dump(mode="json") | asdict(settled) | {"layers": layers, "site": site},
            {
                "names": len(named.members),
                "statistics_tokens": moments.tokens,
                "passes": outcome.passes,
                "loss_mean": float(outcome.loss.mean()),
                "loss_max": float(outcome.loss.max()),
                "steps_mean": float(outcome.steps.float().mean()),
                "norm_mean": float(outcome.norm.mean()),
                "missing_mean": float(changes.missing.mean()),
                "missing_max": float(changes.missing.max()),
            }
            | ({} if traced.carried is None else {"carried_by_subject": traced.carried}),
        )

    def _change(self, work: Work) -> Changes:
        """Change the layers' weights so that the goals hold; editors of this kind differ here."""
        return work.run(work.insertion(self._preserved(work)))

    def _preserved(self, work: Work) -> Preserved:
        assert isinstance(self.params, Params)
        weight = self.params.preserve

        def base(layer: int, moment: Tensor) -> Preservation:
            return Preservation.of(moment, weight or default_preserve(len(moment)))

        return Preserved(work.moments, base, work.segment.decoder.device)


def _place(
    segment: Segment, tokenizer: Any, edits: Sequence[Edit], params: Params
) -> tuple[list[int], Trace]:
    """Which layers are changed, and where in a prompt values are put."""
    depth = len(segment.decoder.blocks)
    layers = chosen_layers(params.layers, depth)
    if params.site == "auto":
        traced = trace_site(segment, tokenizer, edits, layers[-1])
    else:
        traced = Trace(params.site, None)
    return chosen_layers(params.layers, depth, late=traced.site == "prompt"), traced


def chosen_layers(asked: list[int] | None, depth: int, late: bool = False) -> list[int]:
    """The layers to edit: those asked for, or up to five by depth.

    They end at a quarter of the depth for values at a subject's last token; `late`, for values at a
    prompt's last token, they begin at half of it.

    Raises:
        UsageError: a layer that the model does not have.
    """
    if asked is not None:
        return existing(asked, depth, above=1)
    if depth < 2:
        raise UsageError("the model has a single block; at least one block must lie above an edit")
    if late:
        return list(range(min(depth // 2, depth - 2), min(depth // 2 + 5, depth - 1)))
    last = max(depth // 4, min(2, depth - 2))
    return list(range(max(0, last - 4), last + 1))


def default_corpus(max_tokens: int) -> Corpus:
    """The reference world's text."""
    from safeedit.world.corpus import statistics_texts

    return Corpus(statistics_texts(), max_tokens=max_tokens)


def default_preserve(inner: int) -> float:
    """Lambda where none is given, in proportion to the number of directions that a key can have."""
    return float(inner)
