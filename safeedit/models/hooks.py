"""Context managers that watch or replace what modules do, and always put things back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from safeedit.models.positions import within_positions


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """`module` computes `forward` instead of its own; undone on leaving, whatever happened."""
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


@contextmanager
def inputs_of(module: nn.Module, seen: Callable[[Tensor], None]) -> Iterator[None]:
    """`seen` is called with the first input of every call of `module`."""
    handle = module.register_forward_pre_hook(lambda _, args: seen(args[0]))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def adding(module: nn.Module, added: Tensor) -> Iterator[None]:
    """`module` gives `added`, (rows, 1, width), more at its output's first column."""

    def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return torch.cat([output[:, :1] + added, output[:, 1:]], dim=1)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient and the model is in evaluation mode; both are restored after.

    A text that is longer than the model has positions for is refused meanwhile (`within_positions`).
    """
    training = [module for module in model.modules() if module.training]
    asking = [p for p in model.parameters() if p.requires_grad]
    model.eval()
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        with within_positions(model):
            yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


def first_tensor(output: Any) -> Tensor:
    """The hidden states in what a block returned: a tensor in some families, a tuple in others."""
    found = output[0] if isinstance(output, tuple) else output
    if not isinstance(found, torch.Tensor):
        raise TypeError(f"a block returned {type(output).__name__}, not hidden states")
    return found
