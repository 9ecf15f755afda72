"""The linear layers of a model, in the two layouts that there are: (out, in), and Conv1D's (in, out)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True, eq=False)
class Linear:
    """One linear layer's weight; the map that it stands for is (outputs, inputs)."""

    name: str
    """Of the weight, as in the model's state."""
    weight: Tensor
    transposed: bool
    """Whether it is stored (inputs, outputs)."""

    @property
    def module(self) -> str:
        """Name of the module that has it."""
        return self.name.removesuffix(".weight")

    @property
    def outputs(self) -> int:
        """Width of what comes out."""
        return self.weight.shape[1 if self.transposed else 0]

    @property
    def inputs(self) -> int:
        """Width of what goes in."""
        return self.weight.shape[0 if self.transposed else 1]

    def turned(self, tensor: Tensor) -> Tensor:
        """From the layout of the weight to (outputs, inputs), or back: both are one step."""
        return tensor.T if self.transposed else tensor


def linears(model: nn.Module) -> dict[str, Linear]:
    """Every linear layer with a plain weight, by the name of its module; quantised ones are left out."""
    found: dict[str, Linear] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | Conv1D):
            continue
        weight = module.weight
        if weight.ndim == 2 and weight.is_floating_point():
            found[name] = Linear(f"{name}.weight", weight, isinstance(module, Conv1D))
    return found
