"""LoRA: low-rank adapters on a few linear layers (Hu et al., arXiv 2106.09685).

Trained as FT-M trains whole weights: breadth-first, on the same goals, with the same answers kept,
until every goal holds. The model holds W + B A in its own type while it is trained, so that what is
judged is what the patch makes of it, rounding included, and nothing hangs on a module's own forward.
The price is a gradient of each adapted weight, whole, during a step.

Unlike the paper:
- Steps are in units of the weight's own root mean square: one default fits any model.
- There is no alpha: it scales a step and nothing else, and the step has its unit already.
- There is no dropout: a few dozen steps on a few prompts are stopped early instead.

Adapters are not trained through `peft`: its wrappers change the model, and its import alone takes seconds.
`safeedit.adapters` reads and writes its files instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from safeedit.deltas import LowRankDelta, WeightDelta
from safeedit.editors.base import Job
from safeedit.editors.base import Params as BaseParams
from safeedit.editors.finetune import Erasing, ErasingParams, Named
from safeedit.editors.journal import State
from safeedit.editors.training import Adam, scale
from safeedit.errors import UsageError
from safeedit.models.linear import Linear, linears
from safeedit.models.structure import Decoder

Endings = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


class LoraParams(ErasingParams):
    """Settings of LoRA."""

    rate: float = Field(default=0.015, gt=0)
    """Adam's step of either factor, in units of the root mean square of the weight, or of the factor."""
    rank: int = Field(default=8, ge=1)
    """Columns of each factor."""
    targets: Literal["down", "all"] | Endings = "all"
    """Which linear layers of a block: the MLP's down-projection, all, or those whose names end so."""


class Adapters:
    """Two thin factors for each weight; the weight in the model is what it was, plus their product.

    The map of a weight becomes W + B A, with B (out, rank), which begins at zero, and A (rank, in).
    """

    def __init__(self, layers: Sequence[Linear], rank: int, rate: float, seed: int) -> None:
        self.layers = layers
        self.weights = [layer.weight for layer in layers]
        self.base = [weight.detach().clone() for weight in self.weights]
        self.unit = [scale(base.float()) for base in self.base]
        generator = torch.Generator().manual_seed(seed)
        self.out: list[Tensor] = []
        self.into: list[Tensor] = []
        for layer, weight in zip(layers, self.weights, strict=True):
            # Of this size, a step of B by some amount changes W + B A by about that amount.
            drawn = torch.randn(rank, layer.inputs, generator=generator) / rank**0.5
            self.into.append(drawn.to(weight.device))
            self.out.append(torch.zeros(layer.outputs, rank, device=weight.device))
        units = [*self.unit, *(scale(factor) for factor in self.into)]
        self.adam = Adam([*self.out, *self.into], units, rate)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """One step of the factors, by the chain rule from the gradients of the weights."""
        maps = [layer.turned(g.float()) for layer, g in zip(self.layers, gradients, strict=True)]
        of_out = [g @ a.T for g, a in zip(maps, self.into, strict=True)]
        of_into = [b.T @ g for g, b in zip(maps, self.out, strict=True)]
        self.adam.step([*of_out, *of_into])
        self._write()

    def changes(self) -> list[WeightDelta]:
        """See `Trainable`."""
        return [
            LowRankDelta.oriented(b, a, layer.transposed)
            for b, a, layer in zip(self.out, self.into, self.layers, strict=True)
        ]

    def size(self) -> float:
        """See `Trainable`."""
        return max(float(scale(c) / u) for c, u in zip(self._products(), self.unit, strict=True))

    def state(self) -> dict[str, Tensor | int | float]:
        """See `Trainable`."""
        return self.adam.state()

    @torch.no_grad()
    def restore(self, state: State) -> None:
        """See `Trainable`."""
        self.adam.restore(state)
        self._write()

    def _write(self) -> None:
        for weight, base, change in zip(self.weights, self.base, self._products(), strict=True):
            weight.copy_(base.float() + change)

    def _products(self) -> Iterator[Tensor]:
        factors = zip(self.out, self.into, self.layers, strict=True)
        return (layer.turned(b @ a) for b, a, layer in factors)


class Lora(Erasing):
    """Low-rank adapters, trained on whole targets with answers that stay; exported for PEFT as they are."""

    name: ClassVar[str] = "lora"
    summary: ClassVar[str] = "trains low-rank adapters on whole targets; exports to PEFT without loss"
    paper: ClassVar[str] = "2106.09685"
    Params: ClassVar[type[BaseParams]] = LoraParams

    def tuned(self, depth: int) -> dict[str, tuple[Any, ...]]:
        """See `Editor.tuned`."""
        return {"rate": (0.015, 0.0075, 0.03), "rank": (8, 16)}

    def _usual_layers(self, depth: int, conduct: bool) -> list[int]:
        first = depth // 2 if conduct else max(depth // 2 - 2, 0)
        return list(range(first, min(first + 4, depth)))

    def _weights(self, job: Job, layers: Sequence[int]) -> Named:
        params = self.params
        assert isinstance(params, LoraParams)
        found = adapted(job.decoder, layers, params.targets)
        widest = min(min(one.inputs, one.outputs) for one in found)
        if params.rank > widest:
            raise UsageError(
                f"editor {self.name}: rank: {params.rank} is too large; the narrowest layer has {widest}"
            )
        return [one.name for one in found], Adapters(found, params.rank, params.rate, job.seed)


def adapted(decoder: Decoder, layers: Sequence[int], targets: str | Sequence[str]) -> list[Linear]:
    """The linear layers that get adapters, in the order of the model.

    Args:
        decoder: the model.
        layers: indices of blocks.
        targets: `down`, `all`, or endings of names of modules.

    Raises:
        UsageError: a block has no linear layer, or none with such a name.
    """
    if targets == "down":
        projections = [decoder.projections[layer] for layer in layers]
        return [Linear(p.name, p.weight, p.transposed) for p in projections]
    everywhere = linears(decoder.model)
    inside = {id(module) for layer in layers for module in decoder.blocks[layer].modules()}
    there = [one for name, one in everywhere.items() if id(decoder.model.get_submodule(name)) in inside]
    if targets == "all":
        chosen, missing = there, [] if there else ["all"]
    else:
        chosen = [one for one in there if any(_ends_in(one.module, ending) for ending in targets)]
        missing = [t for t in targets if not any(_ends_in(one.module, t) for one in there)]
    if missing:
        names = sorted({one.module.rpartition(".")[2] for one in there})
        raise UsageError(
            f"targets: no linear layer's name ends in {missing[0]!r} in the chosen blocks; "
            f"there are: {', '.join(names) or 'none'}"
        )
    return chosen


def _ends_in(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")
