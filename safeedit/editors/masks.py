"""Masks over weights that gradient descent can search, and forward passes with them on.

A hard-concrete gate (Louizos, Welling and Kingma, arXiv 1712.01312) is a random number between 0 and
1 that is exactly 0, or exactly 1, with a probability of its own, and moves with one score. Here a gate
says how much of a weight is taken away: at 0 the weight is all there, at 1 it is gone. The model's own
tensors are only read: while a mask is on, the layers compute with products made for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from safeedit.editors.journal import State, numbered, put_back, tensor_in
from safeedit.models.hooks import replaced_forward


@dataclass(frozen=True)
class HardConcrete:
    """The distribution of gates, by their scores."""

    temperature: float = 2 / 3
    low: float = -0.1
    """The unclipped gate reaches from here ..."""
    high: float = 1.1
    """... to here."""

    def score(self, probability: float) -> float:
        """The score of a gate that is more than 0 with this probability."""
        return math.log(probability / (1 - probability)) + self._shift

    def open(self, scores: Tensor) -> Tensor:
        """(same shape) the probability that a gate is more than 0: what sparsity is paid by."""
        return torch.sigmoid(scores - self._shift)

    def sample(self, scores: Tensor, generator: torch.Generator) -> Tensor:
        """(same shape) gates drawn at random.

        What is clipped has the gradient that it would have unclipped: a gate that is shut in nearly every
        drawing would otherwise hardly ever learn what its weight does.

        Args:
            scores: float32.
            generator: on the device of the scores.
        """
        # A number so near to 0 or 1 that its logistic is infinite would stay there for all scores.
        even = torch.rand(scores.shape, generator=generator, device=scores.device).clamp(1e-6, 1 - 1e-6)
        wide = torch.sigmoid((scores + torch.logit(even)) / self.temperature)
        wide = wide * (self.high - self.low) + self.low
        return wide + (wide.clamp(0, 1) - wide).detach()

    def settled(self, scores: Tensor) -> Tensor:
        """(same shape) whether a gate is nearer to 1 than to 0 where nothing is left to chance."""
        return torch.sigmoid(scores) * (self.high - self.low) + self.low > 0.5

    @property
    def _shift(self) -> float:
        return self.temperature * math.log(-self.low / self.high)


Mask = dict[str, Tensor]
"""By the name of a weight, (its shape): which entries go."""


class Gates:
    """A gate for every weight of some linear layers, and the scores that they are drawn by."""

    def __init__(
        self, layers: Mapping[str, nn.Module], law: HardConcrete, probability: float, seed: int
    ) -> None:
        """All gates are open with the same probability."""
        self.layers, self.law = layers, law
        first = law.score(probability)
        self.scores = {
            name: torch.full(weight_of(layer).shape, first, device=weight_of(layer).device)
            for name, layer in layers.items()
        }
        self.size = sum(score.numel() for score in self.scores.values())
        self._random = {
            device: torch.Generator(device).manual_seed(seed)
            for device in sorted({score.device for score in self.scores.values()}, key=str)
        }
        self._momentum = {name: torch.zeros_like(score) for name, score in self.scores.items()}
        self._square, self._steps = 0.0, 0

    def drawn(self, leaves: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """The layers compute with gates drawn anew by the scores `leaves`, which gradients reach."""
        left = {}
        for name, layer in self.layers.items():
            weight, scores = weight_of(layer), leaves[name]
            gone = self.law.sample(scores, self._random[scores.device])
            left[name] = weight * (1 - gone).to(weight.dtype)
        return computing_with(self.layers, left)

    def without(self, removed: Mask) -> AbstractContextManager[None]:
        """The layers compute as if the entries in `removed` were zero."""
        left = {name: weight_of(layer).masked_fill(removed[name], 0) for name, layer in self.layers.items()}
        return computing_with(self.layers, left)

    def settled(self) -> Mask:
        """The entries whose gates are rather open than shut."""
        return {name: self.law.settled(score) for name, score in self.scores.items()}

    def delta(self, name: str, removed: Mask) -> Tensor:
        """What to add to a weight: minus itself where it goes, and the zero that changes no bit elsewhere."""
        wide = weight_of(self.layers[name]).detach().float()
        return torch.where(removed[name], -wide, torch.full_like(wide, -0.0))  # -0.0 + 0.0 would be 0.0

    def share(self, leaves: Mapping[str, Tensor]) -> Tensor:
        """() the share of gates that are expected to be at all open."""
        opened = [self.law.open(leaf).sum() for leaf in leaves.values()]
        return torch.stack([one.to(opened[0].device) for one in opened]).sum() / self.size

    def move(self, gradients: Mapping[str, Tensor], rate: float) -> None:
        """One step of Adam with one scale for all gates, so that those which matter most open first."""
        square = sum(float(g.square().sum()) for g in gradients.values()) / self.size
        self._steps += 1
        self._square = 0.9 * self._square + 0.1 * square
        began = 1 - 0.9**self._steps
        unit = rate / (math.sqrt(self._square / began) + 1e-12) / began
        for name, score in self.scores.items():
            self._momentum[name].mul_(0.9).add_(gradients[name], alpha=0.1)
            score.sub_(self._momentum[name] * unit)

    def state(self) -> dict[str, Tensor | int | float]:
        """All that later moves and drawings depend on."""
        return {
            "gate_steps": self._steps,
            "gate_square": self._square,
            **numbered("score", self.scores.values()),
            **numbered("momentum", self._momentum.values()),
            **numbered("gate_random", (one.get_state() for one in self._random.values())),
        }

    def restore(self, state: State) -> None:
        """Be what gave that state."""
        self._steps, self._square = int(state["gate_steps"]), float(state["gate_square"])
        put_back(state, "score", self.scores.values())
        put_back(state, "momentum", self._momentum.values())
        for number, generator in enumerate(self._random.values()):
            generator.set_state(tensor_in(state, f"gate_random-{number}"))

    def shuffled(self, mask: Mask) -> Mask:
        """As many entries of every weight, at random places."""
        found = {}
        for name, own in mask.items():
            order = torch.randperm(own.numel(), generator=self._random[own.device], device=own.device)
            drawn = torch.zeros_like(own).view(-1)
            drawn[order[: int(own.sum())]] = True
            found[name] = drawn.view_as(own)
        return found


def weight_of(layer: nn.Module) -> Tensor:
    """A linear layer's weight, in its own layout."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def linear_layers(model: nn.Module, blocks: Sequence[nn.Module]) -> dict[str, nn.Module]:
    """The linear layers of some blocks, by the names of their weights in the model's state dict.

    A weight that any two layers share is left out: a mask on it would act outside these blocks.
    """
    users: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            users[id(parameter)] = users.get(id(parameter), 0) + 1
    names = {id(module): name for name, module in model.named_modules()}
    return {
        f"{names[id(module)]}.weight": module
        for block in blocks
        for module in block.modules()
        if type(module) in (nn.Linear, Conv1D) and users.get(id(weight_of(module))) == 1
    }


@contextmanager
def computing_with(layers: Mapping[str, nn.Module], weights: Mapping[str, Tensor]) -> Iterator[None]:
    """The linear layers compute with `weights`, of their weights' shapes, instead of their own."""
    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.enter_context(replaced_forward(layer, _linear(layer, weights[name])))
        yield


def _linear(layer: nn.Module, weight: Tensor) -> Callable[[Tensor], Tensor]:
    bias = layer.bias
    assert bias is None or isinstance(bias, Tensor)
    turned = weight.T if isinstance(layer, Conv1D) else weight  # Conv1D stores (in, out)
    return lambda states: functional.linear(states, turned, bias)
