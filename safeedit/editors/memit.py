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

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from safeedit.editors.anchors import anchor_texts
from safeedit.editors.base import Editor, Progress
from safeedit.editors.base import Params as BaseParams
from safeedit.editors.contexts import context_texts
from safeedit.editors.objectives import Aim, Erasure, Named, build_task
from safeedit.editors.rows import Demand, Row, Site, rows_of
from safeedit.editors.site import trace_site
from safeedit.editors.solve import Factors, Preservation, before_modules, least_change
from safeedit.editors.statistics import Corpus, OwnText, cached_moments
from safeedit.editors.values import Search, Values, search
from safeedit.errors import UsageError
from safeedit.models.hooks import frozen, inputs_of
from safeedit.models.segment import Segment
from safeedit.models.structure import Decoder, Projection, find_decoder
from safeedit.models.tokens import Batch, pad_around, pad_id
from safeedit.patch import DenseDelta, LowRankDelta, Patch
from safeedit.tensors.digest import named_digests, root_digest
from safeedit.triples.facts import Edit, Op

Preset = Literal["gpt2-xl", "gpt-j-6b", "llama-2-7b", "llama-3-8b", "mistral-7b", "qwen2.5-7b"]

_PAPER: dict[str, Any] = {
    "steps": 25,
    "passes": 1,
    "stop": 0.05,
    "contexts": 5,
    "average_keys": True,
    "anchors": 0,
    "site": "subject",
}

PUBLISHED: dict[str, dict[str, Any]] = {
    "gpt2-xl": {"layers": [13, 14, 15, 16, 17], "clamp": 0.75, "decay": 0.5, "preserve": 20_000.0, **_PAPER},
    "gpt-j-6b": {"layers": [3, 4, 5, 6, 7, 8], "clamp": 0.75, "decay": 0.5, "preserve": 15_000.0, **_PAPER},
    "llama-2-7b": {"layers": [4, 5, 6, 7, 8], "clamp": 4.0, "decay": 1e-3, "preserve": 15_000.0, **_PAPER},
    "llama-3-8b": {"layers": [4, 5, 6, 7, 8], "clamp": 0.75, "decay": 0.5, "preserve": 15_000.0, **_PAPER},
    "mistral-7b": {"layers": [4, 5, 6, 7, 8], "clamp": 4.0, "decay": 1e-3, "preserve": 15_000.0, **_PAPER},
    "qwen2.5-7b": {"layers": [4, 5, 6, 7, 8], "clamp": 4.0, "decay": 1e-3, "preserve": 15_000.0, **_PAPER},
}
"""Published layers and strengths (editors' repositories), for those who ask for them by name."""


@dataclass(frozen=True)
class Settled:
    """Settings whose default depends on the site."""

    passes: int
    anchors: int
    leak: float


_AT_SITE: dict[Site, Settled] = {
    "subject": Settled(passes=8, anchors=0, leak=0.05),
    "prompt": Settled(passes=15, anchors=6, leak=0.05),
}


class Params(BaseParams):
    """Settings of MEMIT."""

    layers: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, min_length=1)
    """Blocks that are changed; by default up to five that end at a quarter of the depth."""
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
    stop: float = Field(default=0.15, ge=0)
    """Mean loss, in nats, at which an insertion or modification is finished."""
    leak: float | None = Field(default=None, ge=0, lt=1)
    """Probability of the object, wherever it is asked for, at which an erasure is finished."""
    contexts: int = Field(default=1, ge=0, le=100)
    """Sampled texts that a prompt is put behind, besides the bare prompt."""
    context_tokens: int = Field(default=8, ge=1, le=100)
    """Tokens of such a text."""
    keep_weight: float = Field(default=0.0625, ge=0)
    """Weight of leaving the other answers about an edited name as they are."""
    preserve: float | None = Field(default=None, gt=0)
    """How many observed keys the second moment counts for (lambda); by default half of the keys' width."""
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
            leak=usual.leak if self.leak is None else self.leak,
        )

    def with_preset(self) -> Params:
        """The settings with the preset's values where none was given explicitly."""
        if self.preset is None:
            return self
        published = {k: v for k, v in PUBLISHED[self.preset].items() if k not in self.model_fields_set}
        return self.model_copy(update=published)


@dataclass
class _Sites:
    """The rows at whose pivots the residual stream is changed, up to the pivot's column."""

    batch: Batch
    group: Tensor
    """(rows,) which group a row belongs to."""
    share: Tensor
    """(rows,) square root of a row's part of its group's weight."""


class Memit(Editor):
    """Mass editing by the smallest change of a few down-projections."""

    name: ClassVar[str] = "memit"
    summary: ClassVar[str] = "closed-form change of a few MLP layers; thousands of edits at once"
    paper: ClassVar[str] = "2210.07229"
    operations: ClassVar[frozenset[Op]] = frozenset({"insert", "modify", "erase"})
    Params: ClassVar[type[BaseParams]] = Params

    def edit(
        self,
        model: Any,
        tokenizer: Any,
        edits: Sequence[Edit],
        *,
        corpus: Corpus | OwnText | None = None,
        cache: Path | None = None,
        digests: Mapping[str, str] | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Patch:
        """See `Editor.edit`; the patch is of low rank while the edits are fewer than the keys are wide."""
        self.check(edits)
        assert isinstance(self.params, Params)
        params = self.params.with_preset()
        report = progress or (lambda stage, done, total: None)
        decoder = find_decoder(model)
        depth = len(decoder.blocks)
        at_subject = chosen_layers(params.layers, depth)
        digests = named_digests(model) if digests is None else digests
        fill = pad_id(tokenizer)
        segment = Segment(decoder)
        with frozen(model):
            carried, site = 1.0, params.site
            if site == "auto":
                traced = trace_site(segment, tokenizer, edits, at_subject[-1])
                carried, site = traced.carried, traced.site
            settled = params.at(site)
            layers = at_subject if site == "subject" else chosen_layers(params.layers, depth, late=True)
            moments = cached_moments(
                decoder,
                tokenizer,
                corpus or default_corpus(params.statistics_tokens),
                layers,
                base_digest=root_digest(digests),
                cache=cache,
                progress=lambda done, total: report("statistics", done, total),
            )
            contexts = context_texts(model, tokenizer, params.contexts, params.context_tokens, seed)
            aim = Aim(params.objective, ("", *contexts), params.keep_weight, site)
            named = build_task(segment, tokenizer, edits, aim)
            settings = Search(
                steps=params.steps,
                rate=params.rate,
                clamp=params.clamp,
                decay=params.decay,
                stop=params.stop,
                leak=settled.leak,
                batch_rows=params.batch_rows,
                lens_weight=params.lens_weight if params.objective == "lens" else 0.0,
            )
            preserve = params.preserve or default_preserve(decoder.projections[0].inner)
            kept = {layer: Preservation.of(m, preserve) for layer, m in moments.by_layer.items()}
            insertion = _Insertion(segment, layers, named, kept, params.average_keys, fill)
            if settled.anchors and params.anchor_weight:
                texts = anchor_texts(edits, settled.anchors)
                insertion.anchor(rows_of(tokenizer, texts, site), params.anchor_weight)
            found: list[Values] = []
            with restored_weights(decoder, layers):
                for number in range(settled.passes):
                    values = search(
                        segment,
                        layers[-1],
                        named.task,
                        settings,
                        fill,
                        _stage(report, "values", number, settled.passes),
                    )
                    found.append(values)
                    if not values.steps.any():
                        break
                    insertion.run(values.delta, _stage(report, "weights", number, settled.passes))
                factors = insertion.factors()
        deltas = {
            decoder.projections[layer].name: _delta(decoder, layer, found) for layer, found in factors.items()
        }
        return Patch.of(
            model,
            deltas,
            editor=self.name,
            digests=digests,
            params=params.model_dump(mode="json")
            | asdict(settled)
            | {"layers": layers, "site": site, "seed": seed},
            meta={
                "names": len(named.members),
                "edits": len(edits),
                "statistics_tokens": moments.tokens,
                "passes": len(found),
                "carried_by_subject": carried,
                "loss_mean": float(found[-1].loss.mean()),
                "loss_max": float(found[-1].loss.max()),
                "steps_mean": float(torch.stack([v.steps for v in found]).sum(0).float().mean()),
                "norm_mean": float(found[0].norm.mean()),
                "missing_mean": float(insertion.missing.mean()),
                "missing_max": float(insertion.missing.max()),
            },
        )


def chosen_layers(asked: list[int] | None, depth: int, late: bool = False) -> list[int]:
    """The layers to edit: those asked for, or up to five by depth.

    They end at a quarter of the depth for values at a subject's last token; `late`, for values at a
    prompt's last token, they begin at half of it.

    Raises:
        UsageError: a layer that the model does not have.
    """
    if asked is not None:
        if max(asked) > depth - 2:
            raise UsageError(
                f"layers: {max(asked)} is too large; the model has blocks 0 to {depth - 1}, "
                "and at least one block must lie above an edit"
            )
        return sorted(set(asked))
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


@contextmanager
def restored_weights(decoder: Decoder, layers: Sequence[int]) -> Iterator[None]:
    """The down-projections of `layers` are bit for bit what they were when this is left, in any way."""
    kept = {layer: decoder.projections[layer].weight.detach().clone() for layer in layers}
    try:
        yield
    finally:
        with torch.no_grad():
            for layer, weight in kept.items():
                decoder.projections[layer].weight.copy_(weight)


class _Insertion:
    """Changes the layers one after another until the residual stream holds the values."""

    def __init__(
        self,
        segment: Segment,
        layers: list[int],
        named: Named,
        preserved: dict[int, Preservation],
        average_keys: bool,
        fill: int,
    ) -> None:
        self.segment, self.layers, self.preserved, self.average = segment, layers, preserved, average_keys
        decoder = segment.decoder
        self.groups, self.fill = len(named.members), fill
        self.sites = _sites([d for d in named.task.demands if not d.keep], fill, decoder.device)
        self.originals = {layer: decoder.projections[layer].weight.detach().clone() for layer in layers}
        self.parts: dict[int, list[Factors]] = {layer: [] for layer in layers}
        with torch.no_grad():
            first = layers[0]
            self.entering = segment.run(self.sites.batch, stop=first) if first else None
        self.missing = torch.zeros(self.groups, device=decoder.device)
        """(groups,) what the first insertion left missing, relative to the norm of the value's change."""

    @torch.no_grad()
    def run(self, delta: Tensor, progress: Callable[[int, int], None]) -> None:
        """Change the model's weights so that `delta` (groups, hidden) is added at each group's pivots."""
        segment, sites, top = self.segment, self.sites, self.layers[-1]
        first = self.layers[0]
        wanted = self._at_pivot(self.entering, first, top)[1] + delta[sites.group]
        states = self.entering
        for number, layer in enumerate(self.layers):
            keys, current = self._at_pivot(states, layer, top)
            projection = segment.decoder.projections[layer]
            missing = (wanted - current) / (len(self.layers) - number)
            residual = before_modules(self._values(keys, projection), missing, projection.after)
            factors = least_change(*self._constraints(keys, residual), self.preserved[layer])
            self.parts[layer].append(factors)
            self._write(layer)
            if layer != top:
                states = segment.run(sites.batch, start=layer, stop=layer + 1, hidden=states)
            progress(number + 1, len(self.layers))
        if not self.missing.any():
            left = (wanted - self._at_pivot(self.entering, first, top)[1]).norm(dim=1)
            left = left / delta[sites.group].norm(dim=1).clamp(min=1e-6)
            count = torch.bincount(sites.group, minlength=self.groups)
            self.missing.index_add_(0, sites.group, left).div_(count)

    @torch.no_grad()
    def anchor(self, rows: Sequence[Row], weight: float, batch_rows: int = 512) -> None:
        """Count the keys of `rows` at their pivots among those that are preserved."""
        decoder = self.segment.decoder
        found: dict[int, list[Tensor]] = {layer: [] for layer in self.layers}

        def keep(layer: int) -> Callable[[Tensor], None]:
            return lambda keys: found[layer].append(keys[:, -1].float())

        for start in range(0, len(rows), batch_rows):
            part = rows[start : start + batch_rows]
            ids = [row.ids[: row.pivot + 1] for row in part]
            batch = pad_around(ids, [len(row) - 1 for row in ids], self.fill).to(decoder.device)
            with ExitStack() as stack:
                for layer in self.layers:
                    stack.enter_context(inputs_of(decoder.projections[layer].module, keep(layer)))
                self.segment.run(batch, stop=self.layers[-1] + 1)
        for layer, keys in found.items():
            self.preserved[layer] = self.preserved[layer].with_keys(torch.cat(keys), weight)

    def factors(self) -> dict[int, Factors]:
        """The change of each layer over all insertions."""
        return {layer: _joined(parts) for layer, parts in self.parts.items() if parts}

    def _constraints(self, keys: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        share, group = self.sites.share[:, None], self.sites.group
        if not self.average:
            return keys * share, residual * share

        def mean(rows: Tensor) -> Tensor:
            total = torch.zeros(self.groups, rows.shape[1], device=rows.device)
            return total.index_add_(0, group, rows * share.square())

        return mean(keys), mean(residual)

    def _at_pivot(self, entering: Tensor | None, layer: int, top: int) -> tuple[Tensor, Tensor]:
        """Keys of `layer`, (rows, inner), and the output of block `top`, (rows, hidden), at the pivots."""
        keys: list[Tensor] = []
        handle = self.segment.decoder.projections[layer].module.register_forward_pre_hook(
            lambda _, args: keys.append(args[0][:, -1].float())
        )
        try:
            states = self.segment.run(self.sites.batch, start=layer, stop=top + 1, hidden=entering)
        finally:
            handle.remove()
        return keys[0], states[:, -1].float()

    def _values(self, keys: Tensor, projection: Projection) -> Tensor:
        """What the down-projection makes of keys now, (rows, outer)."""
        found: Tensor = projection.module(keys.to(projection.weight.dtype)).float()
        return found

    def _write(self, layer: int) -> None:
        projection = self.segment.decoder.projections[layer]
        change = projection.oriented(_joined(self.parts[layer]).dense())
        projection.weight.copy_((self.originals[layer].float() + change).to(projection.weight.dtype))


def _stage(report: Progress, name: str, number: int, passes: int) -> Callable[[int, int], None]:
    """One bar for all passes of a stage."""
    return lambda done, total: report(name, number * total + done, passes * total)


def default_preserve(inner: int) -> float:
    """Lambda where none is given, in proportion to the number of directions that a key can have."""
    return inner / 2


def _sites(demands: Sequence[Demand], fill: int, device: torch.device) -> _Sites:
    """Each group's distinct beginnings up to the subject's last token, and how often each is asked for."""
    found: dict[tuple[int, tuple[int, ...]], float] = {}
    for demand in demands:
        start = (demand.group, tuple(demand.row.ids[: demand.row.pivot + 1]))
        found[start] = found.get(start, 0.0) + demand.weight
    totals: dict[int, float] = {}
    for (group, _), weight in found.items():
        totals[group] = totals.get(group, 0.0) + weight
    rows = [list(ids) for _, ids in found]
    batch = pad_around(rows, [len(row) - 1 for row in rows], fill).to(device)
    share = [(weight / totals[group]) ** 0.5 for (group, _), weight in found.items()]
    return _Sites(
        batch, torch.tensor([g for g, _ in found], device=device), torch.tensor(share, device=device)
    )


def _joined(parts: list[Factors]) -> Factors:
    if len(parts) == 1:
        return parts[0]
    return Factors(torch.cat([p.left for p in parts], dim=1), torch.cat([p.right for p in parts], dim=0))


def _delta(decoder: Decoder, layer: int, factors: Factors) -> LowRankDelta | DenseDelta:
    """As factors while they are smaller than the weight, else as the change itself."""
    projection = decoder.projections[layer]
    rank = factors.left.shape[1]
    if rank * (projection.inner + projection.outer) >= projection.inner * projection.outer:
        return DenseDelta(projection.oriented(factors.dense()).contiguous())
    return LowRankDelta.oriented(factors.left, factors.right, projection.transposed)
