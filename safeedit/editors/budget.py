"""How much of an edit may be computed at once, for what it takes on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

LEAST = 2**30
"""Bytes that what a backward pass needs may take on any model ..."""
SHARE = 0.1
"""... and where that is more, in units of the model's weights."""


def allowed(model: nn.Module) -> int:
    """Bytes that what a backward pass needs may take."""
    return max(LEAST, int(SHARE * sum(weight.nbytes for weight in model.parameters())))


def kept_by(model: nn.Module, work: Callable[[], Any]) -> int:
    """Bytes that `work`, a forward pass, keeps for its backward pass, beside the model's own tensors."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    # Storages and not their sizes, so that none is freed meanwhile and its address given to another.
    found: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        work()
    return sum(storage.nbytes() for storage in found.values())
