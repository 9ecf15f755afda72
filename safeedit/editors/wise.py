"""WISE (arXiv 2405.14768): a side memory, other weights of one MLP down-projection, for edited inputs alone.

Edits are trained into copies of one weight, each shard of them into a random part of its entries; shards
are merged, and what is merged is one side memory (`retrieve`: several are kept, and an input goes to its
own; `merge`: all become one). An input that is not routed to a memory passes bit for bit.

Beyond the paper, and settings all of them (`preset: paper` gives what was published):
- An input is routed by where it lies in a key space that is fitted to the edits and to invented names
  (`routing`), with a limit for each name between its own inputs and all others. The published score,
  how far the memory moves the output, is `router: activation`; it does not tell a thousand names apart.
- Memories sit at the last token of a subject, a third of the way up, where the paper's sit at whole prompts
  and higher: a phrasing that no edit names has the same subject. Blocks above carry the change on, so that
  no state is kept (`route: token`). `route: sequence` decides for all later tokens of a row, too.
- Names of a shard are trained together. Their wanted moves are put into the shard's entries by least
  squares in each step (`optimiser: values`), where the paper takes plain gradient steps edit by edit.
  Nothing decays. What merging spoilt is trained again (`replay`).
- One shard may change every entry. A random fifth of them (`shards: 2, density: 0.2`) holds as many edits
  only by larger changes, which fit other phrasings less well.
- Margins are in units of the module's own output, and the limit lies between the scores of edits and
  those of other inputs, instead of a share of the lowest score of an edit.
- It makes a model behave: all behaviours share one memory, trained to give safe answers. A prompt is routed
  if a linear filter at its last token tells it from harmless prompts, their answers, and text (`CONDUCT`).
- It erases, by the objectives that MEMIT has (`objectives`), but hides only: the weights, and every prompt
  that is not routed, still have what was erased.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from safeedit.editors.base import Editor, Job, Made
from safeedit.editors.base import Params as BaseParams
from safeedit.editors.conduct import behaviours
from safeedit.editors.contexts import context_texts
from safeedit.editors.goals import Spots
from safeedit.editors.merging import Rule
from safeedit.editors.objectives import Aim, Named, build_task
from safeedit.editors.prepared import Prepared
from safeedit.editors.routing import centres, find_space, highest, limits_of, of_one_kind
from safeedit.editors.rows import Site
from safeedit.editors.settings import AnswerParams, ContextParams, PaperParams, existing
from safeedit.editors.sharded import Plan, Sides, trained_sides
from safeedit.editors.sidetraining import Margins, Way
from safeedit.editors.sightings import Sightings, sighted
from safeedit.errors import EditorError, UsageError
from safeedit.models.hooks import frozen
from safeedit.models.structure import Projection, find_decoder
from safeedit.models.tokens import pad_id
from safeedit.sidememory import SideMemory
from safeedit.triples.facts import Edit, Op

PAPER: dict[str, Any] = {
    "site": "prompt",
    "router": "activation",
    "route": "sequence",
    "optimiser": "sgd",
    "rate": 1.0,
    "steps": 70,
    "stop": 0.02,
    "margin_unit": 1.0,
    "alpha": 5.0,
    "beta": 20.0,
    "gamma": 10.0,
    "shards": 2,
    "density": 0.2,
    "merge_density": 0.53,
    "group": 1000,
    "replay": False,
    "keep_weight": 0.0,
    "end": False,
}
"""Published settings; margins and steps are those for models of 7 billion parameters."""


CONDUCT: dict[str, Any] = {
    "site": "prompt",
    "route": "sequence",
    "group": 1_000_000,
    "contexts": 2,
    "text_tokens": 8192,
    "drop": 0.3,
    "room": 0.85,
}
"""For behaviours, where nothing else is asked for: what is trained must hold for prompts that were not seen,
and there are no names to tell apart. Prompts of the kind read as less the less they are like those shown."""


class WiseParams(ContextParams, AnswerParams, PaperParams):
    """Settings."""

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": PAPER}
    layer: int | None = Field(default=None, ge=1)
    """The block whose down-projection gets a side memory; by default a third up, for prompts two."""
    site: Site = "subject"
    """Where an edit sits: at the last token of its subject, or of its prompt."""
    router: Literal["keys", "activation"] = "keys"
    """What decides whether an input is routed: its place in a key space, or how far a memory moves it."""
    route: Literal["token", "sequence"] = "token"
    """Whether a memory is used for the routed token alone, or for all later ones of its row as well."""
    memory: Literal["retrieve", "merge"] = "retrieve"
    """Whether merged shards stay memories of their own, or all become one."""
    group: int | None = Field(default=None, ge=1)
    """Names in what is merged, at most; by default a sixteenth of the width of the module's input."""
    shards: int = Field(default=1, ge=1, le=64)
    """Shards that are merged into one memory."""
    density: float = Field(default=1.0, gt=0, le=1)
    """Share of the weight's entries that a shard may change."""
    merge: Rule = "ties"
    """How shards are merged."""
    merge_density: float = Field(default=1.0, gt=0, le=1)
    """Share of a shard's own entries that ties and dare-ties keep."""
    replay: bool = True
    """Whether all edits of a memory are trained again once its shards are merged."""
    objective: Literal["neutral", "entropy", "refusal"] = "neutral"
    """What an erasure aims at."""
    optimiser: Literal["auto", "values", "adam", "sgd"] = "auto"
    """How entries are found; auto takes values for keys and tokens, and adam otherwise."""
    steps: int = Field(default=90, ge=1, le=10_000)
    """Steps of a shard's training, and of its replay, at most."""
    rate: float = Field(default=0.2, gt=0)
    """Step size, in units of the stream for values, of half the weight for adam, absolute for sgd."""
    stop: float = Field(default=0.05, ge=0)
    """Loss at every token of an answer, in nats, at which a name is finished."""
    near: float = Field(default=0.25, ge=0)
    """Divergence from what an erasure aims at, in nats at every token, at which it is finished ..."""
    leak: float = Field(default=0.02, ge=0, lt=1)
    """... if the object has no more than this probability."""
    keep_weight: float = Field(default=0.25, ge=0)
    """Weight of leaving the other answers about an edited name as they are."""
    ridge: float = Field(default=1e-3, gt=0)
    """Ridge of the least squares, in units of the mean squared length of an input."""
    batch_rows: int = Field(default=256, ge=1)
    """Prompts trained together, at most."""
    contexts: int = Field(default=6, ge=0, le=100)
    """Sampled texts that a prompt is put behind, besides the bare prompt; for inputs, not for training."""
    context_tokens: int = Field(default=8, ge=1, le=100)
    """Tokens of such a text."""
    anchors: int = Field(default=1, ge=0, le=50)
    """Invented names, of each of three kinds, that each prompt is compared with."""
    text_tokens: int = Field(default=2048, ge=0)
    """Tokens of running text that must not be routed."""
    width: int = Field(default=128, ge=1)
    """Directions of the key space, at most."""
    space_ridge: float = Field(default=0.1, gt=0)
    """Ridge of its variation within names, in units of that variation's mean."""
    room: float = Field(default=0.65, gt=0, lt=1)
    """Share of the way from a name's own inputs to others, in logarithms, at which its limit lies."""
    margin_unit: float | None = Field(default=None, gt=0)
    """Unit of the margins; by default the median length of what the module gives for other inputs."""
    drop: float = Field(default=0.0, ge=0, lt=1)
    """Share of each input's entries that a step does not see (adam, sgd)."""
    alpha: float = Field(default=0.05, ge=0)
    """How far the memory may move other inputs."""
    beta: float = Field(default=0.2, ge=0)
    """How far it shall move edited ones."""
    gamma: float = Field(default=0.1, ge=0)
    """How much further than others."""

    def method(self) -> str:
        """How entries are found, where that is left open."""
        if self.optimiser != "auto":
            return self.optimiser
        return "values" if self.router == "keys" and self.route == "token" else "adam"


class Wise(Editor):
    """Side memories of one weight, and what routes to them."""

    name: ClassVar[str] = "wise"
    summary: ClassVar[str] = "side memories of one weight, for edited names alone; all else bit for bit"
    paper: ClassVar[str] = "2405.14768"
    operations: ClassVar[frozenset[Op]] = frozenset({"insert", "modify", "erase", "detox"})
    beside_weights: ClassVar[bool] = True
    Params: ClassVar[type[BaseParams]] = WiseParams

    def __init__(self, /, **params: Any) -> None:
        """See `Editor`.

        Raises:
            UsageError: as there, and for an optimiser that does not fit how inputs are routed.
        """
        super().__init__(**params)
        self._fitting(self._settings())

    def _fitting(self, settings: WiseParams) -> WiseParams:
        """The settings, if the optimiser fits how inputs are routed."""
        if settings.method() == "values" and (settings.router, settings.route) != ("keys", "token"):
            raise UsageError(
                f"editor {self.name}: optimiser: values is for router keys and route token; use adam or sgd"
            )
        return settings

    def _settings(self) -> WiseParams:
        assert isinstance(self.params, WiseParams)
        return self.params

    def tuned(self, depth: int) -> dict[str, tuple[Any, ...]]:
        """See `Editor.tuned`."""
        usual = self._layer(depth)
        blocks = dict.fromkeys((usual, max(1, usual - 1), min(usual + 1, max(1, depth - 2))))
        return {"layer": tuple(blocks), "room": (0.65, 0.5, 0.8), "steps": (90, 180)}

    def check(self, edits: Sequence[Edit]) -> None:
        """See `Editor.check`; behaviours are routed in another way than facts, so they do not go together."""
        super().check(edits)
        if 0 < len(behaviours(edits)) < len(edits):
            raise UsageError(
                f"editor {self.name}: behaviours and facts cannot share a memory; make a request of each"
            )

    def layers_for(self, model: Any, tokenizer: Any, edits: Sequence[Edit]) -> tuple[int, ...]:
        """See `Editor.layers_for`."""
        with frozen(model):
            return (self._layer(len(find_decoder(model).blocks), edits),)

    def _settled(self, edits: Sequence[Edit]) -> WiseParams:
        """The settings as they are for these edits."""
        params = self._settings()
        if not behaviours(edits):
            return params
        left = {name: value for name, value in CONDUCT.items() if name not in params.model_fields_set}
        return self._fitting(params.model_copy(update=left))

    def _layer(self, depth: int, edits: Sequence[Edit] = ()) -> int:
        params = self._settled(edits)
        layer = params.layer
        if layer is None:
            layer = max(1, min(depth // 3 if params.site == "subject" else 2 * depth // 3, depth - 2))
        # A name's change is carried to the end of its prompt by the blocks above.
        existing([layer], depth, above=1 if params.site == "subject" else 0, setting="layer")
        return layer

    def _edit(self, job: Job) -> Made:
        params = self._settled(job.edits)
        layer = self._layer(len(job.decoder.blocks), job.edits)
        projection = job.decoder.projections[layer]
        aim = Aim(params.objective, ("",), params.keep_weight, params.site, end=params.end)
        named = build_task(job.segment, job.tokenizer, job.edits, aim)
        job.report("inputs", 0, 1)
        contexts = context_texts(job.model, job.tokenizer, params.contexts, params.context_tokens, job.seed)
        whole = params.route == "sequence"
        seen = sighted(job, named, layer, params.site, contexts, params.anchors, params.text_tokens, whole)
        if not all(bool(torch.isfinite(x).all()) for x in (seen.own, seen.strangers, seen.others)):
            raise EditorError("an input of the edited module is not finite")
        job.report("inputs", 1, 1)
        # Training takes long: what cannot be routed is refused before.
        places = _places(params, seen, bool(behaviours(job.edits))) if params.router == "keys" else {}
        made = trained_sides(job, named, layer, seen, self._plan(params, projection, seen))
        router = {"owner": made.owner, **places} if places else _bounds(params, seen, made)
        memory = SideMemory(
            {**_smallest(made.changes), **router}, {"router": params.router, "route": params.route}
        )
        loss, leak, routed = _look(job, layer, memory, named, seen)
        return Made(
            settled={**params.model_dump(mode="json"), "layer": layer, "optimiser": params.method()},
            meta={
                "names": len(named.members),
                "memories": len(memory),
                "steps": made.steps,
                "unfinished": made.open,
                "routed": routed,
                "loss_mean": float(loss.mean()),
                "loss_max": float(loss.max()),
                "leak_max": float(leak.max()),
                "change": _size(made.changes, projection),
            },
            memories={projection.name: memory},
        )

    def _plan(self, params: WiseParams, projection: Projection, seen: Sightings) -> Plan:
        method = params.method()
        margins = None
        if params.router == "activation" and len(seen.others):
            unit = params.margin_unit or float(_given(projection, seen.others).norm(dim=1).median())
            margins = Margins(params.alpha * unit, params.beta * unit, params.gamma * unit, seen.others)
        weight = float(projection.weight.float().square().mean().sqrt())
        way = Way(
            steps=params.steps,
            rate=params.rate * {"values": 1.0, "adam": 0.5 * weight, "sgd": 1.0}[method],
            stop=params.stop,
            near=params.near,
            leak=params.leak,
            batch_rows=params.batch_rows,
            ridge=params.ridge,
            method=method,
            whole=params.route == "sequence",
            margins=margins,
            drop=params.drop,
        )
        return Plan(
            way,
            merge=params.merge,
            merge_density=params.merge_density,
            group=params.group or max(1, projection.inner // 16),
            shards=params.shards,
            density=params.density,
            replay=params.replay,
            one=params.memory == "merge",
        )


def _given(projection: Projection, inputs: Tensor) -> Tensor:
    """(inputs, outer) float32: what the module itself makes of inputs."""
    found: Tensor = projection.module(inputs.to(projection.weight.dtype)).float()
    return found


def _places(params: WiseParams, seen: Sightings, conduct: bool) -> dict[str, Tensor]:
    """The tensors of the memory that inputs are routed by where they lie; of names not yet whose each key is.

    Raises:
        EditorError: what is edited cannot be told from other inputs.
    """
    if conduct:
        return of_one_kind(seen.own, seen.others, params.space_ridge, params.room)
    count = int(seen.names.max()) + 1
    inputs = torch.cat([seen.own, seen.strangers])
    space = find_space(
        inputs, torch.cat([seen.names, count + seen.stranger_names]), params.width, params.space_ridge
    )
    own = space.of(seen.own)
    keys = normalize(centres(own, seen.names), dim=1)
    cosines = (own * keys[seen.names]).sum(1)
    lowest = torch.ones(count, device=own.device).scatter_reduce(0, seen.names, cosines, "amin")
    # Each edited name is one of the others to the rest of them.
    nearest = highest(keys, own, lowest, seen.names)
    if len(seen.others):
        nearest = torch.maximum(nearest, highest(keys, space.of(seen.others), lowest))
    limits = limits_of(lowest, nearest, params.room)
    return {"basis": space.basis.T, "shift": space.shift, "keys": keys.T, "limits": limits}


def _bounds(params: WiseParams, seen: Sightings, made: Sides) -> dict[str, Tensor]:
    """The tensor of the memory that inputs are routed by how far a change moves them."""
    bounds = []
    for number, change in enumerate(made.changes):
        own = torch.linalg.vector_norm(seen.own[made.owner[seen.names] == number] @ change.T, dim=1)
        other = torch.linalg.vector_norm(seen.others @ change.T, dim=1)
        near = float(own.quantile(0.02))
        far = float(other.max()) if len(other) else 0.0
        bounds.append(near - params.room * (near - far) if near > far else near)
    return {"limits": torch.tensor(bounds) * (1 - 1e-4)}


def _smallest(changes: Tensor) -> dict[str, Tensor]:
    """The changes as they are, or in factors where those are exact and smaller."""
    outer, inner = changes.shape[1:]
    if not bool(changes.all()):
        # A masked change has no low rank, so that the search for one is spared.
        return {"change": changes}
    left, size, right = torch.linalg.svd(changes, full_matrices=False)
    rank = max(1, int((size > 1e-6 * size[:, :1].clamp(min=1e-30)).sum(1).max()))
    if rank * (outer + inner) >= outer * inner:
        return {"change": changes}
    return {"left": left[:, :, :rank] * size[:, None, :rank], "right": right[:, :rank]}


def _size(changes: Tensor, projection: Projection) -> float:
    """The largest root mean square of a change, in units of the weight's."""
    weight = projection.weight.float().square().mean().sqrt()
    return float(changes.square().mean((1, 2)).sqrt().max() / weight)


@torch.no_grad()
def _look(
    job: Job, layer: int, memory: SideMemory, named: Named, seen: Sightings
) -> tuple[Tensor, Tensor, float]:
    """(spots,) loss and leak with the memory at its module, found as any input finds it; the share routed.

    Raises:
        EditorError: a loss is not finite.
    """
    demands = [d for d in named.task.demands if not d.keep]
    rows = Prepared(job.segment, layer, [d.row for d in demands], pad_id(job.tokenizer))
    spots = Spots.of(demands, named.task.table)
    losses, leaks = [], []
    detach = memory.put(job.decoder.projections[layer].module, job.model)
    try:
        for part in rows.parts():
            log_p, index = rows.run(part)
            losses.append(spots[index].losses(log_p))
            leaks.append(spots[index].told(log_p)[1])
    finally:
        detach()
    loss = torch.cat(losses)
    if not bool(torch.isfinite(loss).all()):
        raise EditorError("the side memory gives a loss that is not finite")
    tensors = {name: tensor.to(seen.own.device) for name, tensor in memory.tensors.items()}
    routed = memory.routed(tensors, seen.own[: seen.bare]) > 0
    return loss, torch.cat(leaks), float(routed.float().mean())
